package exports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

const (
	// Lease of a statement. It is signed anew at half of it.
	Lease = 24 * time.Hour
	// tombstoneFor is how long a withdrawal is repeated to zones that may have missed it.
	tombstoneFor = 7 * 24 * time.Hour
)

// Ledger keeps the zone's own statements: signed, sequenced, leased, on disk. Safe for concurrent
// use.
type Ledger struct {
	zone        string
	td          mesh.TrustDomain
	incarnation mesh.Incarnation
	signer      *identity.StatementSigner
	records     store.Records

	mu       sync.Mutex
	held     map[string]identity.Statement // by fedstore.StatementKey
	sequence uint64
}

// OpenLedger reads the statements that the zone has made before.
func OpenLedger(ctx context.Context, records store.Records, zone string, td mesh.TrustDomain, incarnation mesh.Incarnation, signer *identity.StatementSigner) (*Ledger, error) {
	l := &Ledger{zone: zone, td: td, incarnation: incarnation, signer: signer, records: records, held: map[string]identity.Statement{}}
	list, _, err := records.ListRecords(ctx, fedstore.StatementBucket(zone), "")
	if err != nil {
		return nil, fmt.Errorf("read the zone's statements: %w", err)
	}
	for _, r := range list {
		s, err := statements.Decode(r.Value)
		if err != nil {
			return nil, fmt.Errorf("read statement %q: %w", r.Key, err)
		}
		if s.Incarnation != incarnation || s.TrustDomain != td {
			continue // of a former life: nobody may rely on its sequence
		}
		l.held[r.Key] = s
		l.sequence = max(l.sequence, s.Sequence)
	}
	return l, nil
}

// All returns the zone's statements, withdrawals among them, in the order of their sequence.
func (l *Ledger) All() []identity.Statement {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]identity.Statement, 0, len(l.held))
	for _, s := range l.held {
		out = append(out, s)
	}
	sortBySequence(out)
	return out
}

// Set makes the claims the zone's word: it signs those that changed or whose lease is half over,
// withdraws held subjects that are claimed no more, and returns the new statements in the order of
// their sequence, after they are on disk.
func (l *Ledger) Set(ctx context.Context, claims []Claim, now time.Time) ([]identity.Statement, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var fresh []identity.Statement
	var writes []store.RecordWrite
	claimed := make(map[string]bool, len(claims))
	sequence := l.sequence
	sign := func(kind, subject string, payload []byte, withdrawn bool) error {
		// Past its own last number and past the clock: a store that was restored from a backup does not
		// repeat a number that others have seen.
		sequence = max(sequence+1, uint64(max(now.UnixMilli(), 0)))
		s, err := l.signer.Sign(identity.Statement{
			Kind: kind, Zone: l.zone, TrustDomain: l.td, Incarnation: l.incarnation, Sequence: sequence,
			Subject: subject, Issued: now, LeaseUntil: now.Add(Lease), Withdrawn: withdrawn, Payload: payload,
		})
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind, subject, err)
		}
		value, err := statements.Encode(s)
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind, subject, err)
		}
		fresh = append(fresh, s)
		writes = append(writes, store.RecordWrite{Key: fedstore.StatementKey(kind, subject), Value: value})
		return nil
	}
	var failed error
	for _, c := range claims {
		k := fedstore.StatementKey(c.Kind, c.Subject)
		claimed[k] = true
		have, ok := l.held[k]
		if ok && !have.Withdrawn && bytes.Equal(have.Payload, c.Payload) && now.Before(renewAt(have)) {
			continue
		}
		failed = errors.Join(failed, sign(c.Kind, c.Subject, c.Payload, false))
	}
	var forgotten []string
	for k, have := range l.held {
		switch {
		case claimed[k]:
		case !have.Withdrawn:
			failed = errors.Join(failed, sign(have.Kind, have.Subject, nil, true))
		case now.Sub(have.Issued) > tombstoneFor:
			forgotten = append(forgotten, k)
			writes = append(writes, store.RecordWrite{Key: k, Delete: true})
		}
	}
	if len(writes) == 0 {
		return nil, failed
	}
	if _, err := l.records.PutRecords(ctx, fedstore.StatementBucket(l.zone), writes...); err != nil {
		return nil, fmt.Errorf("keep the zone's statements: %w", errors.Join(err, failed))
	}
	l.sequence = sequence
	for _, s := range fresh {
		l.held[fedstore.StatementKey(s.Kind, s.Subject)] = s
	}
	for _, k := range forgotten {
		delete(l.held, k)
	}
	return fresh, failed
}

// RenewAt is when the next statement is half through its lease; the zero time if there is none.
func (l *Ledger) RenewAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var next time.Time
	for _, s := range l.held {
		if at := renewAt(s); !s.Withdrawn && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func renewAt(s identity.Statement) time.Time { return s.Issued.Add(s.LeaseUntil.Sub(s.Issued) / 2) }

func sortBySequence(list []identity.Statement) {
	slices.SortFunc(list, func(a, b identity.Statement) int {
		switch {
		case a.Sequence < b.Sequence:
			return -1
		case a.Sequence > b.Sequence:
			return 1
		}
		return strings.Compare(a.Kind+a.Subject, b.Kind+b.Subject)
	})
}
