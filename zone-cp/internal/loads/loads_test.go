package loads

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

func newBook(t *testing.T) *Book {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	b, err := New(Config{Zone: "east", Records: s, Statuses: federation.NewStatusBook("epoch"), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sidecar(name string) mesh.ProxyID {
	return mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: name}
}

func report(requests, failures, active uint64) *enrolpb.LoadReport {
	return &enrolpb.LoadReport{WindowMs: 2000, Loads: []*enrolpb.Load{{Cluster: "pay.shop:8080", Zone: "west", Requests: requests, Failures: failures, Active: active}}}
}

// looked is what is in the store after a look.
func (b *Book) looked(t *testing.T, at time.Time) map[string]mesh.TrafficStatus {
	t.Helper()
	b.look(at)
	b.write(t.Context())
	list, _, err := b.cfg.Records.ListRecords(t.Context(), b.bucket(), "")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]mesh.TrafficStatus{}
	for _, r := range list {
		var s mesh.TrafficStatus
		if err := json.Unmarshal(r.Value, &s); err != nil {
			t.Fatal(err)
		}
		out[r.Key] = s
	}
	return out
}

func TestFlowsOfAllProxiesAreOne(t *testing.T) {
	b := newBook(t)
	now := time.Now()
	one, two := b.Open(sidecar("one")), b.Open(sidecar("two"))
	one.Report(report(400, 10, 3))
	two.Report(&enrolpb.LoadReport{WindowMs: 1000, Loads: []*enrolpb.Load{
		{Cluster: "pay.shop.west:9090", Zone: "west", Requests: 100}, // pinned, another port: the same service
		{Cluster: "pay.shop:8080", Zone: "east", Requests: 7},
		{Cluster: "app:8080", Zone: "east", Requests: 7}, {Cluster: "pay.shop:8080", Zone: "no zone", Requests: 7},
	}})
	got := b.looked(t, now)
	if s := got["shop/pay/west"]; len(got) != 2 || s.Requests != 300 || s.Failures != 5 || s.Active != 3 || s.Zone != "east" || s.To != "west" {
		t.Fatalf("%+v", got)
	}
	if n := testutil.ToFloat64(b.requests.WithLabelValues("east", "west", "shop", "pay")); n != 500 {
		t.Errorf("%v requests are counted", n)
	}

	// The newer stream of a proxy counts, and an older one can't end it.
	again := b.Open(sidecar("one"))
	again.Report(report(400, 10, 3))
	one.Close()
	one.Report(report(4000, 0, 0))
	if s := b.looked(t, now.Add(period))["shop/pay/west"]; s.Requests != 300 {
		t.Errorf("%+v", s)
	}

	// What ends is shown as nothing, then not at all.
	again.Close()
	two.Close()
	if s, ok := b.looked(t, now.Add(2*period))["shop/pay/west"]; !ok || s.Requests != 0 || s.Failures != 0 || s.Active != 0 {
		t.Errorf("at its end: %+v", s)
	}
	if got := b.looked(t, now.Add(3*period+afterglow)); len(got) != 0 || len(b.flows) != 0 {
		t.Errorf("after its end: %+v", got)
	}
}

func TestARestartForgets(t *testing.T) {
	b := newBook(t)
	if _, err := b.cfg.Records.PutRecords(t.Context(), b.bucket(), store.RecordWrite{Key: "shop/old/west", Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if err := b.forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.looked(t, time.Now()); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestFlowsAreBounded(t *testing.T) {
	b := newBook(t)
	for p := range 8 {
		r := &enrolpb.LoadReport{WindowMs: 2000}
		for i := range 2 * maxPerProxy {
			r.Loads = append(r.Loads, &enrolpb.Load{Cluster: fmt.Sprintf("s%d-%d.shop:80", p, i), Zone: "west", Requests: uint64(10 + p)})
		}
		b.Open(sidecar(fmt.Sprint("p", p))).Report(r)
	}
	got := b.looked(t, time.Now())
	if len(got) != maxFlows {
		t.Fatalf("%d flows are published", len(got))
	}
	if names := slices.Sorted(maps.Keys(got)); strings.HasPrefix(names[0], "shop/s0") {
		t.Errorf("%s is published before busier ones", names[0])
	}
	if n := testutil.CollectAndCount(b.requests); n != maxFlows+1 {
		t.Errorf("%d time series", n)
	}
}

// TestASidecarThatLies: neither absurd numbers nor made-up names get far, and the names not for ever.
func TestASidecarThatLies(t *testing.T) {
	b := newBook(t)
	liar := b.Open(sidecar("liar"))
	liar.Report(&enrolpb.LoadReport{Loads: []*enrolpb.Load{{Cluster: "pay.shop:80", Zone: "west", Requests: math.MaxUint64, Failures: math.MaxUint64, Active: math.MaxUint64}}})
	for name, s := range b.looked(t, time.Now()) {
		if s.Requests != maxCount/minWindow || s.Failures != maxCount/minWindow || s.Active != maxCount {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for turn := range 1 + maxFlows/maxPerProxy {
		r := &enrolpb.LoadReport{WindowMs: 2000}
		for i := range maxPerProxy {
			r.Loads = append(r.Loads, &enrolpb.Load{Cluster: fmt.Sprintf("s%d-%d.shop:80", turn, i), Zone: "west", Requests: 1})
		}
		liar.Report(r)
	}
	if len(b.counted) != maxFlows {
		t.Fatalf("%d flows are counted", len(b.counted))
	}
	for _, c := range b.counted {
		c.used = c.used.Add(-countersIdle)
	}
	b.swept = b.swept.Add(-sweepEvery)
	b.Open(sidecar("honest")).Report(&enrolpb.LoadReport{WindowMs: 2000, Loads: []*enrolpb.Load{{Cluster: "ledger.shop:80", Zone: "west", Requests: 5}}})
	if n := testutil.CollectAndCount(b.requests); n != 2 { // with _other
		t.Errorf("%d time series", n)
	}
}

// Steady traffic is written once; a change is seen with the first sample.
func TestAverage(t *testing.T) {
	for _, rate := range []float64{2, 20, 200, 2000} {
		random := rand.New(rand.NewPCG(1, uint64(rate)))
		poisson := func() float64 {
			n := 0
			for at := random.ExpFloat64(); at < rate*period.Seconds(); at += random.ExpFloat64() {
				n++
			}
			return float64(n) / period.Seconds()
		}
		var a average
		var told sample
		writes := 0
		for range 300 { // ten minutes
			a.add(sample{requests: poisson()})
			if differs(told, a.mean(), a.window()) {
				told, writes = a.mean(), writes+1
			}
		}
		t.Logf("at %v a second: %d writes in ten minutes, the last says %v", rate, writes, significant(told.requests))
		if writes > 40 || told.requests < rate*0.5 || told.requests > rate*1.5 {
			t.Errorf("at %v a second: %d writes, the last says %v", rate, writes, told.requests)
		}
		a.add(sample{requests: rate * 3})
		if rate >= 20 && a.mean().requests != rate*3 {
			t.Errorf("threefold traffic shows as %v, not %v", a.mean().requests, rate*3)
		}
		for range remembered {
			a.add(sample{})
		}
		if !a.mean().zero() {
			t.Errorf("after the end: %+v", a.mean())
		}
	}
}

func TestSignificant(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 0.012345: 0.0123, 1: 1, 199.96: 200, 12345: 12300} {
		if got := significant(in); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
}
