package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/comity-mesh/comity/internal/pgbin"
)

// processPostgres is the database's name among the demo's processes.
const processPostgres = "postgres"

// startPostgres starts global's database, if the demo has one, and returns what global must know of it.
func (d *Demo) startPostgres(ctx context.Context) (map[string]any, error) {
	if !d.opts.Postgres {
		return nil, nil
	}
	begin := time.Now()
	programs, err := pgbin.Find()
	if err != nil {
		return nil, err
	}
	if d.postgres, err = programs.Init(ctx); err != nil {
		return nil, err
	}
	argv, as := d.postgres.Command()
	if err := d.procs.runAs(as, processPostgres, nil, argv...); err != nil {
		return nil, err
	}
	if err := d.awaitPostgres(ctx); err != nil {
		return nil, err
	}
	if _, err := d.postgres.Run(ctx, "createdb", "comity"); err != nil {
		return nil, err
	}
	password := d.path("tokens", "postgres.password")
	if err := os.WriteFile(password, []byte(d.postgres.Password()), 0o600); err != nil {
		return nil, err
	}
	d.done("Postgres", begin, "the pinned one, in "+d.postgres.Dir())
	return map[string]any{"url": d.postgres.URL("comity"), "passwordFile": password, "migrate": true}, nil
}

// revivePostgres starts a killed database again. What is left of the old one may take a moment to end, and until
// then the new one refuses to begin.
func (d *Demo) revivePostgres(ctx context.Context) error {
	if d.postgres == nil || d.procs.exited(processPostgres) == nil {
		return nil
	}
	return poll(ctx, 30*time.Second, func() (bool, error) {
		if err := d.procs.restart(processPostgres); err != nil {
			return false, err
		}
		return d.awaitPostgres(ctx) == nil, nil
	})
}

func (d *Demo) awaitPostgres(ctx context.Context) error {
	err := poll(ctx, 30*time.Second, func() (bool, error) {
		if err := d.procs.exited(processPostgres); err != nil {
			return false, err
		}
		_, err := d.postgres.Run(ctx, "pg_isready", "--quiet")
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("postgres does not become ready: %w (log: %s)", err, d.path("logs", processPostgres+".log"))
	}
	return nil
}
