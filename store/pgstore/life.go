package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// place is where a database is now: the cluster, its timeline (a promoted standby, and a backup that was rolled forward
// to a point in time, begin another one), the database, and the table that a restore into it makes anew.
const place = `(SELECT system_identifier FROM pg_control_system())::text || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) ||
	'/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text || '/' || meta.tableoid::text`

// standing is the counter's row.
type standing struct {
	at        mesh.Cursor
	compacted mesh.Revision
	life      string
	table     string // oid
}

const standingSQL = "SELECT incarnation, head, compacted, life, tableoid::text FROM meta"

func (s *standing) into() []any {
	return []any{&s.at.Incarnation, &s.at.Revision, &s.compacted, &s.life, &s.table}
}

// errAnotherLife says that the database was restored under a living connection: greet it again.
var errAnotherLife = errors.New("the database was restored")

// check returns errAnotherLife if the table was made anew since the life began, or if the store was further when it was
// known to be there.
func (s *standing) check(known mesh.Cursor) error {
	if !strings.HasSuffix(s.life, "/"+s.table) || s.before(known) {
		return errAnotherLife
	}
	return nil
}

func (s *standing) before(known mesh.Cursor) bool {
	return s.at.Incarnation == known.Incarnation && s.at.Revision < known.Revision
}

// greet looks at a database over a new connection, before it is used: whether it can be written,
// and is where it was. If it is not, a new incarnation begins.
func (s *Store) greet(ctx context.Context, conn *pgx.Conn) error {
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return err
	}
	if standby {
		return fmt.Errorf("%w: it is a standby, which can only be read", store.ErrUnavailable)
	}
	if s.hub.Cursor().Incarnation == "" {
		// Only when the store is opened: a newer release may migrate while this one still runs.
		if err := checkSchema(ctx, conn); err != nil {
			return err
		}
	}
	for {
		var now standing
		var here string
		known := s.hub.Cursor() // first, so that it can't be of later than what is read
		if err := conn.QueryRow(ctx, strings.Replace(standingSQL, " FROM", ", "+place+" FROM", 1)).Scan(append(now.into(), &here)...); err != nil {
			return err
		}
		back := now.before(known)
		if now.life == here && !back {
			return nil
		}
		next := engine.RandomID()
		if now.life == "" && !back { // nobody has looked before
			next = string(now.at.Incarnation)
		}
		// Of several replicas one begins it.
		tag, err := conn.Exec(ctx, "UPDATE meta SET incarnation = $1, life = $2 WHERE incarnation = $3 AND life = $4 AND head = $5",
			next, here, string(now.at.Incarnation), now.life, int64(now.at.Revision))
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 && next != string(now.at.Incarnation) {
			s.log.WarnContext(ctx, "the database was restored, copied or failed over: a new incarnation begins",
				"revision", uint64(now.at.Revision), "revision_seen", uint64(known.Revision), "was", now.life, "is", here)
		}
	}
}

// stand makes known what the counter's row says, but for commits, which are read or published.
func (s *Store) stand(now standing) {
	if s.hub.Cursor().Incarnation == now.at.Incarnation {
		s.hub.Compact(now.compacted)
		return
	}
	s.hub.Begin(now.at, now.compacted)
}
