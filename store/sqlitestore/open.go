package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options of Open. The zero value is good.
type Options struct {
	// Log gets what an operator should know, such as a new incarnation. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock; nil means time.Now. Revisions never depend on it.
	Now func() time.Time
	// MaxBytes, when not 0, is the size at which the database refuses to grow: writes then fail with
	// store.ErrUnavailable as they do on a full disk.
	MaxBytes int64
	// Boot names this run of the machine; empty means the kernel's boot id.
	Boot string
	// Readers is the number of connections for reading; 0 means 4.
	Readers int
}

// Store is a SQLite database. It implements store.Store.
type Store struct {
	log      *slog.Logger
	now      func() time.Time
	life     *lifeFile
	readers  *sql.DB
	writer   *sql.DB
	conn     *sql.Conn // the writer's, used by the writing goroutine only
	prepared statements
	get      *sql.Stmt // of the readers: one resource
	record   *sql.Stmt // and one record
	// syncing: the connection's commits wait for the disk. The writing goroutine's.
	syncing bool

	requests chan *request
	quit     chan struct{}
	closing  sync.Once
	writing  sync.WaitGroup
	// running is the context of the writing goroutine. It never ends: the driver starts a goroutine for
	// each statement whose context can, and the statements of a write are short.
	running context.Context

	hub *engine.Hub
}

var _ store.Store = (*Store)(nil)

// ErrLost: the database is gone, but its life file says that there was one. Beginning with an empty one would
// look to everybody as if all had been deleted.
var ErrLost = errors.New("the database is gone, though the life file beside it says that there was one: put it back, " +
	"or remove the life file to begin with an empty one")

// Open opens the database at path, creating it (mode 0600) if there is none, and brings its schema
// up to date. ctx bounds the opening only. A database in use by another process, of a newer
// release, or that is no database is an error.
func Open(ctx context.Context, path string, opts Options) (_ *Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{
		log: opts.Log, now: opts.Now,
		requests: make(chan *request), quit: make(chan struct{}), syncing: true,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.hub = engine.NewHub(s.readCommits, 0)
	s.running = context.WithoutCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
			err = fmt.Errorf("open store %s: %w", path, err)
		}
	}()
	if opts.Boot == "" {
		opts.Boot = bootID()
	}
	if s.life, err = openLife(path+".life", opts.Boot); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && s.life.id != "" {
		return nil, ErrLost
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := s.connect(ctx, path, opts); err != nil {
		return nil, err
	}
	if err := s.migrate(ctx); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	s.writing.Go(s.write)
	return s, nil
}

// connect opens the writer's one connection and the readers' pool.
func (s *Store) connect(ctx context.Context, path string, opts Options) error {
	dsn := func(pragmas ...string) string {
		v := url.Values{"_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + v.Encode()
	}
	pragmas := []string{"journal_mode(WAL)", "synchronous(FULL)"}
	if opts.MaxBytes > 0 {
		pragmas = append(pragmas, "max_page_count("+strconv.FormatInt(max(opts.MaxBytes/4096, 64), 10)+")")
	}
	var err error
	if s.writer, err = sql.Open("sqlite", dsn(pragmas...)); err != nil {
		return err
	}
	s.writer.SetMaxOpenConns(1)
	if s.conn, err = s.writer.Conn(ctx); err != nil {
		return classify(err)
	}
	s.prepared.conn = s.conn
	if s.readers, err = sql.Open("sqlite", dsn("query_only(1)")); err != nil {
		return err
	}
	n := opts.Readers
	if n == 0 {
		n = 4
	}
	s.readers.SetMaxOpenConns(n)
	s.readers.SetMaxIdleConns(n)
	return nil
}

// migrate runs the steps that the database has not had, each in a transaction; user_version counts them.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	var done int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&done); err != nil {
		return classify(err)
	}
	if done > len(names) {
		return fmt.Errorf("the database has schema %d, this release knows %d: it was written by a newer release", done, len(names))
	}
	for i, name := range names[done:] {
		step, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		script := fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;", step, done+i+1)
		if _, err := s.conn.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("migration %s: %w", filepath.Base(name), classify(err))
		}
	}
	return nil
}

// prepare compiles what is read most.
func (s *Store) prepare(ctx context.Context) (err error) {
	if s.get, err = s.readers.PrepareContext(ctx, "SELECT body FROM resources WHERE origin = ? AND kind = ? AND namespace = ? AND name = ?"); err != nil {
		return classify(err)
	}
	s.record, err = s.readers.PrepareContext(ctx, "SELECT value, version, updated_at FROM records WHERE bucket = ? AND key = ?")
	return classify(err)
}

// begin reads where the database stands and decides whether this is the life it had before.
func (s *Store) begin(ctx context.Context) error {
	var incarnation, life string
	var head, compacted int64
	err := s.conn.QueryRowContext(ctx, "SELECT incarnation, life, head, compacted FROM meta").Scan(&incarnation, &life, &head, &compacted)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		incarnation, life = engine.RandomID(), engine.RandomID()
		if _, err := s.conn.ExecContext(ctx, "INSERT INTO meta VALUES (1, ?, ?, 0, 0)", incarnation, life); err != nil {
			return classify(err)
		}
	case err != nil:
		return classify(err)
	case life != s.life.id || mesh.Revision(head) < s.life.head || s.life.cut():
		s.log.Warn("the store was restored or copied, or lost power: a new incarnation begins",
			"revision", head, "revision_before", uint64(s.life.head), "same_file", life == s.life.id, "lost_power", s.life.cut())
		incarnation, life = engine.RandomID(), engine.RandomID()
		if _, err := s.conn.ExecContext(ctx, "UPDATE meta SET incarnation = ?, life = ?", incarnation, life); err != nil {
			return classify(err)
		}
	}
	s.hub.Begin(mesh.Cursor{Incarnation: mesh.Incarnation(incarnation), Revision: mesh.Revision(head)}, mesh.Revision(compacted))
	return s.life.begin(life, mesh.Revision(head))
}

// Close ends all watches, finishes the writes under way and releases the file.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		close(s.quit)
		s.hub.Close()
		s.writing.Wait()
		err = errors.Join(s.settle(), s.release())
	})
	return err
}

// settle brings everything to the disk and notes it.
func (s *Store) settle() error {
	for _, q := range []string{"PRAGMA synchronous = FULL", "PRAGMA wal_checkpoint(FULL)"} {
		if _, err := s.conn.ExecContext(s.running, q); err != nil {
			return classify(err)
		}
	}
	return s.life.end(s.hub.Cursor().Revision)
}

func (s *Store) release() error {
	var errs []error
	for _, stmt := range []*sql.Stmt{s.get, s.record} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	errs = append(errs, s.prepared.close())
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.life != nil {
		errs = append(errs, s.life.close())
	}
	return errors.Join(errs...)
}

// classify turns what SQLite says about its disk into store.ErrUnavailable.
func classify(err error) error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		if errors.Is(err, sql.ErrConnDone) || err != nil && strings.Contains(err.Error(), "database is closed") {
			return store.ErrClosed
		}
		return err
	}
	// Primary result codes of SQLite: 5 busy, 8 read-only, 10 I/O error, 11 corrupt, 13 full, 14 can't
	// open, 26 not a database. The upper bits refine them.
	switch se.Code() & 0xff {
	case 5, 8, 10, 11, 13, 14, 26:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}
