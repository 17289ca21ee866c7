package envoy

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// collector is an OpenTelemetry collector that remembers.
type collector struct {
	address string

	mu    sync.Mutex
	logs  []map[string]string
	spans []span
}

type span struct {
	trace, id, parent string
	tags              map[string]string
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: l.Addr().String()}
	s := grpc.NewServer(grpc.UnknownServiceHandler(c.export))
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
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
	defer c.mu.Unlock()
	for _, of := range logs.ResourceLogs {
		for _, scope := range of.ScopeLogs {
			for _, l := range scope.LogRecords {
				c.logs = append(c.logs, tagsOf(l.Attributes))
			}
		}
	}
	for _, of := range traces.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, sp := range scope.Spans {
				c.spans = append(c.spans, span{hex.EncodeToString(sp.TraceId), hex.EncodeToString(sp.SpanId), hex.EncodeToString(sp.ParentSpanId), tagsOf(sp.Attributes)})
			}
		}
	}
	return s.SendMsg(new(emptypb.Empty))
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
	c := startCollector(t)
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
			if err := json.Unmarshal([]byte(line), &l); err != nil || l["path"] != "/bad" || l["status"] != 500.0 || l["destinationZone"] != "two" {
				return fmt.Errorf("%v: %s", err, line)
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
