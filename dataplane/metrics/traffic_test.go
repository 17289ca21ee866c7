package metrics

import (
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

func read(t *testing.T, tr *Traffic, first, second string) map[string]map[string]float64 {
	t.Helper()
	text := func(s string) families {
		f, err := parse(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	self := Self{Role: mesh.RoleSidecar, Identity: "spiffe://one.example/ns/shop/sa/web", Zone: "one"}
	out := map[string]map[string]float64{}
	for _, f := range tr.Read(self, text(first), func() families { return text(second) }) {
		out[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			out[f.GetName()][labelsOf(m, signals.Source, signals.Destination, signals.DestinationZone, signals.CodeClass, signals.Direction)] +=
				m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func labelsOf(m *dto.Metric, names ...string) string {
	var out []string
	for _, n := range names {
		for _, l := range m.GetLabel() {
			if l.GetName() == n {
				out = append(out, l.GetValue())
			}
		}
	}
	return strings.Join(out, " ")
}

func same(t *testing.T, got, want map[string]float64) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, not %v", got, want)
	}
}

// answers are counters of Envoy: so many in all, and so many of zone two.
func answers(all, two int) string {
	return fmt.Sprintf(`# TYPE envoy_cluster_upstream_rq_xx counter
# TYPE envoy_cluster_zone_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="pay.shop_80"} %d
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="zone_cp"} 9
envoy_cluster_zone_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="pay.shop_80",comity_from_zone="one",comity_to_zone="two"} %d
`, all, two)
}

// TestUnplacedAnswers: an answer that is counted but for no zone is one of no zone, unless it was only read a moment too early.
func TestUnplacedAnswers(t *testing.T) {
	tr := NewTraffic()
	same(t, read(t, tr, answers(5, 4), answers(6, 6))[signals.Requests], map[string]float64{"web pay two 5xx": 4})
	same(t, read(t, tr, answers(9, 7), answers(11, 9))[signals.Requests], map[string]float64{"web pay none 5xx": 2, "web pay two 5xx": 7})
	same(t, read(t, tr, answers(10, 9), answers(10, 9))[signals.Requests], map[string]float64{"web pay none 5xx": 2, "web pay two 5xx": 9})
	// Envoy began anew.
	same(t, read(t, tr, answers(1, 1), "")[signals.Requests], map[string]float64{"web pay two 5xx": 1})
}

// streamed are counters of a TCP cluster: bytes sent, and connections by zone that began and are open.
func streamed(sent int, begun, open map[string]int) string {
	var b strings.Builder
	b.WriteString("# TYPE envoy_cluster_upstream_cx_tx_bytes_total counter\n# TYPE envoy_comity_connections counter\n")
	fmt.Fprintf(&b, "envoy_cluster_upstream_cx_tx_bytes_total{envoy_cluster_name=\"db.shop_5432\"} %d\n", sent)
	for z, n := range begun {
		fmt.Fprintf(&b, "envoy_comity_connections{cluster=\"db.shop:5432\",zone=%q} %d\n", z, n)
	}
	b.WriteString("# TYPE envoy_comity_open gauge\n")
	for z, n := range open {
		fmt.Fprintf(&b, "envoy_comity_open{cluster=\"db.shop:5432\",zone=%q} %d\n", z, n)
	}
	return b.String()
}

// TestBytesByZone: the bytes of a cluster are those of the zones that its connections are with, never less than before, and all of them.
func TestBytesByZone(t *testing.T) {
	tr := NewTraffic()
	bytes := func(sent int, begun, open map[string]int) map[string]float64 {
		return read(t, tr, streamed(sent, begun, open), "")[signals.TCPBytes]
	}
	same(t, bytes(100, map[string]int{"one": 2}, map[string]int{"one": 1}), map[string]float64{"web db one sent": 100})
	// The one of zone one has ended, and two of zone two came.
	same(t, bytes(400, map[string]int{"one": 2, "two": 2}, map[string]int{"one": 0, "two": 2}), map[string]float64{"web db one sent": 100, "web db two sent": 300})
	// Both have some: it is divided, and what can't be divided goes to who has most.
	same(t, bytes(501, map[string]int{"one": 3, "two": 3}, map[string]int{"one": 0, "two": 2}), map[string]float64{"web db one sent": 125, "web db two sent": 376})
	same(t, bytes(601, map[string]int{"one": 3, "two": 3}, map[string]int{"one": 0, "two": 0}), map[string]float64{"web db one sent": 175, "web db two sent": 426})
	same(t, bytes(50, map[string]int{"two": 1}, map[string]int{"two": 1}), map[string]float64{"web db two sent": 50})
}

// TestMaxPairs: what is beyond the bound is told as one pair, stays there, and nothing is lost.
func TestMaxPairs(t *testing.T) {
	tr := NewTraffic()
	calls := func(callers int) string {
		var b strings.Builder
		b.WriteString("# TYPE envoy_comity_calls counter\n")
		for i := range callers {
			fmt.Fprintf(&b, "envoy_comity_calls{chain=\"callers/pay.shop:80/two\",caller=\"spiffe://two.example/ns/shop/sa/c%05d\",code=\"200\"} 2\n", i)
		}
		return b.String()
	}
	got := read(t, tr, calls(signals.MaxPairs+50), "")[signals.Requests]
	if len(got) != signals.MaxPairs+1 || got["other other other 2xx"] != 100 {
		t.Errorf("%d series, %v of others", len(got), got["other other other 2xx"])
	}
	again := read(t, tr, calls(signals.MaxPairs+50), "")[signals.Requests]
	same(t, again, got)
}

func TestNames(t *testing.T) {
	n := newNames()
	self := Self{Role: mesh.RoleSidecar, Identity: "spiffe://one.example/ns/shop/sa/web", Zone: "one"}
	for name, want := range map[string]string{
		"pay.shop_80": "pay.shop>two", "pay.shop:80": "pay.shop>two", "pay.shop.west_80": "pay.shop>two", "external/api.shop_443": "api.shop>two",
		"app_80": "", "local/pay.shop_80": "", "zone_cp": "", "collector/otel.shop_80": "", "jwks/keys.example_443/aa": "",
	} {
		p, ok := n.asked(self, name, "two", signals.HTTP)
		if got := p.to.name + "." + p.to.namespace + ">" + p.to.zone; ok != (want != "") || ok && got != want {
			t.Errorf("%s is %v %s, not %s", name, ok, got, want)
		}
	}
	for chain, want := range map[string]string{
		"inbound/pay.shop:80/west": "server pay.shop west>one", "inbound/pay.shop_80/west/l4": "server pay.shop west>one", "callers/pay.shop:80/one": "server pay.shop one>one",
		"plaintext/pay.shop:80": "server pay.shop unknown>one", "egress/api.shop:443/west": "gateway api.shop west>none", "outbound": "", "ingress": "",
	} {
		p, ok := n.served(self, chain, "", signals.HTTP)
		if got := p.reporter + " " + p.to.name + "." + p.to.namespace + " " + p.from.zone + ">" + p.to.zone; ok != (want != "") || ok && got != want {
			t.Errorf("%s is %v %s, not %s", chain, ok, got, want)
		}
	}
	for id, want := range map[string]end{
		"spiffe://one.example/ns/shop/sa/web": {name: "web", namespace: "shop"}, "spiffe://one.example/fed/zone-ingress/gate": {name: "gate", namespace: "zone-ingress"},
		"": {name: "unknown", namespace: "unknown"}, "-": {name: "unknown", namespace: "unknown"}, "spiffe://x/ns/a/sa/b/c": {name: "unknown", namespace: "unknown"},
	} {
		if got := caller(id); got != want {
			t.Errorf("%s is %v", id, got)
		}
	}
}
