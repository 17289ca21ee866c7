package pgstore

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The channels on which replicas wake each other.
const (
	channelRevisions = "comity_revisions" // a revision
	channelRecords   = "comity_records"   // a bucket
)

// listen makes known what other replicas write, for as long as the store is open.
func (s *Store) listen() {
	const longest = 2 * time.Second
	wait := 50 * time.Millisecond
	for s.running.Err() == nil {
		begun := time.Now()
		err := s.follow(s.running)
		if s.running.Err() != nil {
			return
		}
		if time.Since(begun) > longest {
			wait = 50 * time.Millisecond
		}
		s.log.WarnContext(s.running, "the database is away; trying again", "in", wait, "error", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-s.running.Done():
			again.Stop()
			return
		}
		wait = min(2*wait, longest)
	}
}

// follow listens over one connection until it is lost.
func (s *Store) follow(ctx context.Context) (err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectLimit)
		defer cancel()
		err = errors.Join(err, conn.Close(end))
	}()
	for _, channel := range []string{channelRevisions, channelRecords} {
		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
			return err
		}
	}
	for {
		// All of it, at first and every now and then: what was not told is found here.
		if err := s.look(ctx, conn); err != nil {
			return err
		}
		if err := s.hear(ctx, conn, time.Now().Add(s.poll)); err != nil {
			return err
		}
	}
}

// hear acts on notifications until then.
func (s *Store) hear(ctx context.Context, conn *pgx.Conn, until time.Time) error {
	for {
		n, err := wait(ctx, conn, until)
		if err != nil || n == nil {
			return err
		}
		// Those that came together are acted on together.
		buckets := map[string]struct{}{}
		newest := uint64(0)
		for ; n != nil; n, err = wait(ctx, conn, time.Now()) {
			switch n.Channel {
			case channelRecords:
				buckets[n.Payload] = struct{}{}
			case channelRevisions:
				if revision, err := strconv.ParseUint(n.Payload, 10, 64); err == nil {
					newest = max(newest, revision)
				}
			}
		}
		if err != nil {
			return err
		}
		s.hub.Touch(buckets)
		if newest > uint64(s.hub.Cursor().Revision) {
			if err := s.catchUp(ctx); err != nil {
				return err
			}
		}
	}
}

// wait returns the next notification, nil when there is none until then.
func wait(ctx context.Context, conn *pgx.Conn, until time.Time) (*pgconn.Notification, error) {
	limit, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	n, err := conn.WaitForNotification(limit)
	if err != nil && limit.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
		return nil, nil // nothing came, which is an answer
	}
	return n, err
}

// look reads where the store stands and what its buckets are at, and wakes those who don't know.
func (s *Store) look(ctx context.Context, conn *pgx.Conn) error {
	limit, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	if err := s.catchUp(limit); err != nil {
		return err
	}
	rows, err := conn.Query(limit, "SELECT bucket, sequence FROM buckets")
	if err != nil {
		return err
	}
	touched := map[string]struct{}{}
	var bucket string
	var sequence int64
	_, err = pgx.ForEachRow(rows, []any{&bucket, &sequence}, func() error {
		if s.sequences[bucket] != sequence {
			s.sequences[bucket] = sequence
			touched[bucket] = struct{}{}
		}
		return nil
	})
	s.hub.Touch(touched)
	return err
}
