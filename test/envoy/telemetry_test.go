package envoy

import (
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// collector takes logs and spans in every form in which they are sent, on one port, and remembers them.
type collector struct {
	address string

	mu    sync.Mutex
	logs  []map[string]string
	spans []span
}

type span struct {
	via               string // otlp, otlp-http or zipkin
	trace, id, parent string
	tags              map[string]string
}

// startCollector listens on an address; with a certificate it speaks TLS alone.
func startCollector(t *testing.T, at string, cert *tls.Certificate) *collector {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: l.Addr().String()}
	overGRPC := grpc.NewServer(grpc.UnknownServiceHandler(c.export))
	h := &http.Server{Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			overGRPC.ServeHTTP(w, r)
		case r.URL.Path == "/v1/traces":
			c.takeOTLP(w, r)
		case r.URL.Path == "/api/v2/spans":
			c.takeZipkin(w, r)
		default:
			http.NotFound(w, r)
		}
	})}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(cert != nil)
	h.Protocols.SetUnencryptedHTTP2(cert == nil)
	go func() { // ends with Close
		if cert == nil {
			_ = h.Serve(l)
			return
		}
		h.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
		_ = h.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() { _ = h.Close(); overGRPC.Stop() })
	return c
}

// export serves both services of OTLP, whose requests are LogsData and TracesData on the wire.
func (c *collector) export(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	var logs logsv1.LogsData
	var traces tracev1.TracesData
	var into proto.Message = &logs
	if strings.Contains(method, ".trace.") {
		into = &traces
	}
	if err := s.RecvMsg(into); err != nil {
		return err
	}
	c.mu.Lock()
	for _, of := range logs.ResourceLogs {
		for _, scope := range of.ScopeLogs {
			for _, l := range scope.LogRecords {
				c.logs = append(c.logs, tagsOf(l.Attributes))
			}
		}
	}
	c.mu.Unlock()
	c.keep("otlp", &traces)
	return s.SendMsg(new(emptypb.Empty))
}

func (c *collector) keep(via string, traces *tracev1.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range traces.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, sp := range scope.Spans {
				c.spans = append(c.spans, span{via, hex.EncodeToString(sp.TraceId), hex.EncodeToString(sp.SpanId), hex.EncodeToString(sp.ParentSpanId), tagsOf(sp.Attributes)})
			}
		}
	}
}

func (c *collector) takeOTLP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	traces := new(tracev1.TracesData)
	if err := errors.Join(err, proto.Unmarshal(body, traces)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.keep("otlp-http", traces)
}

func (c *collector) takeZipkin(w http.ResponseWriter, r *http.Request) {
	var list []struct {
		TraceID, ID, ParentID string
		Tags                  map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		c.spans = append(c.spans, span{"zipkin", s.TraceID, s.ID, s.ParentID, s.Tags})
	}
	w.WriteHeader(http.StatusAccepted)
}

func tagsOf(list []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		out[kv.Key] = kv.GetValue().GetStringValue()
	}
	return out
}

func (c *collector) got() (logs []map[string]string, spans []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.logs), slices.Clone(c.spans)
}

// TestTelemetry: only failures are logged to a file; a collector is told of all with both zones, and of one trace over them.
func TestTelemetry(t *testing.T) {
	w := newWorld(t)
	c := startCollector(t, "127.0.0.1:0", nil)
	file := filepath.Join(t.TempDir(), "errors.json")
	w.apply(t, fmt.Sprintf(`
kind: TelemetryPolicy
metadata: {name: all}
spec:
  accessLogs:
  - {file: {path: %s}, filter: {minStatus: 500}}
  - {otlp: {address: %q}}
  tracing: {otlp: {address: %q}, samplePercent: 100, tags: [{name: env, literal: test}, {name: user, header: x-user}]}
`, file, c.address, c.address))
	const trace = "0af7651916cd43dd8448eb211c80319c"
	w.call(t, call{to: payHost, path: "/ok", header: map[string]string{"traceparent": "00-" + trace + "-b7ad6b7169203331-01", "x-user": "ann"}})
	if r := w.call(t, call{to: payHost, path: "/bad", header: map[string]string{doStatus: "500"}}); r.status != http.StatusInternalServerError {
		t.Fatalf("status %d", r.status)
	}
	eventually(t, "the collector is told", func() error {
		logs, spans := c.got()
		var zones []string
		for _, l := range logs {
			if l["path"] == "/ok" {
				zones = append(zones, l["reporter"]+":"+l["sourceZone"]+">"+l["destinationZone"]+"/"+l["traceId"])
			}
		}
		slices.Sort(zones)
		if want := "client:one>two/" + trace + " server:one>two/" + trace; strings.Join(zones, " ") != want {
			return fmt.Errorf("logs of %q, not %q", zones, want)
		}
		by := map[string]span{}
		for _, s := range spans {
			if s.trace == trace {
				by[s.tags["comity.reporter"]] = s
			}
		}
		client, server := by["client"], by["server"]
		if client.parent != "b7ad6b7169203331" || server.parent != client.id || server.tags["comity.zone"] != "two" ||
			client.tags["comity.destination.zone"] != "two" || client.tags["comity.zone"] != "one" || client.tags["user"] != "ann" || server.tags["env"] != "test" {
			return fmt.Errorf("spans %+v", by)
		}
		return nil
	})
	eventually(t, "the file has the failure, twice", func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if len(lines) != 2 {
			return fmt.Errorf("%d lines: %s", len(lines), text)
		}
		for _, line := range lines {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				return fmt.Errorf("%w: %s", err, line)
			}
			if l["path"] != "/bad" || l["status"] != 500.0 || l["destinationZone"] != "two" {
				return fmt.Errorf("it does not tell of the request: %s", line)
			}
		}
		return nil
	})
}

// TestTelemetryChange: a change of what is told renews connections, and fails no request.
func TestTelemetryChange(t *testing.T) {
	w := newWorld(t)
	stop, done := make(chan struct{}), make(chan map[string]int)
	h := client(t, false)
	go func() {
		out := map[string]int{}
		defer func() { done <- out }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, err := w.tryWith(t, h, call{})
			if err != nil || r.status != http.StatusOK {
				out[fmt.Sprintf("%d %v", r.status, err)]++
				continue
			}
			out["ok"]++
		}
	}()
	for i := range 6 {
		w.apply(t, fmt.Sprintf("kind: TelemetryPolicy\nmetadata: {name: all}\nspec: {accessLogs: [{file: {path: /dev/null}, filter: {minStatus: %d}}]}\n", 400+i))
	}
	close(stop)
	got := <-done
	t.Logf("%v", got)
	if len(got) != 1 || got["ok"] == 0 {
		t.Errorf("requests during 6 changes: %v", got)
	}
}
