package fedstore

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/store"
)

// StatementBucket is the bucket of a zone's statements, the same at global and at zones. Records are
// keyed by StatementKey and hold the statement in protobuf form, as it was signed.
func StatementBucket(zone string) string { return "statements/" + zone }

// StatementKey is `kind/subject`; subjects may hold slashes, kinds don't.
func StatementKey(kind, subject string) string { return kind + "/" + subject }

// PutStatement keeps a verified statement unless a newer one of its subject is kept already. A
// withdrawn one is kept as a tombstone. It reports whether the record changed.
func PutStatement(ctx context.Context, s store.Records, st *federationpb.Statement) (bool, error) {
	bucket, key := StatementBucket(st.GetZone()), StatementKey(st.GetKind(), st.GetSubject())
	value, err := proto.Marshal(st)
	if err != nil {
		return false, fmt.Errorf("encode a statement: %w", err)
	}
	for {
		var at uint64
		rec, err := s.GetRecord(ctx, bucket, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return false, fmt.Errorf("read statement %s: %w", key, err)
		default:
			at = rec.Version
			held := &federationpb.Statement{}
			if proto.Unmarshal(rec.Value, held) == nil && !federation.Newer(st, held.GetIncarnation(), held.GetSequence()) {
				return false, nil
			}
		}
		_, err = s.PutRecords(ctx, bucket, store.RecordWrite{Key: key, Value: value, IfVersion: &at})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("store statement %s: %w", key, err)
		}
		return true, nil
	}
}

// Statements reads the statements of a zone, tombstones too. What can't be read is left out, and so asked for
// again.
func Statements(ctx context.Context, s store.Records, zone string) ([]*federationpb.Statement, error) {
	recs, _, err := s.ListRecords(ctx, StatementBucket(zone), "")
	if err != nil {
		return nil, fmt.Errorf("read statements of %s: %w", zone, err)
	}
	out := make([]*federationpb.Statement, 0, len(recs))
	for _, r := range recs {
		st := &federationpb.Statement{}
		if proto.Unmarshal(r.Value, st) == nil {
			out = append(out, st)
		}
	}
	return out, nil
}

// ForgetStatements deletes every statement of a zone.
func ForgetStatements(ctx context.Context, s store.Records, zone string) error {
	recs, _, err := s.ListRecords(ctx, StatementBucket(zone), "")
	if err != nil {
		return fmt.Errorf("read statements of %s: %w", zone, err)
	}
	writes := make([]store.RecordWrite, 0, len(recs))
	for _, r := range recs {
		writes = append(writes, store.RecordWrite{Key: r.Key, Delete: true})
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := s.PutRecords(ctx, StatementBucket(zone), writes...); err != nil {
		return fmt.Errorf("delete statements of %s: %w", zone, err)
	}
	return nil
}
