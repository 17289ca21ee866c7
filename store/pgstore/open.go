package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// Database says where a store is.
type Database struct {
	// URL is as libpq has it, postgres://user@host:5432/name?sslmode=verify-full, without a password. What it leaves out
	// comes from libpq's variables (PGPASSWORD, PGPASSFILE, ...).
	URL string
	// Password is asked for each new connection, so that a changed one is taken; nil: libpq's variables have it.
	Password func() (string, error)
}

// Check says what is wrong with a database's URL, without repeating it.
func (d Database) Check() error {
	_, err := d.configure()
	return err
}

// configure reads the URL and sets what we rely on.
func (d Database) configure() (*pgxpool.Config, error) {
	malformed := errors.New("it is not like postgres://user@host:5432/database?sslmode=verify-full")
	u, err := url.Parse(d.URL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, malformed // the parser's own words repeat what it read
	}
	_, inUser := u.User.Password()
	if q := u.Query(); inUser || q.Has("password") || q.Has("sslpassword") {
		return nil, errors.New("it holds a password, which belongs in a file: URLs are shown and logged")
	}
	cfg, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", malformed, err)
	}
	c := cfg.ConnConfig
	c.ConnectTimeout = connectLimit
	maps.Copy(c.RuntimeParams, map[string]string{
		"search_path":      schema,
		"application_name": "comity global-cp",
		// A replica that stops in the middle of a transaction, or is cut off, must not hold up the others.
		"idle_in_transaction_session_timeout": "5000",
		"lock_timeout":                        "10000",
		"statement_timeout":                   "14000",
		"tcp_user_timeout":                    "10000",
	})
	cfg.BeforeConnect = d.unlock
	return cfg, nil
}

// unlock gives a new connection the password of now.
func (d Database) unlock(_ context.Context, c *pgx.ConnConfig) (err error) {
	if d.Password != nil {
		c.Password, err = d.Password()
	}
	return err
}

// connect opens a connection outside of the pool.
func (d Database) connect(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, error) {
	if err := d.unlock(ctx, c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return pgx.ConnectConfig(ctx, c)
}

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
	database Database
	log      *slog.Logger
	now      func() time.Time
	poll     time.Duration

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

// Open connects to a database that Migrate has prepared. ctx bounds the opening only. Errors: ErrNotMigrated,
// ErrNewerSchema, store.ErrUnavailable.
func Open(ctx context.Context, d Database, o Options) (_ *Store, err error) {
	s := &Store{database: d, log: o.Log, now: o.Now, poll: o.Poll, sequences: map[string]int64{}}
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
	cfg, err := d.configure()
	if err != nil {
		return nil, fmt.Errorf("the database's URL: %w", err)
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

// byKey has rows found by their keys. Writers look for nothing else, and their statements are planned once, when the tables are
// small: the plan, to read a table from end to end and hash it, stayed for as long as the connection (1 ms for an apply grew to 5).
var byKey = map[string]string{"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}

// connect opens a connection outside of the pool, and looks at what it finds there.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	c := s.readers.Config().ConnConfig
	maps.Copy(c.RuntimeParams, byKey)
	conn, err := s.database.connect(ctx, c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
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
