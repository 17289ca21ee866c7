package fedserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

func TestShortage(t *testing.T) {
	for name, c := range map[string]struct {
		threshold uint32
		offers    []offer
		needed    float64 // 0: it suffices
	}{
		"just enough":          {70, []offer{{"a", 300, 300, ""}, {"b", 700, 700, ""}}, 0},
		"a hundredth short":    {70, []offer{{"a", 300, 300, ""}, {"b", 699, 700, ""}}, 7},
		"two alike":            {70, []offer{{"a", 100, 100, ""}, {"b", 100, 100, ""}}, 1.4},
		"half suffices at 50":  {50, []offer{{"a", 100, 100, ""}, {"b", 100, 100, ""}}, 0},
		"nobody else has it":   {1, []offer{{"a", 100, 100, ""}}, 0.01},
		"dead already, needed": {70, []offer{{"a", 0, 100, ""}, {"b", 100, 100, ""}}, 1.4},
		"not counted":          {70, []offer{{"a", 100, 1000, ""}, {"b", 1000, 1000, "drained"}}, 14},
		"nothing is asked for": {70, []offer{{"b", 100, 0, ""}}, 0},
	} {
		got := shortage(c.threshold, c.offers, "a")
		if c.needed == 0 != (got == nil) || got != nil && got.Needed != c.needed {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What is refused is short by the sums, and more capacity elsewhere never turns a yes into a no.
func TestShortageIsMonotonic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var offers []offer
		for i := range rapid.IntRange(1, 6).Draw(t, "zones") {
			whole := rapid.Uint64Range(0, 1000).Draw(t, "whole")
			offers = append(offers, offer{zone: fmt.Sprint(i), whole: whole, ready: rapid.Uint64Range(0, whole).Draw(t, "ready")})
		}
		threshold := rapid.Uint32Range(1, 100).Draw(t, "threshold")
		before := shortage(threshold, offers, "0")
		if before != nil && before.Available >= before.Needed {
			t.Fatalf("refused with %v of %v", before.Available, before.Needed)
		}
		i := rapid.IntRange(0, len(offers)-1).Draw(t, "more")
		if i > 0 && offers[i].ready < offers[i].whole {
			offers[i].ready++
			if before == nil && shortage(threshold, offers, "0") != nil {
				t.Fatal("one more ready turned a yes into a no")
			}
		}
	})
}

// sends makes a zone say how it divides its requests to shop/web.
func (z *zone) sends(shares map[string]float64) {
	z.t.Helper()
	f := mesh.FailoverStatus{Zone: z.name, Namespace: "shop", Service: "web", State: mesh.FailoverNormal}
	for _, name := range []string{"east", "west", "north"} {
		f.Targets = append(f.Targets, mesh.FailoverTarget{Zone: name, Share: shares[name], Ready: 1, Whole: 1, Reachable: true})
	}
	doc, err := json.Marshal(f)
	if err != nil {
		z.t.Fatal(err)
	}
	z.book.Set(federation.BucketFailover, "shop/web", doc)
}

// heeds makes a zone say that its proxies run a revision of global.
func (z *zone) heeds(revision mesh.Revision) {
	z.book.Set(federation.BucketRevisions, mesh.RevisionSlot(mesh.OriginGlobal, revision),
		fmt.Appendf(nil, `{"origin":"global","revision":%d,"state":"Applied","done":true}`, revision))
}

type shop struct {
	*global
	zones map[string]*zone
	runs  map[string]*running
}

// threeShops are three zones that export shop/web with one endpoint each, and use their own.
func threeShops(t *testing.T) shop {
	s := shop{newGlobal(t), map[string]*zone{}, map[string]*running{}}
	for _, name := range []string{"east", "west", "north"} {
		s.addZone(name, "shop")
		z := newZone(t, s.global, name)
		z.join()
		r := z.connect()
		st := z.export("shop", "web")
		r.link.Do(func(zs *federation.ZoneSession) { zs.Offer(st) })
		z.sends(map[string]float64{name: 1})
		s.zones[name], s.runs[name] = z, r
		eventually(t, "global knows "+name, func() bool {
			p, err := s.server.picture(t.Context())
			return err == nil && p.exports[serviceName{"shop", "web"}][name].Ready == 1 && len(p.failover[name]) == 1
		})
	}
	return s
}

