package fedserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

var admin = By{Actor: "user:admin", Source: "cli", Reason: "its key was stolen"}

func (r *running) endedBy(t *testing.T, code string) {
	t.Helper()
	eventually(t, "the session ends", func() bool {
		select {
		case <-r.done:
			return true
		default:
			return false
		}
	})
	if r.err == nil || !strings.Contains(r.err.Error(), code) {
		t.Errorf("the zone was told %v, not %s", r.err, code)
	}
}

// refused expects that a zone's certificate opens no session.
func (z *zone) refused(what string) {
	z.t.Helper()
	r := z.connect()
	<-r.done
	if c := status.Code(r.err); c != codes.PermissionDenied {
		z.t.Errorf("%s: %v", what, r.err)
	}
}

func (g *global) revoke(zone string) client.Revocation {
	g.t.Helper()
	rep, err := g.server.Revoke(g.t.Context(), zone, admin)
	if err != nil {
		g.t.Fatal(err)
	}
	return rep
}

func (g *global) admit(spec policy.Zone) []policy.FieldError {
	g.t.Helper()
	bad, err := g.server.Admit(g.t.Context(), resource(mesh.KindZone, mesh.OriginGlobal, "", "east", spec))
	if err != nil {
		g.t.Fatal(err)
	}
	return bad
}

// Whoever revokes by applying the Zone, and deletes it before global has looked, has burnt its trust domain too.
func TestARevocationOutlivesItsZone(t *testing.T) {
	g, e, _ := twoZones(t)
	spec := policy.Zone{Namespaces: []string{"shop"}}
	revoked := spec
	revoked.Revoked = &policy.Revocation{Reason: "stolen"}
	g.apply(resource(mesh.KindZone, mesh.OriginGlobal, "", "east", revoked))
	g.apply(store.Write{Resource: mesh.Resource{Key: zoneKey("east")}, Delete: true})
	if bad := g.admit(spec); len(bad) != 1 { // at once, whether the deletion was seen to or not
		t.Errorf("the same trust domain is admitted: %v", bad)
	}
	eventually(t, "its trust domain is burnt", func() bool {
		id, _, _, err := getJSON[zoneIdentity](t.Context(), g.store, bucketIDs, "east")
		return err == nil && id.Removed && id.Revoked != nil && id.Revoked.Reason == "stolen" && len(id.burnt()) == 1 && id.burnt()[0] == e.td
	})
}

func TestARevokedZoneDoesNotComeBack(t *testing.T) {
	g, e, w := twoZones(t)
	re, rw := e.connect(), w.connect()
	st := e.export("shop", "web")
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	eventually(t, "heard", func() bool { return w.heardOf("east", "export", "shop/web") != nil })
	unused := g.token("east", 0)

	rep := g.revoke("east")
	re.endedBy(t, federation.ByeRevoked)
	if rep.Reason != admin.Reason || rep.Actor != admin.Actor || rep.Revision == 0 {
		t.Errorf("report %+v", rep)
	}
	history, err := g.store.History(t.Context(), zoneKey("east"), 1, 0)
	if err != nil || len(history) != 1 || history[0].Actor != admin.Actor || history[0].Reason != admin.Reason || history[0].Source != "cli" {
		t.Errorf("the history says %+v, %v", history, err)
	}
	var z mesh.ZoneStatus
	rec, err := g.store.GetRecord(t.Context(), BucketZones, "east")
	if err == nil {
		err = json.Unmarshal(rec.Value, &z)
	}
	if err != nil || z.Connected || !z.Joined || z.Message == "" {
		t.Errorf("the zone is shown as %+v, %v", z, err)
	}
	if again := g.revoke("east"); again.Revision != rep.Revision {
		t.Errorf("revoked again in revision %d after %d", again.Revision, rep.Revision)
	}
	eventually(t, "west reads it", func() bool {
		r, err := w.store.Get(t.Context(), zoneKey("east"))
		return err == nil && strings.Contains(string(r.Spec), "its key was stolen")
	})

	gone := func(when string) {
		t.Helper()
		list, err := fedstore.Statements(t.Context(), g.store, "east")
		if err != nil || len(list) > 0 {
			t.Errorf("%s: %d statements of it are kept, %v", when, len(list), err)
		}
		if _, ok := g.trust.Book().BundleFor(e.td); ok {
			t.Errorf("%s: its bundle is believed", when)
		}
	}
	gone("at once")
	e.refused("with a certificate that still holds")
	if err := e.renew(e.key, string(e.incarnation)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a renewal: %v", err)
	}
	if _, err := e.tryJoin(unused); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token of before: %v", err)
	}
	if _, _, err := g.server.CreateToken(t.Context(), "east", 0); !errors.Is(err, ErrRevoked) {
		t.Errorf("a new token: %v", err)
	}
	rw.disconnect()
	g.restart()
	gone("after a restart")
	e.refused("after a restart")

	// Who newly connects hears nothing of it.
	w.mu.Lock()
	clear(w.heard)
	w.mu.Unlock()
	g.addZone("north", "shop")
	n := newZone(t, g, "north")
	n.join()
	w.connect()
	eventually(t, "west hears of north", func() bool { return w.heardOf("north", "bundle", string(n.td)) != nil })
	if w.heardOf("east", "bundle", string(e.td)) != nil {
		t.Error("its bundle is still relayed")
	}

	// Neither the loss of the mark nor the removal of the Zone is a way back.
	g.addZone("east", "shop") // a write that raced with the revocation
	eventually(t, "marked again", func() bool {
		spec, err := g.server.zone(t.Context(), "east")
		return err == nil && spec.Revoked != nil
	})
	g.apply(store.Write{Resource: mesh.Resource{Key: zoneKey("east")}, Delete: true})
	eventually(t, "removed", func() bool {
		id, _, _, err := getJSON[zoneIdentity](t.Context(), g.store, bucketIDs, "east")
		return err == nil && id.Removed
	})
	e.refused("after the Zone is deleted")
	for _, td := range []mesh.TrustDomain{"", e.td} {
		if bad := g.admit(policy.Zone{TrustDomain: td}); len(bad) != 1 || bad[0].Pointer != "/spec/trustDomain" {
			t.Errorf("made anew under trust domain %q: %v", td, bad)
		}
	}
	const better = mesh.TrustDomain("better.test.example")
	if bad := g.admit(policy.Zone{TrustDomain: better}); len(bad) > 0 {
		t.Errorf("made anew under another trust domain: %v", bad)
	}
	g.addZone("east", "shop")
	e.refused("after the Zone is made anew")
	deny := func(what string, z *zone, edit ...func(*federationpb.JoinRequest)) {
		t.Helper()
		if _, err := z.tryJoin(g.token(z.name, 0), edit...); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	deny("the same life", e)
	deny("another life under the same trust domain", newZone(t, g, "east"))
	g.addZone("south", "shop")
	thief := newZone(t, g, "south")
	thief.td = e.td
	thief.newCA()
	deny("another zone under its trust domain", thief)
	thief = newZone(t, g, "south")
	thief.key = e.key
	deny("another zone with its key", thief)

	again := newZone(t, g, "east")
	again.td = better
	again.newCA()
	again.join()
	ra := again.connect()
	eventually(t, "the new life is connected", func() bool { return again.has(zoneKey("east")) })
	ra.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	eventually(t, "the old life's word is refused", func() bool { return again.answered(st).GetRefused() != "" })
	deny("the revoked trust domain, from the new life on", newZone(t, g, "east"))
}

