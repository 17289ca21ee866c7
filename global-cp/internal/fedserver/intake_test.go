package fedserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// bucket counts the records of a zone's bucket.
func (g *global) bucket(bucket, zone string) int {
	g.t.Helper()
	recs, _, err := g.store.ListRecords(g.t.Context(), BucketOf(bucket, zone), "")
	if err != nil {
		g.t.Fatal(err)
	}
	return len(recs)
}

func (g *global) message(zone string) string {
	g.t.Helper()
	z, _, _, err := getJSON[mesh.ZoneStatus](g.t.Context(), g.store, BucketZones, zone)
	if err != nil {
		g.t.Fatal(err)
	}
	return z.Message
}

// A zone that lies in numbers is not counted with, says so in its line, and hurts neither a drain nor its own session.
func TestStatusesOutOfBoundsAreRefused(t *testing.T) {
	s := threeShops(t)
	one := uint32(1)
	s.apply(resource(mesh.KindFailoverPolicy, mesh.OriginGlobal, policy.SystemNamespace, "default", policy.FailoverPolicy{Threshold: &one}))
	book := s.zones["east"].book
	for key, doc := range map[string]string{
		"shop/a/west":    `{"namespace":"shop","service":"a","to":"west","requests":1.7e308}`,
		"shop/b/west":    `{"namespace":"shop","service":"b","to":"west","requests":-1}`,
		"shop/c/west":    `{"namespace":"shop","service":"other","to":"west","requests":1}`,
		"shop/d/west":    `{"namespace":"shop","service":"d","to":"west","observedAt":"0000-01-01T00:00:00+23:59"}`,
		"shop/\x00/west": `{"namespace":"shop","service":"\u0000","to":"west","requests":1}`,
	} {
		book.Set(federation.BucketTraffic, key, []byte(doc))
	}
	book.Set(federation.BucketLinks, "west", []byte(`{"to":"west","rttMs":-1e-320}`))
	for _, f := range []string{
		`{"zone":"north","whole":1e300,"ready":1,"reachable":true}`, `{"zone":"north","share":1.5}`, `{"zone":"north","share":-0.1}`,
	} {
		book.Set(federation.BucketFailover, "shop/web", []byte(`{"namespace":"shop","service":"web","targets":[`+f+`]}`))
	}
	eventually(t, "its line says so", func() bool { return strings.Contains(s.message("east"), "and 2 more") })
	book.Set(federation.BucketTraffic, "shop/web/west", []byte(`{"zone":"north","namespace":"shop","service":"web","to":"west","requests":3}`))
	eventually(t, "the honest word arrives", func() bool { return s.bucket(federation.BucketTraffic, "east") == 1 })
	p, err := s.server.picture(t.Context())
	if err != nil || len(p.traffic["east"]) != 1 || p.traffic["east"][0].Zone != "east" || s.bucket(federation.BucketLinks, "east") != 0 {
		t.Errorf("kept %+v, %v", p.traffic["east"], err)
	}
	if got := p.failover["east"]; len(got) != 1 || len(got[0].Targets) != 3 {
		t.Errorf("what was there before stays: %+v", got)
	}
	d, err := s.server.Drain(t.Context(), "west", client.DrainRequest{Over: "0s"}, false, admin)
	if err != nil {
		t.Fatalf("a drain: %v", err)
	}
	if _, err := json.Marshal(d); err != nil {
		t.Errorf("its answer: %v", err)
	}
	if n := s.counter("comity_federation_refused_statuses_total", map[string]string{"zone": "east", "bucket": "traffic"}); n != 5 {
		t.Errorf("%v refusals of traffic are counted", n)
	}
}

// What one zone reports is clipped, and has room for so many records.
func TestStatusesHaveRoom(t *testing.T) {
	g, e, _ := twoZones(t)
	e.connect()
	long := strings.Repeat("x", 50<<10)
	e.book.Together(func() {
		for i := range roomOf(federation.BucketLinks).records + 10 {
			doc := fmt.Sprintf(`{"to":"z%d","reason":%q}`, i, long[:2000])
			e.book.Set(federation.BucketLinks, fmt.Sprintf("z%d", i), []byte(doc))
		}
		e.book.Set(federation.BucketFailover, "shop/web", []byte(`{"namespace":"shop","service":"web","reason":"`+long+`"}`))
	})
	eventually(t, "its line says so", func() bool { return strings.Contains(g.message("east"), errStatusFull.Error()) })
	recs, _, err := g.store.ListRecords(t.Context(), "links/east", "")
	if err != nil || len(recs) != roomOf(federation.BucketLinks).records {
		t.Errorf("%d links are kept, %v", len(recs), err)
	}
	eventually(t, "a long reason is clipped", func() bool {
		rec, err := g.store.GetRecord(t.Context(), "failover/east", "shop/web")
		return err == nil && len(rec.Value) < 1000
	})
	// One that goes makes room for another.
	e.book.Together(func() {
		e.book.Set(federation.BucketLinks, "z0", nil)
		e.book.Set(federation.BucketLinks, "new", []byte(`{"to":"new"}`))
	})
	eventually(t, "there is room again", func() bool {
		_, err := g.store.GetRecord(t.Context(), "links/east", "new")
		return err == nil && g.message("east") == ""
	})
}
