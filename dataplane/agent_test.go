package dataplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
)

func unmarshalJSON(raw []byte, m proto.Message) error { return protojson.Unmarshal(raw, m) }

// output collects a log safely and shows it when a test fails.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is an agent under test.
type running struct {
	t      *testing.T
	config Config
	log    *output
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func sidecarConfig(t *testing.T, z *testZone) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		Name: "web-1", Token: z.token("shop", "web", 1), DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"),
		InfoFile: filepath.Join(dir, "info.json"), MetricsAddress: "127.0.0.1:0", DrainTime: 200 * time.Millisecond,
		Envoy:   Envoy{Path: must(envoybin.Path())(t)},
		Sidecar: &Sidecar{Labels: map[string]string{"app": "web"}, Workload: Workload{Address: "127.0.0.1"}},
	}
}

func start(t *testing.T, c Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, config: c, log: &output{}, cancel: cancel, ended: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() {
		defer close(r.ended)
		r.err = Run(ctx, c, log)
	}()
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("agent: %v\n%s", r.err, r.log)
		}
	})
	return r
}

func (r *running) stop() error {
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		r.t.Error("the agent does not end")
	}
	return r.err
}

func (r *running) info() Info {
	var i Info
	raw, err := os.ReadFile(r.config.InfoFile)
	if err == nil {
		err = json.Unmarshal(raw, &i)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Error(err)
	}
	return i
}

func (r *running) ready() Info {
	r.t.Helper()
	var i Info
	eventually(r.t, "the agent is ready", func() bool {
		select {
		case <-r.ended:
			r.t.Fatalf("the agent ended: %v", r.err)
		default:
		}
		i = r.info()
		return i.Ready
	})
	return i
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url) //nolint:gosec // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	return res.StatusCode, string(must(io.ReadAll(res.Body))(t))
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestSidecarFromTokenToOrderlyEnd(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	c.Sidecar.Workload.Upstreams = []Upstream{{Service: "db", Port: 5432}}
	a := start(t, c)
	i := a.ready()

	if i.Identity != "spiffe://east.example/ns/shop/sa/web" || i.Proxy != "sidecar~shop~web-1" || i.Zone != "east" {
		t.Errorf("got %+v", i)
	}
	eventually(t, "the zone hears that Envoy is ready", func() bool { h := z.lastHealth(); return h.GetEnvoyReady() && h.GetHealthy() })
	if v := z.lastHealth().GetEnvoyVersion(); v != "1.40.0" {
		t.Errorf("version %q", v)
	}
	w, labels := z.workload()
	if w.ServiceAccount != "web" || w.InboundPort == 0 || w.InboundPort != i.InboundPort || w.OutboundPort == 0 ||
		len(w.Upstreams) != 1 || w.Upstreams[0].LocalPort == 0 || labels["app"] != "web" {
		t.Errorf("registered %+v %v", w, labels)
	}
	if code, body := get(t, "http://"+i.Metrics+"/readyz"); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	if _, body := get(t, "http://"+i.Metrics+"/metrics"); !strings.Contains(body, "comity_agent_envoy_ready 1") || !strings.Contains(body, "envoy_server_live") {
		t.Errorf("metrics lack the agent's or Envoy's:\n%s", body)
	}
	limits := string(must(os.ReadFile("/proc/" + strconv.Itoa(i.EnvoyPID) + "/limits"))(t))
	own := string(must(os.ReadFile("/proc/self/limits"))(t))
	if line(limits, "Max open files") != line(own, "Max open files") || strings.Contains(line(limits, "Max open files"), " 1024 ") {
		t.Errorf("Envoy's limit of files: %s", line(limits, "Max open files"))
	}
	if env := must(os.ReadFile("/proc/" + strconv.Itoa(i.EnvoyPID) + "/environ"))(t); len(env) != 0 {
		t.Errorf("Envoy has an environment: %q", env)
	}
	if err := a.stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if z.count(func(r *enrolpb.AgentReport) bool { return r.GetLeaving() }) != 1 {
		t.Error("the zone was not told that the proxy leaves")
	}
	if alive(i.EnvoyPID) {
		t.Error("Envoy outlived its agent")
	}
	if _, err := os.Stat(c.RunDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run directory stays: %v", err)
	}
}

func line(text, prefix string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, prefix) {
			return l
		}
	}
	return ""
}

