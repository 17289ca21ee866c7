package imports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// What was revoked is kept beside the trust in other zones, one record for each trust domain. Before there was one
// record of all, which is still read.
const (
	revokedPrefix = "revoked/"
	oldRevokedKey = "revoked"
)

// ErrRevoked: the trust domain was revoked, and nothing of it is believed again.
var ErrRevoked = fmt.Errorf("%w: its trust domain was revoked", identity.ErrStatement)

// revoked is what is remembered of a trust domain that was revoked.
type revoked struct {
	Zone string `json:"zone"`
	// Lanes that proxies were given within the last hour: live connections to them are to end. Names are not asked
	// again: whoever is revoked does not go on saying where others' connections are cut.
	Lanes []netip.AddrPort `json:"lanes,omitempty"`
}

func (b *Book) readRevoked(ctx context.Context) error {
	old, err := b.records.GetRecord(ctx, bookBucket, oldRevokedKey)
	if err == nil {
		err = json.Unmarshal(old.Value, &b.revoked)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read what was revoked: %w", err)
	}
	list, _, err := b.records.ListRecords(ctx, bookBucket, revokedPrefix)
	if err != nil {
		return fmt.Errorf("read what was revoked: %w", err)
	}
	for _, r := range list {
		var gone revoked
		if err := json.Unmarshal(r.Value, &gone); err != nil {
			return fmt.Errorf("read what was revoked: %s: %w", r.Key, err)
		}
		b.revoked[mesh.TrustDomain(strings.TrimPrefix(r.Key, revokedPrefix))] = gone
	}
	return nil
}

// Heed ends what is believed of zones that global has revoked, and remembers it for good: neither another Zone of
// the name nor a statement, by whichever way, brings it back, nor a global that was restored from before. What can't be kept on disk is in force all the
// same, and tried again by the next call.
func (b *Book) Heed(ctx context.Context, zones map[string]policy.Zone) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := map[mesh.TrustDomain]string{} // what each zone is, or was within the hour
	for td, l := range b.lanes {
		known[td] = l.Zone
	}
	for _, t := range b.trust.List() {
		known[t.Bundle.TrustDomain] = t.Zone
	}
	for td, name := range known {
		z, listed := zones[name]
		if name == b.zone || !listed || z.Revoked == nil || z.TrustDomain != "" && z.TrustDomain != td {
			continue
		}
		gone := revoked{Zone: name}
		if l := b.lanes[td]; l != nil {
			gone.Lanes = l.sorted()
			clear(l.given)
		}
		b.revoked[td] = gone
		b.trust.Remove(td)
		b.unkept[td] = struct{}{}
	}
	for _, td := range slices.Sorted(maps.Keys(b.unkept)) {
		if err := b.keepRevoked(ctx, td); err != nil {
			return err
		}
		if err := b.keepTrust(ctx, td); err != nil {
			return err
		}
	}
	return nil
}

// keepRevoked writes what is remembered of a trust domain if it was revoked. The caller holds b.mu.
func (b *Book) keepRevoked(ctx context.Context, td mesh.TrustDomain) error {
	gone, ok := b.revoked[td]
	if !ok {
		return nil
	}
	value, err := json.Marshal(gone)
	if err == nil {
		_, err = b.records.PutRecords(ctx, bookBucket, store.RecordWrite{Key: revokedPrefix + string(td), Value: value})
	}
	if err != nil {
		return fmt.Errorf("keep that %s was revoked: %w", td, err)
	}
	return nil
}

// Condemned are the lanes of zones that were revoked, to which nothing may be connected any more; in order.
func (b *Book) Condemned() []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []netip.AddrPort
	for _, gone := range b.revoked {
		out = append(out, gone.Lanes...)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}