// A revocation that nobody enforced, because global was down or another replica took the request, is enforced
// by whoever reads it.
func TestRevocationByTheStoreAlone(t *testing.T) {
	g, e, w := twoZones(t)
	re, rw := e.connect(), w.connect()
	eventually(t, "connected", func() bool { return e.has(zoneKey("east")) && w.has(zoneKey("west")) })
	g.apply(resource(mesh.KindZone, mesh.OriginGlobal, "", "east", policy.Zone{Revoked: &policy.Revocation{}}))
	re.endedBy(t, federation.ByeRevoked)
	e.refused("live")

	rw.disconnect()
	g.stop()
	offline, err := sqlitestore.Open(t.Context(), filepath.Join(g.dir, "store.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mark := resource(mesh.KindZone, mesh.OriginGlobal, "", "west", policy.Zone{Revoked: &policy.Revocation{}})
	if _, err := offline.Apply(t.Context(), store.Batch{Writes: []store.Write{mark}, Actor: "user:test", Source: "api"}); err != nil {
		t.Fatal(err)
	}
	if err := offline.Close(); err != nil {
		t.Fatal(err)
	}
	g.start(g.address)
	w.refused("after a restart")
	eventually(t, "its bundle is gone", func() bool {
		_, ok := g.trust.Book().BundleFor(w.td)
		return !ok
	})
}

func TestRevocationIsConfirmedZoneByZone(t *testing.T) {
	g, e, w := twoZones(t)
	g.addZone("north", "shop")
	n := newZone(t, g, "north")
	n.join()
	rn := n.connect()
	e.connect()
	w.connect()
	eventually(t, "all are there", func() bool { return e.has(zoneKey("east")) && w.has(zoneKey("west")) && n.has(zoneKey("north")) })
	rn.disconnect()
	if _, err := g.server.Revocation(t.Context(), "east"); !errors.Is(err, ErrNotRevoked) {
		t.Errorf("before: %v", err)
	}
	eventually(t, "north is away", func() bool {
		z, _, _, err := getJSON[mesh.ZoneStatus](t.Context(), g.store, BucketZones, "north")
		return err == nil && !z.Connected
	})
	rep := g.revoke("east")
	if rep.Done || len(rep.Zones) != 2 {
		t.Fatalf("nobody has confirmed: %+v", rep)
	}
	if north := rep.Zones[0]; north.Zone != "north" || north.Connected || north.Confirmed || !north.TrustUntil.After(time.Now()) {
		t.Errorf("a zone that is away: %+v", north)
	}
	west := func() client.RevocationZone {
		rep, err := g.server.Revocation(t.Context(), "east")
		if err != nil {
			t.Fatal(err)
		}
		return rep.Zones[1]
	}
	say := func(acked, total int, done bool) {
		w.book.Set(federation.BucketRevisions, mesh.RevisionSlot(mesh.OriginGlobal, rep.Revision),
			fmt.Appendf(nil, `{"zone":"west","origin":"global","revision":%d,"state":"Applied","acked":%d,"total":%d,"done":%v}`, rep.Revision, acked, total, done))
	}
	say(1, 3, false)
	eventually(t, "one of three", func() bool { z := west(); return z.Acked == 1 && z.Total == 3 && !z.Confirmed })
	say(3, 3, true)
	eventually(t, "all have acknowledged", func() bool { return west().Acked == 3 })
	if z := west(); z.Confirmed || z.At.IsZero() {
		t.Errorf("before its connections have ended: %+v", z)
	}
	g.ahead.Store(int64(mesh.ConnectionEnd))
	first := west()
	if !first.Confirmed || first.Acked != 3 {
		t.Errorf("after the drain time: %+v", first)
	}
	// Kept, whatever becomes of the status.
	say(0, 0, false)
	g.ahead.Store(int64(time.Hour))
	if z := west(); z != first {
		t.Errorf("it was %+v and is %+v", first, z)
	}
	if rep, err := g.server.Revocation(t.Context(), "east"); err != nil || !rep.Done {
		t.Errorf("all that are connected have confirmed: %+v, %v", rep, err)
	}
}

// A proxy whose connections could not be cut holds the confirmation back, whatever it has acknowledged, until none are left.
func TestWhatIsNotSeveredIsNotConfirmed(t *testing.T) {
	g, _, w := twoZones(t)
	w.connect()
	eventually(t, "west is there", func() bool { return w.has(zoneKey("west")) })
	proxy := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-1"}
	unsevered := func(why string) {
		doc, err := json.Marshal(mesh.ProxyStatus{Proxy: proxy, Zone: "west", Connected: true, Unsevered: why})
		if err != nil {
			t.Fatal(err)
		}
		w.book.Set(federation.BucketProxies, proxy.String(), doc)
	}
	west := func() client.RevocationZone {
		t.Helper()
		rep, err := g.server.Revocation(t.Context(), "east")
		if err != nil || len(rep.Zones) != 1 || rep.Done != rep.Zones[0].Confirmed {
			t.Fatalf("%+v, %v", rep, err)
		}
		return rep.Zones[0]
	}
	rep := g.revoke("east")
	unsevered("operation not permitted")
	eventually(t, "global has heard why", func() bool { return strings.Contains(west().Message, "operation not permitted") })
	w.book.Set(federation.BucketRevisions, mesh.RevisionSlot(mesh.OriginGlobal, rep.Revision),
		fmt.Appendf(nil, `{"zone":"west","origin":"global","revision":%d,"state":"Applied","acked":1,"total":1,"done":true}`, rep.Revision))
	eventually(t, "it has acknowledged", func() bool { return west().Acked == 1 })
	g.ahead.Store(int64(time.Hour))
	if z := west(); z.Confirmed || !z.At.IsZero() {
		t.Errorf("it is connected still: %+v", z)
	}
	unsevered("")
	eventually(t, "confirmed", func() bool { return west().Confirmed })
	if z := west(); z.At.Sub(rep.At) < time.Hour || z.Message != "" {
		t.Errorf("its connections had ended before they did: %+v", z)
	}
}

// What is said of a zone that is away is what it goes by: the MeshConfig where it is for the zone.
func TestTrustEndsAsTheMeshConfigForTheZoneSays(t *testing.T) {
	g, _, w := twoZones(t)
	r := w.connect()
	eventually(t, "west is there", func() bool { return w.has(zoneKey("west")) })
	r.disconnect()
	eventually(t, "west is away", func() bool {
		z, _, _, err := getJSON[mesh.ZoneStatus](t.Context(), g.store, BucketZones, "west")
		return err == nil && !z.Connected
	})
	g.revoke("east")
	rest := policy.MeshConfig{}.TrustSettings().Lease
	seen := time.Time{}
	for _, c := range []struct {
		zones string // of the MeshConfig, which says 2h; none: there is no MeshConfig
		lease time.Duration
	}{{"", rest}, {"east,west", 2 * time.Hour}, {"north", rest}} {
		if c.zones != "" {
			spec := map[string]any{"trust": map[string]any{"lease": "2h"}}
			g.apply(resource(mesh.KindMeshConfig, mesh.OriginGlobal, "", "default", spec, mesh.AnnotationZones, c.zones))
		}
		rep, err := g.server.Revocation(t.Context(), "east")
		if err != nil || len(rep.Zones) != 1 {
			t.Fatalf("%+v, %v", rep, err)
		}
		if seen.IsZero() {
			seen = rep.Zones[0].TrustUntil.Add(-rest)
		}
		if got := rep.Zones[0].TrustUntil.Sub(seen); got != c.lease {
			t.Errorf("a MeshConfig for %q: trust lasts %v, not %v", c.zones, got, c.lease)
		}
	}
}
