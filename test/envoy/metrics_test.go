package envoy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/comity-mesh/comity/dataplane/metrics"
	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

// exporter is what the agent of a proxy tells Prometheus.
type exporter struct{ *metrics.Exporter }

func (w *world) exporter(t *testing.T, name, application string) exporter {
	t.Helper()
	p := w.sidecar(t, name)
	zone := w.zones[0]
	if name == "pay-1" || name == "gate" {
		zone = w.zones[1]
	}
	return exporter{metrics.NewExporter(metrics.Config{
		Own: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Application: application,
		Self: func() metrics.Self {
			id := fmt.Sprintf("spiffe://%s/ns/shop/sa/%s", zone.TrustDomain, name)
			if p.id.Role != mesh.RoleSidecar {
				id = fmt.Sprintf("spiffe://%s/fed/zone-%s/%s", zone.TrustDomain, p.id.Role, name)
			}
			return metrics.Self{Role: p.id.Role, Identity: id, Zone: zone.Zone}
		},
		Envoy: func(ctx context.Context, path string, to io.Writer) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
			if err != nil {
				return err
			}
			r, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			_, err = io.Copy(to, r.Body)
			return err
		},
	})}
}

// scraped is one answer to Prometheus.
type scraped map[string]*dto.MetricFamily

func scrape(t *testing.T, e exporter) scraped {
	t.Helper()
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	p := expfmt.NewTextParser(model.LegacyValidation)
	got, err := p.TextToMetricFamilies(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sum adds up the series whose labels have the values, given as "name=value"; of a histogram it is how many were observed.
func (s scraped) sum(name string, labels ...string) float64 {
	var sum float64
	for _, m := range s[name].GetMetric() {
		has := map[string]bool{}
		for _, l := range m.GetLabel() {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		ok := true
		for _, l := range labels {
			ok = ok && has[l]
		}
		if ok {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// text is the series of some metrics, for messages.
func (s scraped) text(prefix string) string {
	var b strings.Builder
	for name, f := range s {
		if strings.HasPrefix(name, prefix) {
			_, _ = expfmt.MetricFamilyToText(&b, f)
		}
	}
	return b.String()
}

// is fails unless series add up to a number.
func (s scraped) is(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	if got := s.sum(name, labels...); got != want {
		t.Errorf("%s%v is %v, not %v, of\n%s", name, labels, got, want, s.text(name))
	}
}

// measured waits until so many durations are told: Envoy may answer before it has those that its threads measured last.
func (e exporter) measured(t *testing.T, want float64, labels ...string) {
	t.Helper()
	eventually(t, "durations are told", func() error {
		if got := scrape(t, e); got.sum(signals.RequestDuration, labels...) != want {
			return fmt.Errorf("not %v, of\n%s", want, got.text(signals.RequestDuration))
		}
		return nil
	})
}

// TestMetricsOfPairs: of 100 requests with 5 errors both ends tell 100 and 5, with who asked whom from zone to zone, however often a
// request was tried and whoever answered it.
func TestMetricsOfPairs(t *testing.T) {
	w := newWorldOf(t, true)
	web, pay := w.exporter(t, "web", ""), w.exporter(t, "pay-1", "")
	h := client(t, false)
	for i := range 100 {
		c := call{to: payHost}
		if i%20 == 0 {
			c.header = map[string]string{doStatus: "500"}
		}
		if _, err := w.tryWith(t, h, c); err != nil {
			t.Fatal(err)
		}
	}
	toPay := []string{"destination=pay", "destination_namespace=shop", "destination_zone=two", "source_zone=one", "protocol=http"}
	client := append(toPay, "reporter=client", "source=web", "source_namespace=shop")
	server := append(toPay, "reporter=server", "source=unknown", "source_namespace=unknown")
	got := scrape(t, web)
	got.is(t, 100, signals.Requests)
	got.is(t, 100, signals.Requests, client...)
	got.is(t, 5, signals.Requests, append(client, "code_class=5xx")...)
	got.is(t, 95, signals.Requests, append(client, "code_class=2xx")...)
	web.measured(t, 100, client...)
	got = scrape(t, pay)
	got.is(t, 100, signals.Requests, server...)
	got.is(t, 5, signals.Requests, append(server, "code_class=5xx")...)
	pay.measured(t, 100, server...)
	// Envoy measures whole milliseconds.
	w.call(t, call{to: payHost, header: map[string]string{doDelay: "40ms"}})
	web.measured(t, 101)
	pay.measured(t, 101)
	for _, at := range []exporter{web, pay} {
		if sum := scrape(t, at)[signals.RequestDuration].GetMetric()[0].GetHistogram().GetSampleSum(); sum < 0.04 || sum > 100 {
			t.Errorf("101 requests, one of 40 ms, took %v s", sum)
		}
	}
}

// TestMetricsOfFailures: what Envoys answer themselves is counted where it belongs, and a request that is tried again once.
func TestMetricsOfFailures(t *testing.T) {
	w := newWorldOf(t, true)
	web, echo := w.exporter(t, "web", ""), w.exporter(t, "echo-1", "")
	w.apply(t, `
kind: TrafficPolicy
metadata: {name: some-fail}
spec:
  targetRef: {kind: Service, name: echo-v1}
  fault: {abort: {status: 503, percent: 100}}
---
kind: AuthorizationPolicy
metadata: {name: not-web}
spec: {targetRef: {kind: Service, name: echo-v2}, action: Deny, rules: [{}]}
`)
	for range 7 {
		w.call(t, call{to: "echo-v1.shop.svc.clusterset.local"}) // aborted at the client
	}
	for range 6 {
		w.call(t, call{to: "echo-v2.shop.svc.clusterset.local"}) // refused at the server
	}
	r := w.call(t, call{header: map[string]string{doKey: "again", doFail: "1", doStatus: "503"}}) // tried again
	if r.status != http.StatusOK {
		t.Fatalf("status %d: a 503 was not tried again", r.status)
	}
	if _, err := w.callGRPC(t, "web", echoHost+":9090", "/shop.Echo/Do", map[string]string{doStatus: "5"}); err == nil {
		t.Fatal("gRPC: no error")
	}
	got := scrape(t, web)
	got.is(t, 7, signals.Requests, "destination=echo-v1", "destination_zone=none", "code_class=5xx", "source=web")
	got.is(t, 7, signals.Requests, "destination=echo-v1")
	got.is(t, 6, signals.Requests, "destination=echo-v2", "destination_zone=one", "code_class=4xx")
	got.is(t, 2, signals.Requests, "destination=echo", "code_class=2xx", "destination_zone=one") // one is that of gRPC
	got.is(t, 2, signals.Requests, "destination=echo")
	got.is(t, 1, signals.GRPCErrors, "destination=echo", "grpc_status=NOT_FOUND", "destination_zone=one")
	got.is(t, 1, signals.GRPCErrors)
	got.is(t, 1, "comity_proxy_retries_total", "cluster=echo.shop:80")
	// At the servers an attempt is a request.
	both := scrape(t, echo)
	for name, f := range scrape(t, w.exporter(t, "echo-2", "")) {
		if both[name] == nil {
			both[name] = f
		} else {
			both[name].Metric = append(both[name].Metric, f.Metric...)
		}
	}
	both.is(t, 6, signals.Requests, "reporter=server", "destination=echo-v2", "code_class=4xx", "source_zone=one")
	both.is(t, 1, signals.Requests, "destination=echo", "code_class=5xx")
	both.is(t, 1, signals.GRPCErrors, "reporter=server", "grpc_status=NOT_FOUND")

	// Nobody is there.
	w.service("ghost", `{"app":"ghost"}`, "one")
	w.publish(t)
	for range 3 {
		if r := w.call(t, call{to: "ghost.shop.svc.clusterset.local"}); r.status != http.StatusServiceUnavailable {
			t.Fatalf("status %d", r.status)
		}
	}
	got = scrape(t, web)
	got.is(t, 3, signals.Requests, "destination=ghost", "destination_zone=none", "code_class=5xx")
	got.is(t, 3, signals.Requests, "destination=ghost")
}

// TestMetricsOfLimits: timeouts, limits at both ends, copies and answers of routes are counted as the docs say.
func TestMetricsOfLimits(t *testing.T) {
	w := newWorldOf(t, true)
	web, echo := w.exporter(t, "web", ""), w.exporter(t, "echo-1", "")
	w.apply(t, `
kind: TrafficPolicy
metadata: {name: slow}
spec: {targetRef: {kind: Service, name: echo-v1}, timeouts: {request: 200ms}, rateLimit: {requests: [{name: two, limit: {count: 2, per: 1h}}]}}
---
kind: HTTPRoute
metadata: {name: copies}
spec:
  parentRefs: [{kind: Service, group: "", name: pay}]
  rules:
  - matches: [{path: {value: /away}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: example.com}}]
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}]
    backendRefs: [{name: pay, port: 80}]
`)
	const v1 = "echo-v1.shop.svc.clusterset.local"
	for _, c := range []struct {
		call
		status int
	}{
		{call{to: v1}, 200},
		{call{to: v1, header: map[string]string{doDelay: "2s"}}, 504},
		{call{to: v1}, 429},
		{call{to: payHost, path: "/away"}, 302},
		{call{to: payHost}, 200},
	} {
		if r := w.call(t, c.call); r.status != c.status {
			t.Fatalf("%+v: status %d", c.call, r.status)
		}
	}
	eventually(t, "the copy is counted", func() error {
		if n := scrape(t, web).sum(signals.Requests, "destination=echo-v2"); n != 1 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	got := scrape(t, web)
	got.is(t, 1, signals.Requests, "destination=echo-v1", "code_class=2xx", "destination_zone=one")
	got.is(t, 1, signals.Requests, "destination=echo-v1", "code_class=5xx", "destination_zone=one")
	got.is(t, 1, signals.Requests, "destination=echo-v1", "code_class=4xx", "destination_zone=one")
	got.is(t, 1, signals.Requests, "destination=pay")
	got.is(t, 5-1+1, signals.Requests) // not the redirect, but the copy
	scrape(t, echo).is(t, 1, signals.Requests, "destination=echo-v1", "code_class=4xx")
}

// TestMetricsOfFailover: when a zone loses a service, the zone of the destination changes in both kinds of traffic, and nothing else.
func TestMetricsOfFailover(t *testing.T) {
	w := newWorldOf(t, true)
	w.service("pay", `{"app":"pay-0"}`, "one")
	w.workload(0, "pay-0", nil)
	w.publish(t)
	web := w.exporter(t, "web", "")
	ask := func(n int) {
		t.Helper()
		for range n {
			if r := w.call(t, call{to: payHost}); r.status != http.StatusOK {
				t.Fatalf("status %d", r.status)
			}
		}
		c, _, err := w.dialTCP(t, "web", "pay")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	ask(10)
	w.healthy(t, "pay-0", false)
	w.publish(t)
	ask(20)
	got := scrape(t, web)
	got.is(t, 30, signals.Requests, "destination=pay", "code_class=2xx")
	got.is(t, 10, signals.Requests, "destination=pay", "destination_zone=one")
	got.is(t, 20, signals.Requests, "destination=pay", "destination_zone=two")
	web.measured(t, 20, "destination=pay", "destination_zone=two")
	got.is(t, 1, signals.TCPConnections, "destination=pay", "destination_zone=one")
	got.is(t, 1, signals.TCPConnections, "destination=pay", "destination_zone=two")
}

// healthy says whether a workload is ready, from the next publish on.
func (w *world) healthy(t *testing.T, name string, healthy bool) {
	t.Helper()
	for _, z := range w.zones {
		for i := range z.Workloads {
			if z.Workloads[i].Name == name {
				z.Workloads[i].Healthy = healthy
				return
			}
		}
	}
	t.Fatalf("there is no workload %s", name)
}

// TestMetricsOfTCP: connections and their bytes are told while they are open, at both ends, and by caller at the server.
func TestMetricsOfTCP(t *testing.T) {
	w := newWorldOf(t, true)
	web, pay := w.exporter(t, "web", ""), w.exporter(t, "pay-1", "")
	const size = 5 << 20
	c, greeting, err := w.dialTCP(t, "web", "pay")
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, c, size); err != nil { // it is an echo
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	received := float64(size + len(greeting) + 1)
	both := func(check func(s scraped, labels ...string)) {
		t.Helper()
		check(scrape(t, web), "reporter=client", "source=web", "source_zone=one", "destination=pay", "destination_zone=two", "protocol=tcp")
		check(scrape(t, pay), "reporter=server", "source=web", "source_zone=one", "destination=pay", "destination_zone=two", "protocol=tcp")
	}
	both(func(s scraped, labels ...string) {
		s.is(t, 1, signals.TCPConnections, labels...)
		s.is(t, 1, signals.TCPOpen, labels...)
		s.is(t, size, signals.TCPBytes, append(labels, "direction=sent")...)
		s.is(t, received, signals.TCPBytes, append(labels, "direction=received")...)
	})
	_ = c.Close()
	eventually(t, "it has ended", func() error {
		for _, e := range []exporter{web, pay} {
			if n := scrape(t, e).sum(signals.TCPOpen); n != 0 {
				return fmt.Errorf("%v are open", n)
			}
		}
		return nil
	})
	both(func(s scraped, labels ...string) {
		s.is(t, 1, signals.TCPConnections, labels...)
		s.is(t, size, signals.TCPBytes, append(labels, "direction=sent")...)
	})
}

// TestMetricsOfCallers: a server tells its callers apart where a policy wants that, and goes on counting without.
func TestMetricsOfCallers(t *testing.T) {
	w := newWorldOf(t, true)
	pay := w.exporter(t, "pay-1", "")
	w.call(t, call{to: payHost})
	scrape(t, pay).is(t, 1, signals.Requests, "source=unknown", "source_zone=one", "destination=pay")
	w.apply(t, "kind: TelemetryPolicy\nmetadata: {name: callers}\nspec: {targetRef: {kind: Service, name: pay}, metrics: {callers: true}}\n")
	eventually(t, "requests come by the new chain", func() error {
		w.call(t, call{to: payHost, header: map[string]string{doStatus: "404"}})
		if n := scrape(t, pay).sum(signals.Requests, "source=web"); n < 3 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	before := scrape(t, pay).sum(signals.Requests, "source=web", "code_class=4xx")
	w.call(t, call{from: "echo-1", to: payHost})
	for range 5 {
		w.call(t, call{to: payHost, header: map[string]string{doStatus: "404"}})
	}
	got := scrape(t, pay)
	got.is(t, before+5, signals.Requests, "source=web", "source_namespace=shop", "source_zone=one", "destination_zone=two", "code_class=4xx")
	got.is(t, 1, signals.Requests, "source=echo-1", "source_zone=one", "code_class=2xx", "reporter=server")
}

// TestMetricsOfMethods: a server tells methods apart where a policy wants that, and whatever else a caller makes up is one.
func TestMetricsOfMethods(t *testing.T) {
	w := newWorldOf(t, true)
	pay := w.exporter(t, "pay-1", "")
	w.call(t, call{to: payHost})
	if got := scrape(t, pay); len(got[signals.MethodRequests].GetMetric()) > 0 {
		t.Errorf("nobody asked for\n%s", got.text(signals.MethodRequests))
	}
	w.apply(t, "kind: TelemetryPolicy\nmetadata: {name: methods}\nspec: {targetRef: {kind: Service, name: pay}, metrics: {methods: true, callers: true}}\n")
	eventually(t, "requests come by the new chain", func() error {
		w.call(t, call{to: payHost, method: http.MethodHead})
		if n := scrape(t, pay).sum(signals.MethodRequests, "method=HEAD"); n < 3 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	for method, n := range map[string]int{http.MethodGet: 3, http.MethodPost: 2, http.MethodDelete: 1} {
		for range n {
			w.call(t, call{to: payHost, method: method, header: map[string]string{doStatus: "409"}})
		}
	}
	// HTTP/2 passes any method on.
	const strange = 30
	for i := range strange {
		w.call(t, call{to: payHost, method: fmt.Sprintf("MADEUP%d", i), h2: true})
	}
	got := scrape(t, pay)
	of := func(method, class string) []string {
		return []string{"reporter=server", "destination=pay", "destination_zone=two", "source=unknown", "source_zone=one", "protocol=http", "method=" + method, "code_class=" + class}
	}
	got.is(t, 3, signals.MethodRequests, of("GET", "4xx")...)
	got.is(t, 2, signals.MethodRequests, of("POST", "4xx")...)
	got.is(t, 1, signals.MethodRequests, of("DELETE", "4xx")...)
	got.is(t, strange, signals.MethodRequests, of("other", "2xx")...)
	if n := len(got[signals.MethodRequests].GetMetric()); n != 5 {
		t.Errorf("%d series\n%s", n, got.text(signals.MethodRequests))
	}
	got.is(t, got.sum(signals.MethodRequests), signals.Requests, "reporter=server", "source=web")
}

// TestMetricsOfRules: who asks tells of the named rules of a service as much as a policy for it wants.
func TestMetricsOfRules(t *testing.T) {
	w := newWorldOf(t, true)
	web := w.exporter(t, "web", "")
	const route = `
kind: HTTPRoute
metadata: {name: pay}
spec:
  parentRefs: [{group: "", kind: Service, name: pay}]
  rules:
  - {name: charge, matches: [{path: {type: PathPrefix, value: /charge}}, {path: {type: PathPrefix, value: /refund}}], backendRefs: [{name: pay, port: 80}]}
  - {backendRefs: [{name: pay, port: 80}]}
`
	of := []string{"route_namespace=shop", "route=pay", "rule=charge"}
	ask := func() {
		for range 3 {
			w.call(t, call{to: payHost, path: "/charge", header: with(doDelay, "30ms")})
		}
		w.call(t, call{to: payHost, path: "/refund", header: map[string]string{doStatus: "404"}})
		w.call(t, call{to: payHost, path: "/else"})
	}
	w.apply(t, route)
	ask()
	got := scrape(t, web)
	got.is(t, 3, signals.RuleRequests, append(of, "code_class=2xx")...)
	got.is(t, 4, signals.RuleRequests)
	got.is(t, 0, signals.RuleDuration)
	with := func(rules string) {
		w.apply(t, route+"\n---\nkind: TelemetryPolicy\nmetadata: {name: rules}\nspec: {targetRef: {kind: Service, name: pay}, metrics: {rules: "+rules+"}}\n")
	}

	with("Durations")
	ask()
	eventually(t, "durations are told", func() error {
		if got = scrape(t, web); got.sum(signals.RuleDuration, of...) != 4 {
			return fmt.Errorf("not 4, of\n%s", got.text("comity_rule_"))
		}
		return nil
	})
	h := got[signals.RuleDuration].GetMetric()[0].GetHistogram()
	if h.GetSampleSum() < 0.09 || h.GetSampleSum() > 5 || h.GetBucket()[3].GetCumulativeCount() > 1 { // one was quick, 10 ms at most
		t.Errorf("%v", h)
	}

	with("None")
	before := scrape(t, web).sum(signals.RuleRequests)
	ask()
	got = scrape(t, web)
	if n := got.sum(signals.RuleRequests); n > before {
		t.Errorf("%v, after %v:\n%s", n, before, got.text("comity_rule_"))
	}
}

// TestMetricsOfGateway: an ingress tells what it asks for who is outside.
func TestMetricsOfGateway(t *testing.T) {
	w, at := edgeWorld(t)
	port := w.port()
	w.apply(t, fmt.Sprintf("kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}\n---\n", port)+
		fmt.Sprintf(edgeRoute, "pay", "", "pay.example.com", "pay"))
	for range 3 {
		(visitor{at: at, port: port}).must(t, "pay.example.com", "/")
	}
	got := scrape(t, w.exporter(t, "edge", ""))
	got.is(t, 3, signals.Requests, "reporter=gateway", "source=edge", "source_namespace=zone-ingress", "source_zone=one", "destination=pay", "destination_zone=two", "code_class=2xx")
	got.is(t, 3, signals.Requests)
}

// TestMetricsOfApplication: the application's own metrics are part of its proxy's; one that is broken, slow or gone takes nothing
// away.
func TestMetricsOfApplication(t *testing.T) {
	w := newWorldOf(t, true)
	w.call(t, call{to: payHost})
	for _, c := range []struct {
		name, body string
		slow       bool
		up         float64
	}{
		{"good", "# TYPE orders_total counter\norders_total{kind=\"book\"} 7\n# TYPE process_open_fds gauge\nprocess_open_fds 3\n", false, 1},
		{"of the mesh", "comity_requests_total{reporter=\"client\"} 1000\norders_total{kind=\"book\"} 7\n", false, 1},
		{"twice", "orders_total{kind=\"book\"} 7\norders_total{kind=\"book\"} 7\n", false, 1},
		{"broken", "orders_total{kind=\"book\"} 7\n<html>", false, 0},
		{"too long", strings.Repeat("# a comment of 32 bytes, or more\n", 1<<18), false, 0},
		{"slow", "orders_total 7\n", true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.slow {
					<-r.Context().Done()
					return
				}
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(app.Close)
			got := scrape(t, w.exporter(t, "web", app.URL+"/metrics"))
			got.is(t, c.up, signals.AppUp)
			got.is(t, 7*c.up, "orders_total")
			got.is(t, 1, signals.Requests)
		})
	}
	got := scrape(t, w.exporter(t, "web", "http://127.0.0.1:1/metrics"))
	got.is(t, 0, signals.AppUp)
	got.is(t, 1, signals.Requests)
}
