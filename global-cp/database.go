package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/config"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

const databaseDocs = "docs/postgres.md"

// openStore opens the database, or the file where none is set.
func openStore(ctx context.Context, s settings, log *slog.Logger) (store.Store, error) {
	if s.Database.URL == "" {
		st, err := sqlitestore.Open(ctx, s.storeFile(), sqlitestore.Options{Log: log})
		if err != nil {
			return nil, &fault.Error{Code: "GLOBAL-STORE", What: "the store can't be opened", Err: err,
				Try: "see that no other global-cp uses " + s.DataDir + ", and that its disk can be written and has room", Docs: "docs/configuration.md"}
		}
		return st, nil
	}
	if s.Database.Migrate {
		m, err := pgstore.Migrate(ctx, s.database(), pgstore.MigrateOptions{})
		if err != nil {
			return nil, databaseFault(err)
		}
		if len(m.Steps) > 0 {
			log.InfoContext(ctx, "the database's schema was brought up to date", "from", m.From, "to", m.To)
		}
	}
	st, err := pgstore.Open(ctx, s.database(), pgstore.Options{Log: log, Readers: s.Database.Connections})
	if err != nil {
		return nil, databaseFault(err)
	}
	return st, nil
}

// databaseFault explains why the database can't be used.
func databaseFault(err error) error {
	switch {
	case errors.Is(err, pgstore.ErrNewerSchema):
		return &fault.Error{Code: "DATABASE-NEWER", What: "the database belongs to a newer release of global-cp", Err: err,
			Try: "run that release; a schema does not go back, but a backup from before can be restored", Docs: databaseDocs, Exit: fault.ExitConflict}
	case errors.Is(err, pgstore.ErrNotMigrated):
		return &fault.Error{Code: "DATABASE-SCHEMA", What: "the database is not prepared for this release", Err: err,
			Try: "run global-cp migrate with the same configuration, or set database.migrate", Docs: databaseDocs, Exit: fault.ExitConflict}
	case errors.Is(err, store.ErrUnavailable):
		return &fault.Error{Code: "DATABASE-UNAVAILABLE", What: "the database can't be used now", Err: err,
			Try: "check that it runs, that database.url leads to it, and that the user may log in and write", Docs: databaseDocs, Exit: fault.ExitUnreachable}
	}
	return &fault.Error{Code: "DATABASE", What: "the database can't be opened", Err: err, Docs: databaseDocs}
}

// migrateCommand prepares the database.
func migrateCommand(load func(*cobra.Command) (config.Loaded[settings], error)) *cobra.Command {
	var o pgstore.MigrateOptions
	var output string
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the database's schema up to date", Args: cobra.NoArgs,
		Long: `Migrate makes the tables of the store in the database of database.url, or brings those of an older
release up to date. It changes nothing if they are; replicas of the release before may go on meanwhile.

After a restore that Postgres can't tell us of (docs/postgres.md says which), --new-incarnation makes
zones and watchers read everything anew instead of believing revisions of the life before.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return &fault.Error{Code: "USAGE", What: "there is no output " + output, Try: "use -o text or -o json", Exit: fault.ExitUsage}
			}
			c, err := load(cmd)
			if err != nil {
				return err
			}
			if c.Value.Database.URL == "" {
				return &fault.Error{Code: "DATABASE-NONE", What: "there is no database to migrate",
					Cause: "database.url is not set; the store in dataDir brings itself up to date", Try: "set database.url", Docs: databaseDocs, Exit: fault.ExitUsage}
			}
			m, err := pgstore.Migrate(cmd.Context(), c.Value.database(), o)
			if err != nil {
				return databaseFault(err)
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(m)
			}
			return printMigration(cmd.OutOrStdout(), m)
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&o.NewIncarnation, "new-incarnation", false, "begin a new incarnation of the store, as after a restore")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printMigration(w io.Writer, m pgstore.Migration) error {
	done, would := "the schema went from step %d to %d: %s\n", ""
	if m.DryRun {
		done, would = "the schema would go from step %d to %d: %s\n", "would "
	}
	var err error
	if len(m.Steps) > 0 {
		_, err = fmt.Fprintf(w, done, m.From, m.To, strings.Join(m.Steps, ", "))
	} else {
		_, err = fmt.Fprintf(w, "the schema is up to date (step %d)\n", m.To)
	}
	if err == nil && m.NewIncarnation {
		_, err = fmt.Fprintf(w, "a new incarnation %sbegins at revision %d\n", would, m.Revision)
	}
	return err
}
