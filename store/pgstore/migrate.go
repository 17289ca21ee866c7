package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema holds all our tables.
const schema = "comity"

var (
	// ErrNotMigrated: the database lacks steps of the schema that this release needs; Migrate takes them.
	ErrNotMigrated = errors.New("the database's schema is not that of this release")
	// ErrNewerSchema: a newer release has migrated the database; this one must not touch it.
	ErrNewerSchema = errors.New("the database was migrated by a newer release")
)

// MigrateOptions say what Migrate does.
type MigrateOptions struct {
	DryRun bool // only report
	// NewIncarnation begins another life of the store, as after a restore that nothing in the database shows.
	NewIncarnation bool
}

// Migration is what Migrate did, or would do.
type Migration struct {
	From           int              `json:"from"` // steps that the database had; 0: it was empty
	To             int              `json:"to"`
	Steps          []string         `json:"steps"` // names of those taken
	DryRun         bool             `json:"dryRun,omitempty"`
	Incarnation    mesh.Incarnation `json:"incarnation,omitempty"`
	Revision       mesh.Revision    `json:"revision"`
	NewIncarnation bool             `json:"newIncarnation,omitempty"`
}

// Migrate brings the schema up to date, in one transaction; of several at a time one does it. The steps only go
// forward. Replicas of the release before may run meanwhile.
func Migrate(ctx context.Context, d Database, o MigrateOptions) (Migration, error) {
	m := Migration{Steps: []string{}, DryRun: o.DryRun}
	cfg, err := d.configure()
	if err != nil {
		return m, fmt.Errorf("the database's URL: %w", err)
	}
	conn, err := d.connect(ctx, cfg.ConnConfig)
	if err != nil {
		return m, fmt.Errorf("migrate: %w", classify(ctx, err))
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is left to lose
	tx, err := conn.Begin(ctx)
	if err != nil {
		return m, fmt.Errorf("migrate: %w", classify(ctx, err))
	}
	if err := m.run(ctx, tx, o); err != nil {
		return m, fmt.Errorf("migrate: %w", errors.Join(classify(ctx, err), tx.Rollback(context.WithoutCancel(ctx))))
	}
	if o.DryRun {
		return m, tx.Rollback(ctx)
	}
	return m, classify(ctx, tx.Commit(ctx))
}

func (m *Migration) run(ctx context.Context, tx pgx.Tx, o MigrateOptions) error {
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(steps)
	m.To = len(steps)
	// Any number that nobody else in this database is likely to lock.
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrateLock); err != nil {
		return err
	}
	if m.From, err = version(ctx, tx); err != nil {
		return err
	}
	if m.From > m.To {
		return fmt.Errorf("%w: it has schema %d, this release knows %d", ErrNewerSchema, m.From, m.To)
	}
	if m.From == 0 {
		if err := m.prepare(ctx, tx); err != nil {
			return err
		}
	}
	for i, file := range steps[m.From:] {
		sql, err := migrations.ReadFile(file)
		if err != nil {
			return err
		}
		name := path.Base(file)
		if _, err := tx.Exec(ctx, string(sql)); err != nil {
			return fmt.Errorf("step %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO migrations (version, name, at) VALUES ($1, $2, now())", m.From+i+1, name); err != nil {
			return err
		}
		m.Steps = append(m.Steps, name)
	}
	_, err = tx.Exec(ctx, "INSERT INTO meta VALUES (1, $1, '', 0, 0) ON CONFLICT DO NOTHING", engine.RandomID())
	if err != nil {
		return err
	}
	if o.NewIncarnation {
		m.NewIncarnation = true
		if _, err := tx.Exec(ctx, "UPDATE meta SET incarnation = $1", engine.RandomID()); err != nil {
			return err
		}
	}
	return tx.QueryRow(ctx, "SELECT incarnation, head FROM meta").Scan(&m.Incarnation, &m.Revision)
}

// prepare makes room in an empty database. A schema that somebody made for us is taken as it is.
func (m *Migration) prepare(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS migrations (version integer PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL)")
	return err
}

// version is how many steps the database has had.
func version(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (n int, err error) {
	var table *string
	if err := q.QueryRow(ctx, "SELECT to_regclass($1)::text", schema+".migrations").Scan(&table); err != nil || table == nil {
		return 0, err
	}
	err = q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM migrations").Scan(&n)
	return n, err
}

// checkSchema returns ErrNotMigrated or ErrNewerSchema for a database that this release can't work with.
func checkSchema(ctx context.Context, conn *pgx.Conn) error {
	have, err := version(ctx, conn)
	if err != nil {
		return err
	}
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	switch want := len(steps); {
	case err != nil:
		return err
	case have > want:
		return fmt.Errorf("%w: it has schema %d, this release knows %d", ErrNewerSchema, have, want)
	case have < want:
		return fmt.Errorf("%w: it has schema %d, this release needs %d", ErrNotMigrated, have, want)
	}
	return nil
}

// Advisory locks of ours. They are database-wide numbers, so the first half is the word "comi".
const (
	migrateLock int64 = 0x636f6d69_00000001
	choreLock   int64 = 0x636f6d69_00000002
)

// classify turns what Postgres and the network say into the errors of the contract.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, known := range []error{
		store.ErrNotFound, store.ErrConflict, store.ErrCompacted, store.ErrIncarnation, store.ErrInvalid, store.ErrClosed, store.ErrUnavailable,
		store.ErrIdempotencyMismatch, ErrNotMigrated, ErrNewerSchema,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pe.Code[:2] {
		case "22", "54": // a value that text or an index can't hold, such as a NUL
			return fmt.Errorf("%w: the database does not take a value (SQLSTATE %s)", store.ErrInvalid, pe.Code)
		}
	}
	// Everything else is the database's or the network's: out of connections, of disk, of memory; read-only; shutting
	// down; being restored; gone.
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
