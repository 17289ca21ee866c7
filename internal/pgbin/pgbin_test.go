package pgbin_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/pgbin"
)

func TestMissing(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(pgbin.Env, "")
	_, err := pgbin.Find()
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "POSTGRES-MISSING" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	t.Setenv(pgbin.Env, t.TempDir())
	_, err = pgbin.Find()
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "POSTGRES-UNUSABLE" {
		t.Errorf("got %v", err)
	}
}

// A server survives a kill and an orderly stop, also with programs in a folder that its user may not enter.
func TestServer(t *testing.T) {
	programs, err := pgbin.Find()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	closed := filepath.Join(t.TempDir(), "postgres-closed")
	if err := os.CopyFS(closed, os.DirFS(programs.Path(".."))); err != nil {
		t.Fatal(err)
	}
	t.Setenv(pgbin.Env, filepath.Join(closed, "bin"))
	if programs, err = pgbin.Find(); err != nil {
		t.Fatal(err)
	}
	s, err := programs.Init(ctx, "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(ctx, "createdb", "x"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){s.Kill, s.Stop} {
		end()
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Run(ctx, "psql", "-d", "x", "-Atc", "SELECT current_database()"); err != nil || strings.TrimSpace(out) != "x" {
			t.Fatalf("%q, %v", out, err)
		}
	}
}
