// Package names keeps the virtual addresses of a zone: which number each host name has in its sidecars' blocks, and which names
// the agents answer.
package names

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	// Bucket, with "/<zone>", holds the numbers by host name.
	Bucket = "virtual-addresses"
	// reservedFor is how long the number of a name that is gone is nobody else's: applications remember addresses.
	reservedFor = 7 * 24 * time.Hour
)

// Ledger remembers the numbers, on disk. Safe for concurrent use.
type Ledger struct {
	records store.Records
	bucket  string

	mu      sync.Mutex
	numbers topology.Numbers
	held    map[string]entry // as on disk
	used    map[string]uint16
}

// entry is the value of a record.
type entry struct {
	Number uint16 `json:"number"`
	// Gone is when the name was missed first; zero while it is there.
	Gone time.Time `json:"gone,omitzero"`
}

// OpenLedger reads what numbers names had before.
func OpenLedger(ctx context.Context, records store.Records, zone string) (*Ledger, error) {
	l := &Ledger{records: records, bucket: Bucket + "/" + zone, held: map[string]entry{}, used: map[string]uint16{}}
	list, _, err := records.ListRecords(ctx, l.bucket, "")
	if err != nil {
		return nil, fmt.Errorf("read the virtual addresses: %w", err)
	}
	for _, r := range list {
		var e entry
		if json.Unmarshal(r.Value, &e) == nil && l.numbers.Hold(r.Key, e.Number) {
			l.held[r.Key] = e
		}
	}
	return l, nil
}

// Number is topology.Input's: each host keeps the number that it has, and one that is new gets one that nobody had of late.
func (l *Ledger) Number(hosts []string) map[string]uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.numbers.Of(hosts)
	maps.Copy(l.used, out)
	return out
}

// Keep writes down what was numbered since it was called last, and since when names are gone that were not: before their
// addresses are told to anybody. On an error it will be tried again with the next.
func (l *Ledger) Keep(ctx context.Context, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var writes []store.RecordWrite
	next := map[string]entry{}
	put := func(host string, e entry) error {
		value, err := json.Marshal(e)
		next[host] = e
		writes = append(writes, store.RecordWrite{Key: host, Value: value})
		return err
	}
	for h, n := range l.used {
		if have, ok := l.held[h]; !ok || !have.Gone.IsZero() {
			if err := put(h, entry{Number: n}); err != nil {
				return err
			}
		}
	}
	var forgotten []string
	for h, e := range l.held {
		switch _, used := l.used[h]; {
		case used:
		case e.Gone.IsZero():
			if err := put(h, entry{e.Number, now}); err != nil {
				return err
			}
		case now.Sub(e.Gone) > reservedFor:
			forgotten = append(forgotten, h)
			writes = append(writes, store.RecordWrite{Key: h, Delete: true})
		}
	}
	if len(writes) > 0 {
		if _, err := l.records.PutRecords(ctx, l.bucket, writes...); err != nil {
			return fmt.Errorf("keep the virtual addresses: %w", err)
		}
	}
	maps.Copy(l.held, next)
	for _, h := range forgotten {
		delete(l.held, h)
		l.numbers.Free(h)
	}
	clear(l.used)
	return nil
}