func (s shop) threshold(percent uint32) {
	s.apply(resource(mesh.KindFailoverPolicy, mesh.OriginGlobal, policy.SystemNamespace, "default", policy.FailoverPolicy{Threshold: &percent}))
}

func (s shop) drainOf(zone string) client.Drain {
	s.t.Helper()
	d, err := s.server.DrainOf(s.t.Context(), zone)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestDrainIsRefusedForLackOfCapacity(t *testing.T) {
	s := threeShops(t)
	head, err := s.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.server.Drain(t.Context(), "east", client.DrainRequest{}, false, admin)
	lacking, ok := errors.AsType[*CapacityError](err)
	if !ok || len(lacking.Missing) != 1 {
		t.Fatalf("70%% of 3 is more than 2: %v", err)
	}
	if m := lacking.Missing[0]; m.Service != "web" || m.Needed != 2.1 || m.Available != 2 || m.Threshold != 70 || len(m.Zones) != 2 || m.Zones[0].Zone != "north" {
		t.Errorf("missing %+v", m)
	}
	if now, err := s.store.Head(t.Context()); err != nil || now != head {
		t.Errorf("a refused drain changed something: %v", err)
	}
	s.threshold(66)
	if _, err := s.server.Drain(t.Context(), "east", client.DrainRequest{}, false, admin); err != nil {
		t.Fatalf("66%% of 3 is less than 2: %v", err)
	}
	// The second one has only north left, and east does not count.
	_, err = s.server.Drain(t.Context(), "west", client.DrainRequest{}, false, admin)
	if lacking, ok = errors.AsType[*CapacityError](err); !ok || lacking.Missing[0].Available != 1 || lacking.Missing[0].Zones[0].Excluded == "" {
		t.Errorf("%v: %+v", err, lacking)
	}
	if _, err := s.server.Drain(t.Context(), "west", client.DrainRequest{Force: true}, false, admin); err != nil {
		t.Errorf("by force: %v", err)
	}
	if _, err := s.server.Drain(t.Context(), "nowhere", client.DrainRequest{}, false, admin); !errors.Is(err, ErrNoZone) {
		t.Errorf("no zone: %v", err)
	}
	if _, err := s.server.Drain(t.Context(), "north", client.DrainRequest{Over: "soon", Force: true}, false, admin); err == nil {
		t.Error("over soon")
	}
}

func TestDrainIsDoneWhenNobodySendsAnything(t *testing.T) {
	s := threeShops(t)
	s.threshold(50)
	if d := s.drainOf("east"); d.State != client.DrainNone || d.Done || len(d.Services) != 1 || d.Services[0].Shares["east"] != 1 {
		t.Errorf("before: %+v", d)
	}
	d, err := s.server.Drain(t.Context(), "east", client.DrainRequest{Over: "10s", Reason: "kernel"}, false, admin)
	if err != nil || d.State != client.DrainRunning || d.Done || d.Over != "10s" {
		t.Fatalf("%+v, %v", d, err)
	}
	spec, err := s.server.zone(t.Context(), "east")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.server.Drain(t.Context(), "east", client.DrainRequest{Over: "10s", Reason: "kernel"}, false, admin)
	if now, e := s.server.zone(t.Context(), "east"); err != nil || e != nil || again.Since != d.Since || now.resource.Revision != spec.resource.Revision {
		t.Errorf("repeated, it is %+v, %v, %v", again, err, e)
	}
	s.zones["east"].sends(map[string]float64{"west": 0.5, "north": 0.5})
	for _, z := range s.zones {
		z.heeds(spec.resource.Changed)
	}
	eventually(t, "drained", func() bool { return s.drainOf("east").Done })
	if d := s.drainOf("east"); d.State != client.DrainDone || len(d.Services) != 0 || len(d.Zones) != 3 {
		t.Errorf("after: %+v", d)
	}
	s.zones["west"].sends(map[string]float64{"east": 0.25, "west": 0.75})
	eventually(t, "not any more", func() bool { d := s.drainOf("east"); return !d.Done && d.Zones[2].Share == 0.25 })
	if d, err := s.server.Undrain(t.Context(), "east", admin); err != nil || d.State != client.DrainNone {
		t.Errorf("undrained: %+v, %v", d, err)
	}
}

func awaited(d client.Drain) []string {
	var out []string
	for _, z := range d.Zones {
		if z.Awaited {
			out = append(out, z.Zone)
		}
	}
	return out
}

// A zone that lost no more than its control path may still send: only its own word, or force, ends the wait.
func TestADrainWaitsForZonesThatAreAway(t *testing.T) {
	s := threeShops(t)
	s.threshold(50)
	s.zones["east"].sends(map[string]float64{"west": 1})
	s.runs["north"].disconnect()
	eventually(t, "north is away", func() bool { return !s.drainOf("east").Zones[1].Connected })
	force := client.DrainRequest{Force: true}
	if _, err := s.server.Drain(t.Context(), "east", force, false, admin); err != nil {
		t.Fatal(err)
	}
	spec, err := s.server.zone(t.Context(), "east")
	if err != nil {
		t.Fatal(err)
	}
	s.zones["east"].heeds(spec.resource.Changed)
	s.zones["west"].heeds(spec.resource.Changed)
	eventually(t, "only north is waited for", func() bool {
		d := s.drainOf("east")
		return !d.Done && slices.Equal(awaited(d), []string{"north"})
	})
	if _, err := s.server.Drain(t.Context(), "east", force, true, admin); err != nil {
		t.Fatal(err)
	}
	if spec, err = s.server.zone(t.Context(), "east"); err != nil {
		t.Fatal(err)
	}
	s.zones["east"].heeds(spec.resource.Changed)
	s.runs["west"].disconnect()
	eventually(t, "by force nobody who is away is waited for", func() bool { return s.drainOf("east").Done })
	s.runs["east"].disconnect()
	eventually(t, "nobody is connected: force does not count", func() bool {
		d := s.drainOf("east")
		return !d.Done && slices.Equal(awaited(d), []string{"north", "west"})
	})
	r := s.zones["north"].connect()
	s.zones["north"].heeds(spec.resource.Changed)
	eventually(t, "north said it", func() bool { return s.drainOf("east").Done })
	r.disconnect()
	eventually(t, "what north said stands, west's silence does not", func() bool { return slices.Equal(awaited(s.drainOf("east")), []string{"west"}) })
}

func TestAZoneLeavesWhenItIsDrained(t *testing.T) {
	s := threeShops(t)
	s.threshold(50)
	d, err := s.server.Drain(t.Context(), "east", client.DrainRequest{}, true, admin)
	if err != nil || d.State != client.DrainLeaving {
		t.Fatalf("%+v, %v", d, err)
	}
	spec, err := s.server.zone(t.Context(), "east")
	if err != nil {
		t.Fatal(err)
	}
	s.restart() // it goes on
	if d := s.drainOf("east"); d.Done || !slices.Equal(awaited(d), []string{"east", "north", "west"}) {
		t.Errorf("nobody is connected, nobody has heard of it: %+v", d)
	}
	s.ahead.Store(int64(2 * leaveAfter))
	since := map[string]time.Time{}
	for range 2 { // what would be done is done the second time
		if waiting, err := s.server.removeLeft(t.Context(), since); err != nil || !waiting {
			t.Fatalf("waiting %v, %v", waiting, err)
		}
		s.ahead.Add(int64(2 * leaveAfter))
	}
	if _, err := s.store.Get(t.Context(), zoneKey("east")); err != nil {
		t.Fatalf("removed, though nobody has heard of it: %v", err)
	}
	for _, z := range s.zones {
		z.connect()
		z.heeds(spec.resource.Changed)
	}
	eventually(t, "all heed it", func() bool {
		d := s.drainOf("east")
		for _, z := range d.Zones {
			if !z.Heeds || !z.Connected {
				return false
			}
		}
		return d.Zones[0].Share == 1 && !d.Done
	})
	s.zones["east"].sends(map[string]float64{"west": 0.5, "north": 0.5})
	eventually(t, "drained", func() bool { return s.drainOf("east").Done })
	s.ahead.Add(int64(2 * leaveAfter))
	eventually(t, "removed", func() bool {
		_, err := s.store.Get(t.Context(), zoneKey("east"))
		return errors.Is(err, store.ErrNotFound)
	})
	h, err := s.store.History(t.Context(), zoneKey("east"), 1, 0)
	if err != nil || h[0].Actor != admin.Actor {
		t.Errorf("the history says %+v, %v", h, err)
	}
	eventually(t, "its identity has ended", func() bool {
		id, _, _, err := getJSON[zoneIdentity](t.Context(), s.store, bucketIDs, "east")
		return err == nil && id.Removed
	})
	s.zones["east"].refused("after it left")
}
