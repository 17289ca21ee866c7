package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/store/pgstore"
)

// execute runs a command of global-cp and returns what it printed.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func wantFault(t *testing.T, err error, code string) {
	t.Helper()
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != code || f.Try == "" {
		t.Errorf("want %s, got %v", code, err)
	}
}

// readiness asks a global whether it is ready, and why not.
func readiness(t *testing.T, at addresses) telemetry.Readiness {
	t.Helper()
	res, err := http.Get("http://" + at.API + "/readyz") //nolint:noctx // on loopback
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var r telemetry.Readiness
	if err := json.NewDecoder(res.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDatabase(t *testing.T) {
	server, err := pgbin.Run(t.Context(), "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(server.Password()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := testSettings(t)
	s.Database.URL, s.Database.PasswordFile = server.URL("postgres"), password
	flags := []string{"--database-url", s.Database.URL, "--database-password-file", password}

	err = serve(t.Context(), s, &output{}, &output{}, nil)
	wantFault(t, err, "DATABASE-SCHEMA")
	_, err = execute(t, "migrate")
	wantFault(t, err, "DATABASE-NONE")
	out, err := execute(t, append([]string{"migrate", "--dry-run"}, flags...)...)
	if err != nil || !strings.Contains(out, "would go from step 0") {
		t.Errorf("a dry run: %q, %v", out, err)
	}
	out, err = execute(t, append([]string{"migrate", "-o", "json"}, flags...)...)
	var m pgstore.Migration
	if err != nil || json.Unmarshal([]byte(out), &m) != nil || len(m.Steps) != m.To || m.To == 0 {
		t.Errorf("migrate: %q, %v", out, err)
	}
	out, err = execute(t, append([]string{"migrate"}, flags...)...)
	if err != nil || !strings.Contains(out, "up to date") {
		t.Errorf("again: %q, %v", out, err)
	}

	// Two replicas: each its own folder, the authority copied.
	first, stdout, stopFirst := run(t, s)
	if r := readiness(t, first); !r.Ready {
		t.Errorf("ready: %+v", r)
	}
	stranger := s
	stranger.DataDir = filepath.Join(t.TempDir(), "stranger")
	wantFault(t, serve(t.Context(), stranger, &output{}, &output{}, nil), "GLOBAL-ROOT")
	second := s
	second.DataDir = filepath.Join(t.TempDir(), "second")
	for _, file := range []string{"kek", "authority/root.pem", "authority/root.key.sealed", "authority/intermediate.pem", "authority/intermediate.key.sealed"} {
		text, err := os.ReadFile(filepath.Join(s.DataDir, file))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(second.DataDir, file)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(second.DataDir, file), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	at, secondOut, _ := run(t, second)
	if !strings.Contains(stdout.String(), "admin token") || strings.Contains(secondOut.String(), "admin token") {
		t.Error("not one admin token for both replicas")
	}
	stopFirst()

	// A database that is gone makes a replica unready, and it is ready again by itself.
	server.Kill()
	eventually(t, func() bool {
		r := readiness(t, at)
		return !r.Ready && strings.Contains(r.Checks[0].Error, "unavailable")
	})
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return readiness(t, at).Ready })
}

func eventually(t *testing.T, fact func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not in time")
		}
	}
}