func TestRestartsWithoutTokenByInstanceKey(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	a := start(t, c)
	a.ready()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	info := must(os.Stat(filepath.Join(c.DataDir, "instance.json")))(t)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("instance file has mode %o", info.Mode().Perm())
	}
	must(0, os.Remove(c.InfoFile))(t)
	c.Token, c.Namespace = "", ""
	before := z.renewed()
	if i := start(t, c).ready(); i.Identity != "spiffe://east.example/ns/shop/sa/web" {
		t.Errorf("got %+v", i)
	}
	if z.renewed() != before+1 {
		t.Error("the certificate was not got by the instance key")
	}
}

func TestEnvoyIsRestarted(t *testing.T) {
	z := newTestZone(t)
	a := start(t, sidecarConfig(t, z))
	first := a.ready()
	if err := syscall.Kill(first.EnvoyPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another Envoy is ready", func() bool {
		i := a.info()
		return i.Ready && i.EnvoyPID != first.EnvoyPID
	})
	if z.count(func(r *enrolpb.AgentReport) bool { return r.GetHealth() != nil && !r.GetHealth().GetEnvoyReady() }) < 1 {
		t.Error("the zone never heard that Envoy was gone")
	}
	if _, body := get(t, "http://"+first.Metrics+"/metrics"); !strings.Contains(body, "comity_agent_envoy_starts_total 2") {
		t.Error("the restart is not counted")
	}
}

func TestRenewalReachesEnvoyAndKeysStayInside(t *testing.T) {
	z := newTestZone(t)
	// Below what an authority issues to workloads, so that half of it passes within the test.
	z.ttl = 5 * time.Minute
	c := sidecarConfig(t, z)
	port := must((&reservation{}).pick(context.Background(), "127.0.0.1"))(t)
	z.serveTLS(port)
	c.Envoy.LogLevel = "debug"
	a := start(t, c)
	i := a.ready()
	leaf := func() string {
		conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // looks at what is presented
		if err != nil {
			return ""
		}
		defer func() { _ = conn.Close() }()
		certs := conn.ConnectionState().PeerCertificates
		return certs[0].SerialNumber.String() + certs[0].URIs[0].String()
	}
	var before string
	eventually(t, "Envoy presents its identity", func() bool { before = leaf(); return before != "" })
	if !strings.HasSuffix(before, i.Identity) {
		t.Errorf("Envoy presents %s", before)
	}
	_ = a
	dump := func(path string) string {
		var b strings.Builder
		if err := newAdmin(filepath.Join(c.RunDir, fileAdmin)).get(context.Background(), path, &b, 1<<24); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if !strings.Contains(dump("/certs"), "spiffe://east.example/ns/shop/sa/web") {
		t.Error("/certs does not show the identity")
	}
	for _, out := range []string{dump("/config_dump?include_eds"), dump("/certs"), a.log.String(), string(must(os.ReadFile(filepath.Join(c.RunDir, fileBootstrap)))(t))} {
		if strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, "LS0tLS1CRUdJTiBQUklWQVRFIEtFW") {
			t.Error("a private key is shown")
		}
	}
}

func TestRefusals(t *testing.T) {
	z := newTestZone(t)
	used := sidecarConfig(t, z)
	used.Token = z.token("shop", "web", 0+1)
	for id, tok := range z.tokens {
		tok.left = 0
		z.tokens[id] = tok
	}
	other := sidecarConfig(t, newTestZone(t))
	other.ZoneAddresses = []string{z.address} // whose root is not the pinned one
	scope := sidecarConfig(t, z)
	scope.Namespace = "pay"
	none := sidecarConfig(t, z)
	none.Token = ""
	public := sidecarConfig(t, z)
	public.MetricsAddress = "0.0.0.0:0"
	for name, c := range map[string]struct {
		config Config
		code   string
	}{
		"used token": {used, "ENROL-REFUSED"}, "other zone": {other, "ZONE-IDENTITY"}, "token for another namespace": {scope, "TOKEN-SCOPE"},
		"no token": {none, "TOKEN-MISSING"}, "public metrics": {public, "CONFIG-INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(context.Background(), c.config, slog.New(slog.DiscardHandler))
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if c.config.Token != "" && strings.Contains(err.Error(), c.config.Token) {
				t.Error("the error shows the token")
			}
		})
	}
}
