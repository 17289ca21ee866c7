package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// Bucket of the records in which a table survives a restart, keyed by ProxyID.String.
const Bucket = "leases"

// retryAfter is how soon a failed write to the store is tried again.
const retryAfter = time.Second

// Restore reads what the zone knew before it stopped. Everything keeps its last state for a grace
// period of two leases.
func (t *Table) Restore(ctx context.Context, s store.Records) error {
	list, _, err := s.ListRecords(ctx, Bucket, "")
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	until := time.Now().Add(graceLeases * t.lease)
	for _, r := range list {
		var k known
		if err := json.Unmarshal(r.Value, &k); err != nil {
			return fmt.Errorf("read lease %q: %w", r.Key, err)
		}
		if t.entries[k.Proxy] != nil {
			continue
		}
		e := &entry{known: k, index: -1, reason: "restored after a restart", staleAt: until, goneAt: until}
		if !e.Lost.IsZero() {
			e.goneAt = e.Lost.Add(t.forget)
		}
		t.entries[k.Proxy] = e
		t.schedule(e, e.goneAt)
	}
	t.touchPicture()
	return nil
}

// Run keeps time and writes changes to the store until ctx ends: the leases themselves as records, and
// workloads as resources of the zone for people to see. A store that fails is tried again; discovery
// goes on meanwhile.
func (t *Table) Run(ctx context.Context, s store.Store, zone string, log *slog.Logger) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.keepTime(ctx)
	}()
	defer func() { <-done }()

	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		case <-t.dirty:
		}
		if err := t.flush(ctx, s, zone); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "workloads could not be written to the store", "error", err)
			retry.Reset(retryAfter)
		}
	}
}

func (t *Table) flush(ctx context.Context, s store.Store, zone string) error {
	ids, records, writes, err := t.pending(zone)
	if err != nil || len(ids) == 0 {
		return err
	}
	_, err = s.PutRecords(ctx, Bucket, records...)
	if err == nil && len(writes) > 0 {
		_, err = s.Apply(ctx, store.Batch{Writes: writes, Actor: "zone:" + zone, Source: "discovery"})
	}
	if err != nil {
		t.mu.Lock()
		for _, id := range ids {
			t.unsaved[id] = true
		}
		t.mu.Unlock()
	}
	return err
}

// pending takes what is unsaved.
func (t *Table) pending(zone string) (ids []mesh.ProxyID, records []store.RecordWrite, writes []store.Write, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.unsaved {
		delete(t.unsaved, id)
		key := mesh.Key{Origin: mesh.Origin(zone), Kind: mesh.KindWorkload, Namespace: id.Namespace, Name: id.Name}
		e := t.entries[id]
		if e == nil {
			ids = append(ids, id)
			records = append(records, store.RecordWrite{Key: id.String(), Delete: true})
			if id.Role == mesh.RoleSidecar {
				writes = append(writes, store.Write{Resource: mesh.Resource{Key: key}, Delete: true})
			}
			continue
		}
		if e.Workload == nil && e.Ingress == nil {
			continue // it has not said yet what it is
		}
		value, jerr := json.Marshal(e.known)
		if jerr != nil {
			err = errors.Join(err, jerr)
			continue
		}
		ids = append(ids, id)
		records = append(records, store.RecordWrite{Key: id.String(), Value: value})
		if e.Workload != nil {
			spec, jerr := json.Marshal(e.Workload)
			if jerr != nil {
				err = errors.Join(err, jerr)
				continue
			}
			writes = append(writes, store.Write{Resource: mesh.Resource{
				Key: key, APIVersion: policy.APIVersion, Labels: e.Labels, Spec: spec,
			}})
		}
	}
	return ids, records, writes, err
}
