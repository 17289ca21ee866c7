package envoy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/xds/topology"
)

// path of a request through the spans that tell of it: reporter@zone of each, from the one whose parent is given.
func (c *collector) path(via, trace, parent string) string {
	_, spans := c.got()
	var out []string
	for {
		i := slices.IndexFunc(spans, func(s span) bool { return s.via == via && s.trace == trace && s.parent == parent })
		if i < 0 {
			return strings.Join(out, " ")
		}
		out = append(out, spans[i].tags["comity.reporter"]+"@"+spans[i].tags["comity.zone"])
		parent = spans[i].id
	}
}

// TestTelemetrySenders: every way of telling a collector, of requests that come by a Gateway of zone one to a server in zone two, and of
// those that leave by the egress. Whoever is asked by a trace's headers goes on with the trace.
func TestTelemetrySenders(t *testing.T) {
	w, edge := edgeWorld(t)
	ca, stranger := newPublicCA(t), newPublicCA(t)
	at, out := w.host(), w.port()
	w.zones[0].Egresses = []topology.EgressProxy{{Name: "out", BindAddress: at, BindPorts: []uint16{out}, Address: at, Ports: []uint16{out}, Ready: true}}
	bank := startOutsider(t, "bank", w.host(), 0, nil)
	port, inside := w.port(), w.port()
	world := fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
kind: ExternalService
metadata: {name: bank}
spec: {hosts: [api.bank.example], ports: [{port: 80, targetPort: %d, protocol: http}], endpoints: [{address: %s}], exit: {gateway: true}}
---
kind: Service
metadata: {name: otel}
origin: one
spec: {selector: {app: echo-2}, ports: [{port: 4317, targetPort: %d, appProtocol: grpc}]}
---
`, port, bank.port, bank.host, inside) + fmt.Sprintf(edgeRoute, "pay", "", "pay.example.com", "pay")
	visitor := visitor{at: edge, port: port}
	tell := func(t *testing.T, what string) {
		t.Helper()
		w.apply(t, world+"---\nkind: TelemetryPolicy\nmetadata: {name: all, namespace: comity-system}\nspec: "+what+"\n")
		// Connections between proxies from before end with their next answer; until then they tell as before.
		visitor.must(t, "pay.example.com", "/")
		w.call(t, call{to: "api.bank.example"})
	}
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	w3c := []string{"Traceparent", "00-" + trace + "-" + parent + "-01"}
	b3 := []string{"X-B3-Traceid", trace, "X-B3-Spanid", parent, "X-B3-Sampled", "1"}
	// ask by the Gateway, and what leaves.
	ask := func(t *testing.T, header ...string) (h http.Header) {
		t.Helper()
		h = visitor.must(t, "pay.example.com", "/", header...).echoed.Header
		sent := map[string]string{}
		for i := 0; i < len(header); i += 2 {
			sent[header[i]] = header[i+1]
		}
		if r := w.call(t, call{to: "api.bank.example", header: sent}); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return h
	}
	told := func(t *testing.T, c *collector, via string) {
		t.Helper()
		// The visitor's trace was followed twice from the same parent; which comes first is not said.
		eventually(t, "the collector is told", func() error {
			_, spans := c.got()
			begun, all := 0, 0
			for _, s := range spans {
				if s.trace == trace && s.parent == parent && s.via == via {
					begun++
				}
				if s.trace == trace {
					all++
				}
			}
			if begun != 2 || all < 4 {
				return fmt.Errorf("%d traces are begun in %+v", begun, spans)
			}
			return nil
		})
		_, spans := c.got()
		for _, s := range spans {
			if s.parent != parent {
				continue
			}
			want := map[string]string{"gateway": "server@two", "client": "egress@one"}[s.tags["comity.reporter"]]
			if got := c.path(via, trace, s.id); got != want {
				t.Errorf("after %s: %q, not %q", s.tags["comity.reporter"], got, want)
			}
		}
	}

	t.Run("Zipkin", func(t *testing.T) {
		c := startCollector(t, "127.0.0.1:0", nil)
		tell(t, fmt.Sprintf(`{tracing: {zipkin: {address: %q}, samplePercent: 100, tags: [{name: user, header: x-user, default: nobody}]}}`, c.address))
		h := ask(t, b3...)
		if h.Get("X-B3-Traceid") != trace || h.Get("X-B3-Sampled") != "1" || h.Get("Traceparent") != "" {
			t.Errorf("the server is told %v", h)
		}
		told(t, c, "zipkin")
		_, spans := c.got()
		if got := spans[0].tags["user"]; got != "nobody" {
			t.Errorf("the tag user is %q", got)
		}
	})
	t.Run("Zipkin with W3C, over TLS", func(t *testing.T) {
		c := startCollector(t, "127.0.0.1:0", ca.issue(t, "zipkin.example"))
		tell(t, fmt.Sprintf(`{tracing: {zipkin: {address: %q, tls: {serverName: zipkin.example, ca: %s}}, w3c: true, samplePercent: 100}}`, c.address, quoted(ca.pem())))
		h := ask(t, b3...)
		if h.Get("X-B3-Traceid") != trace || !strings.HasPrefix(h.Get("Traceparent"), "00-"+trace) {
			t.Errorf("the server is told %v", h)
		}
		told(t, c, "zipkin")
	})
	t.Run("OTLP over HTTP, with TLS", func(t *testing.T) {
		c := startCollector(t, "127.0.0.1:0", ca.issue(t, "otel.example"))
		tell(t, fmt.Sprintf(`{tracing: {otlp: {address: %q, tls: {serverName: otel.example, ca: %s}}, protocol: HTTP, samplePercent: 100}}`, c.address, quoted(ca.pem())))
		if h := ask(t, w3c...); !strings.HasPrefix(h.Get("Traceparent"), "00-"+trace) || h.Get("X-B3-Traceid") != "" {
			t.Errorf("the server is told %v", h)
		}
		told(t, c, "otlp-http")
	})
	t.Run("OTLP over gRPC, with TLS", func(t *testing.T) {
		c, liar := startCollector(t, "127.0.0.1:0", ca.issue(t, "otel.example")), startCollector(t, "127.0.0.1:0", stranger.issue(t, "otel.example"))
		sink := func(c *collector) string {
			return fmt.Sprintf(`{otlp: {address: %q, tls: {serverName: otel.example, ca: %s}}}`, c.address, quoted(ca.pem()))
		}
		tell(t, fmt.Sprintf(`{accessLogs: [%s, %s], tracing: {otlp: {address: %q, tls: {serverName: otel.example, ca: %s}}, samplePercent: 100}}`,
			sink(c), sink(liar), c.address, quoted(ca.pem())))
		ask(t, w3c...)
		told(t, c, "otlp")
		eventually(t, "who logs", func() error {
			logs, _ := c.got()
			var who []string
			for _, l := range logs {
				if l["traceId"] != trace {
					continue
				}
				who = append(who, l["reporter"]+"@"+l["zone"]+" "+l["destination"]+"@"+l["destinationZone"])
			}
			slices.Sort(who)
			want := []string{"client@one external/bank.shop:80@one", "egress@one bank.shop@outside", "gateway@one pay.shop:80@two", "server@two pay.shop@two"}
			if !slices.Equal(who, want) {
				return fmt.Errorf("%q", who)
			}
			return nil
		})
		if logs, _ := liar.got(); len(logs) != 0 {
			t.Errorf("who can't prove to be the collector is told: %v", logs)
		}
	})
	t.Run("a service of the mesh", func(t *testing.T) {
		c := startCollector(t, net.JoinHostPort(w.spec(t, "echo-2").Spec.AppAddress, strconv.Itoa(int(inside))), nil)
		const otel = "{service: {name: otel, namespace: shop, port: 4317}}"
		tell(t, `{accessLogs: [{otlp: `+otel+`}], tracing: {otlp: `+otel+`, samplePercent: 100}}`)
		eventually(t, "gateway, client and egress of the zone tell", func() error {
			ask(t, w3c...) // again: what can't be sent at once is lost, as on a busy machine whose collector takes long to connect to
			logs, spans := c.got()
			seen := map[string]bool{}
			for _, l := range logs {
				seen["log "+l["reporter"]] = true
			}
			for _, s := range spans {
				seen["span "+s.tags["comity.reporter"]] = true
			}
			for _, reporter := range []string{"gateway", "client", "egress"} {
				if !seen["log "+reporter] || !seen["span "+reporter] {
					return fmt.Errorf("%v", seen)
				}
			}
			return nil
		})
		for _, who := range []string{"web", "edge", "out"} {
			if n := w.sidecar(t, who).stat(t, "cluster.otel.shop:4317.ssl.handshake"); n == 0 {
				t.Errorf("%s does not tell by mTLS", who)
			}
		}
		// Telling is not told of: else each would be the reason for the next.
		logs, spans := c.got()
		for _, l := range logs {
			if l["destination"] == "otel.shop" {
				t.Fatalf("%v", l)
			}
		}
		for _, s := range spans {
			if s.tags["comity.destination"] == "otel.shop" {
				t.Fatalf("%v", s)
			}
		}
	})
}

// TestLogFilters: a file gets what meets its filter, and nothing else.
func TestLogFilters(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.apply(t, fmt.Sprintf(`
kind: TelemetryPolicy
metadata: {name: echo}
spec:
  targetRef: {kind: Service, name: echo-v1}
  accessLogs:
  - {file: {path: %[1]s/slow}, filter: {minDuration: 300ms}}
  - {file: {path: %[1]s/broken}, filter: {flags: [UC, UF]}}
  - {file: {path: %[1]s/api}, filter: {pathPrefix: /api, minStatus: 400}}
  - {file: {path: %[1]s/some}, filter: {pathPrefix: /many, samplePercent: 25}}
`, dir))
	// lines are the paths and flags that a file has.
	lines := func(name string) (out []string) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var l struct{ Path, Flags string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			out = append(out, l.Path+" "+l.Flags)
		}
		return out
	}
	const to = "echo-v1.shop" // one server, since two would write into each other's lines
	w.call(t, call{to: to, path: "/slow", header: map[string]string{doDelay: "400ms"}})
	w.call(t, call{to: to, path: "/broken", method: http.MethodPost, header: map[string]string{doReset: "yes"}})
	w.call(t, call{to: to, path: "/api/ok"})
	w.call(t, call{to: to, path: "/api/gone", header: map[string]string{doStatus: "404"}})
	w.call(t, call{to: to, path: "/gone", header: map[string]string{doStatus: "404"}})
	const many = 400
	w.tally(t, many, call{to: to, path: "/many"})
	for name, want := range map[string]string{"slow": "/slow -", "broken": "/broken UC", "api": "/api/gone -"} {
		eventually(t, name, func() error {
			if got := lines(name); len(got) == 0 {
				return fmt.Errorf("nothing")
			}
			return nil
		})
		if got := lines(name); !slices.Equal(slices.DeleteFunc(got, func(l string) bool { return strings.HasPrefix(l, "/many") }), []string{want}) {
			t.Errorf("%s: %q", name, got)
		}
	}
	// 100 are expected; it is less than 50 or more than 150 once in ten million times (normal approximation, 5.7 sigma).
	eventually(t, "a sample", func() error {
		if n := len(lines("some")); n < many/8 || n > many*3/8 {
			return fmt.Errorf("%d of %d", n, many)
		}
		return nil
	})
}
