package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// Options of Open. The zero value is good.
type Options struct {
	// Log gets what an operator should know, such as a new incarnation or a lost connection. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock; nil means time.Now. Revisions never depend on it.
	Now func() time.Time
	// Readers bounds the connections for reading; 0 means 8. A replica has three more: two that write, one that listens.
	Readers int
	// Poll is how often the store looks by itself for what it was not told of; 0 means 3 s.
	Poll time.Duration
}

// Store is a Postgres database. It implements store.Store.
type Store struct {
	log  *slog.Logger
	now  func() time.Time
	poll time.Duration

	readers *pgxpool.Pool
	applies *writer[*applyCall]
	puts    *writer[*putCall]
	hub     *engine.Hub
	// sequences are the buckets' as last seen. The listening goroutine's.
	sequences map[string]int64

	// running ends with Close; it is the context of everything in the background.
	running context.Context
	stop    context.CancelFunc
	working sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

const (
	connectLimit = 5 * time.Second
	// writeLimit bounds one round trip of a write. The database gives up before we do (see configure).
	writeLimit = 15 * time.Second
	// retryWatch is how long a watcher waits that finds no database.
	retryWatch = time.Second
)

// Open connects to a database that Migrate has prepared. The URL is as libpq has it; what it leaves out comes from
// libpq's variables (PGPASSWORD, PGPASSFILE, ...). It is not part of any error. ctx bounds the opening only.
// Errors: ErrNotMigrated, ErrNewerSchema, store.ErrUnavailable.
func Open(ctx context.Context, url string, o Options) (_ *Store, err error) {
	s := &Store{log: o.Log, now: o.Now, poll: o.Poll, sequences: map[string]int64{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.poll == 0 {
		s.poll = 3 * time.Second
	}
	s.hub = engine.NewHub(s.readCommits, retryWatch)
	cfg, err := configure(url)
	if err != nil {
		return nil, err
	}
	if cfg.MaxConns = int32(o.Readers); o.Readers == 0 { //nolint:gosec // a handful
		cfg.MaxConns = 8
	}
	cfg.AfterConnect = s.greet
	s.running, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if s.readers, err = pgxpool.NewWithConfig(s.running, cfg); err != nil {
		return nil, fmt.Errorf("open store: %w", classify(ctx, err))
	}
	now, err := s.standing(ctx)
	if err != nil {
		s.stop()
		s.readers.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.hub.Begin(now.at, now.compacted)
	s.warnOfSettings(ctx)
	s.applies = newWriter(s, s.applyGroup)
	s.puts = newWriter(s, s.putGroup)
	s.working.Go(s.applies.run)
	s.working.Go(s.puts.run)
	s.working.Go(s.listen)
	return s, nil
}

// configure reads the URL and sets what we rely on.
func configure(url string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The library keeps the password out of it, but not what it takes for something else in a malformed URL.
		return nil, errors.New("the database's URL can't be read; it is like postgres://user@host:5432/database?sslmode=verify-full")
	}
	c := cfg.ConnConfig
	c.ConnectTimeout = connectLimit
	for key, value := range map[string]string{
		"search_path":      schema,
		"application_name": "comity global-cp",
		// A replica that stops in the middle of a transaction, or is cut off, must not hold up the others.
		"idle_in_transaction_session_timeout": "5000",
		"lock_timeout":                        "10000",
		"statement_timeout":                   "14000",
		"tcp_user_timeout":                    "10000",
	} {
		c.RuntimeParams[key] = value
	}
	return cfg, nil
}

// connect opens a connection outside of the pool.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, s.readers.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	if err := s.greet(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// warnOfSettings tells of a server that may forget what it has confirmed.
func (s *Store) warnOfSettings(ctx context.Context) {
	var fsync, synchronous string
	err := s.readers.QueryRow(ctx, "SELECT current_setting('fsync'), current_setting('synchronous_commit')").Scan(&fsync, &synchronous)
	if err != nil || fsync == "off" || synchronous == "off" {
		s.log.WarnContext(ctx, "the database does not wait for its disk: a crash of its machine may lose confirmed writes",
			"fsync", fsync, "synchronous_commit", synchronous, "error", err)
	}
}

// Close ends all watches, finishes the writes under way and closes the connections.
func (s *Store) Close() error {
	s.hub.Close()
	s.stop()
	s.working.Wait()
	s.readers.Close()
	return nil
}
