package imports

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

// posing is the same zone under another trust domain: the same hostile control plane, a root of its own.
func (o *other) posing(host string) *other {
	o.t.Helper()
	p := newOther(o.t, host)
	p.name, p.seq = o.name, o.seq
	return p
}

// withdrawal of the zone's bundle, with a payload of so many bytes.
func (o *other) withdrawal(size int) identity.Statement {
	o.t.Helper()
	o.seq++
	now := time.Now()
	s, err := o.signer.Sign(identity.Statement{
		Kind: federation.StatementBundle, Zone: o.name, TrustDomain: o.td, Incarnation: "life", Sequence: o.seq, Subject: string(o.td),
		Issued: now, LeaseUntil: now.Add(time.Hour), Withdrawn: true, Payload: make([]byte, size),
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

func receivePeer(t *testing.T, b *Book, s identity.Statement, want error) {
	t.Helper()
	if err := b.Receive(t.Context(), s, ByPeer, time.Now()); !errors.Is(err, want) {
		t.Fatalf("%s %s of %s by its ingress: %v, want %v", s.Kind, s.Subject, s.Zone, err, want)
	}
}

// TestAPeerDoesNotSayWhoItIs: a believed zone renews what it is by its own ingress, and becomes nobody else by it.
func TestAPeerDoesNotSayWhoItIs(t *testing.T) {
	s := openStore(t)
	east, west, north := newOther(t, "east"), newOther(t, "west"), newOther(t, "north")
	b := openBook(t, s, east)
	receivePeer(t, b, west.bundle(), ErrUnvouched)
	receivePeer(t, b, west.export("shop", "pay"), ErrUnvouched)
	receive(t, b, west.bundle(), nil)
	receivePeer(t, b, west.bundle(), nil)
	receivePeer(t, b, west.export("shop", "pay"), nil)

	receivePeer(t, b, west.withdrawal(0), ErrUnvouched)
	fake := west.posing("north")
	receivePeer(t, b, fake.bundle(), ErrUnvouched)
	receivePeer(t, b, fake.export("shop", "pay"), ErrUnvouched)
	reborn := west.bundle()
	reborn.Incarnation = "another"
	receivePeer(t, b, reborn, ErrUnvouched)
	if td, ok := b.Trust().Zone("west"); !ok || td.Bundle.TrustDomain != west.td {
		t.Errorf("west is %s", td.Bundle.TrustDomain)
	}

	// Withdrawn by global's word, west is nobody by its own.
	receive(t, b, west.withdrawal(0), nil)
	receivePeer(t, b, fake.bundle(), ErrUnvouched)
	receive(t, b, north.bundle(), nil)
	b = openBook(t, s, east)
	if err := b.Heed(t.Context(), map[string]policy.Zone{"west": {Revoked: &policy.Revocation{}}}); err != nil {
		t.Fatal(err)
	}
	receive(t, b, north.bundle(), nil)
}

// TestNoZoneFillsTheBook: what one zone withdraws, however often and with whatever in it, leaves room for the others.
func TestNoZoneFillsTheBook(t *testing.T) {
	s := openStore(t)
	east, west := newOther(t, "east"), newOther(t, "west")
	b := openBook(t, s, east)
	receive(t, b, west.bundle(), nil)
	receive(t, b, west.withdrawal(500<<10), identity.ErrStatement)
	for i := range 40 {
		receive(t, b, west.withdrawal(0), nil)
		west = west.posing(fmt.Sprintf("w%d", i))
		receive(t, b, west.bundle(), nil)
	}
	list, _, err := s.ListRecords(t.Context(), bookBucket, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Key != bundlePrefix+string(west.td) && len(r.Value) > 1<<10 {
			t.Errorf("%s holds %d bytes of what is withdrawn", r.Key, len(r.Value))
		}
	}
	receive(t, b, newOther(t, "south").bundle(), nil)
	if err := b.Heed(t.Context(), map[string]policy.Zone{"west": {Revoked: &policy.Revocation{}}}); err != nil {
		t.Fatal(err)
	}
	b = openBook(t, s, east)
	receive(t, b, west.bundle(), ErrRevoked)
	if n := len(b.Trust().List()); n != 2 {
		t.Errorf("%d trusted after a restart, want east and south", n)
	}
}

// TestReadsTheBookOfBefore: one record held all trust, and one what was revoked.
func TestReadsTheBookOfBefore(t *testing.T) {
	s := openStore(t)
	east, west, north, south := newOther(t, "east"), newOther(t, "west"), newOther(t, "north"), newOther(t, "south")
	b := openBook(t, s, east)
	for _, o := range []*other{west, north, south} {
		receive(t, b, o.bundle(), nil)
	}
	all, err := b.Trust().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	gone, err := json.Marshal(map[mesh.TrustDomain]revoked{south.td: {Zone: "south"}})
	if err != nil {
		t.Fatal(err)
	}
	before := openStore(t)
	if _, err := before.PutRecords(t.Context(), bookBucket, store.RecordWrite{Key: oldBookKey, Value: all}, store.RecordWrite{Key: oldRevokedKey, Value: gone}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from what the first has written
		b = openBook(t, before, east)
		if n := len(b.Trust().List()); n != 3 {
			t.Errorf("%d trusted, want east, west and north", n)
		}
		receive(t, b, south.bundle(), ErrRevoked)
	}
	if _, err := before.GetRecord(t.Context(), bookBucket, oldBookKey); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the old record: %v", err)
	}
}

// TestWhatWaitsIsBounded: by number, by bytes, and one for each subject.
func TestWhatWaitsIsBounded(t *testing.T) {
	east, west := newOther(t, "east"), newOther(t, "west")
	b := openBook(t, openStore(t), east)
	junk := func(subject string, size int) identity.Statement {
		west.seq++
		return identity.Statement{Kind: "export", Zone: "west", TrustDomain: west.td, Incarnation: "life", Sequence: west.seq, Subject: subject, Payload: make([]byte, size)}
	}
	for range 2 * maxWaiting >> 20 {
		receive(t, b, junk("shop/same", 1<<20), ErrUnverified)
	}
	for i := range maxWaiting>>20 - 2 {
		receive(t, b, junk(fmt.Sprintf("shop/s%d", i), 1<<20), ErrUnverified)
	}
	receive(t, b, junk("shop/more", 1<<20), ErrTooMuchWaits)
	for i := range maxPending - (maxWaiting>>20 - 1) {
		receive(t, b, junk(fmt.Sprintf("shop/t%d", i), 0), ErrUnverified)
	}
	receive(t, b, junk("shop/more", 0), ErrTooMuchWaits)
	receive(t, b, west.bundle(), nil)
	if b.waiting != 0 || len(b.of("west").pending) != 0 {
		t.Errorf("%d bytes wait, %d statements, after the bundle", b.waiting, len(b.of("west").pending))
	}
}

// TestNoLaneIsForgotten: what proxies were given is condemned, whatever the zone has stated or withdrawn since; what it
// only stated is not.
func TestNoLaneIsForgotten(t *testing.T) {
	s := openStore(t)
	east, west := newOther(t, "east"), newOther(t, "west")
	b := openBook(t, s, east)
	receive(t, b, west.bundle(), nil)
	now := time.Now()
	give := func(at time.Time, addresses ...string) []string {
		t.Helper()
		in := []topology.RemoteIngress{{Ingress: mesh.Ingress{ID: "gate", Ports: []uint16{1, 2}}, Addresses: addresses}}
		if err := b.Give(t.Context(), []topology.Remote{{Zone: "west", TrustDomain: west.td, Ingresses: in}}, at); err != nil {
			t.Fatal(err)
		}
		return in[0].Addresses
	}
	give(now.Add(-2*time.Hour), "192.0.2.6")
	give(now.Add(-time.Minute), "192.0.2.7")
	give(now, "192.0.2.8")
	var many []string
	for i := range maxLanes {
		many = append(many, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
	}
	if got := give(now, many...); len(got) != (maxLanes-4)/2 {
		t.Errorf("%d addresses are given out, not those that can be remembered", len(got))
	}
	b = openBook(t, s, east)
	receive(t, b, west.says(federation.StatementIngress, "", mesh.IngressSet{Ingresses: []mesh.Ingress{{ID: "gate", Host: "127.0.0.1", Ports: []uint16{8080}}}}), nil)
	receive(t, b, west.withdrawal(0), nil)
	if err := b.Heed(t.Context(), map[string]policy.Zone{"west": {Revoked: &policy.Revocation{}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		gone := map[string]bool{}
		for _, a := range b.Condemned() {
			gone[a.String()] = true
		}
		if len(gone) != maxLanes || !gone["192.0.2.7:1"] || !gone["192.0.2.8:2"] || gone["192.0.2.6:1"] || gone["127.0.0.1:8080"] {
			t.Errorf("%d condemned", len(gone))
		}
		receive(t, b, west.bundle(), ErrRevoked)
		b = openBook(t, s, east)
	}
}
