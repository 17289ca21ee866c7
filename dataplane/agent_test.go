package dataplane

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
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
	if _, body := get(t, "http://"+i.Metrics+"/metrics"); !strings.Contains(body, "comity_agent_envoy_ready 1") || !strings.Contains(body, "comity_proxy_uptime_seconds") {
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

// clock is the time of day, which a test may set forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func TestRenewalReachesEnvoyAndKeysStayInside(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	var at clock
	c.clock = at.now
	port := must((&reservation{}).pick(context.Background(), "127.0.0.1"))(t)
	z.serveTLS(port, "identity")
	c.Envoy.LogLevel = "debug"
	a := start(t, c)
	i := a.ready()
	presented := func() (serial, id string) {
		conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // looks at what is presented
		if err != nil {
			return "", ""
		}
		defer func() { _ = conn.Close() }()
		leaf := conn.ConnectionState().PeerCertificates[0]
		return leaf.SerialNumber.String(), leaf.URIs[0].String()
	}
	var first, id string
	eventually(t, "Envoy presents its identity", func() bool { first, id = presented(); return first != "" })
	if id != i.Identity {
		t.Errorf("Envoy presents %s", id)
	}
	if n := z.renewed(); n != 1 {
		t.Fatalf("%d certificates beside the enrolment's, not 1", n)
	}
	at.ahead.Store(int64(20 * time.Minute)) // a third of the hour: not yet
	at.ahead.Store(int64(34 * time.Minute))
	eventually(t, "Envoy presents the renewed certificate", func() bool { now, _ := presented(); return now != "" && now != first })
	if z.renewed() != 2 {
		t.Errorf("renewed %d times, not once", z.renewed()-1)
	}
	z.mu.Lock()
	if samePublic(z.leafKeys[0], z.leafKeys[1]) || samePublic(z.leafKeys[0], z.instances["sidecar~shop~web-1 "+i.Identity]) {
		t.Error("a key was used twice")
	}
	z.mu.Unlock()
	if e := a.info(); e.EnvoyPID != i.EnvoyPID {
		t.Error("Envoy was restarted for it")
	}
	a.showsNoKey()
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(*ecdsa.PublicKey)
	return ok && k.Equal(b)
}

// showsNoKey looks for a private key wherever an agent or its Envoy writes or answers.
func (r *running) showsNoKey() {
	r.t.Helper()
	dump := func(path string) string {
		var b strings.Builder
		if err := newAdmin(filepath.Join(r.config.RunDir, fileAdmin)).get(context.Background(), path, &b, 1<<24); err != nil {
			r.t.Fatal(err)
		}
		return b.String()
	}
	certs := dump("/certs")
	if !strings.Contains(certs, "spiffe://east.example/ns/shop/sa/web") {
		r.t.Error("/certs does not show the identity")
	}
	bootstrap := string(must(os.ReadFile(filepath.Join(r.config.RunDir, fileBootstrap)))(r.t))
	_, metrics := get(r.t, "http://"+r.info().Metrics+"/metrics")
	for _, out := range []string{dump("/config_dump?include_eds"), certs, r.log.String(), bootstrap, metrics} {
		if strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, "LS0tLS1CRUdJTiBQUklWQVRFIEtFW") || strings.Contains(out, r.config.Token) {
			r.t.Error("a secret is shown")
		}
	}
}

func TestLivesOnWhileTheZoneIsAway(t *testing.T) {
	z := newTestZone(t)
	a := start(t, sidecarConfig(t, z))
	i := a.ready()
	eventually(t, "the zone hears of it", func() bool { return z.lastHealth().GetEnvoyReady() })
	z.stop()
	eventually(t, "the agent notices", func() bool { return strings.Contains(a.log.String(), "lease at the zone is interrupted") })
	if code, body := get(t, "http://"+i.Metrics+"/readyz"); code != 200 {
		t.Errorf("not ready without its zone: %d %s", code, body)
	}
	specs := func() int { return z.count(func(r *enrolpb.AgentReport) bool { return r.GetWorkload() != nil }) }
	before := specs()
	z.start(z.address)
	eventually(t, "the agent registers again", func() bool { return specs() > before })
	eventually(t, "Envoy is connected again", func() bool {
		_, body := get(t, "http://"+i.Metrics+"/metrics")
		return strings.Contains(body, "comity_proxy_zone_connected 1")
	})
	if n := a.info(); n.EnvoyPID != i.EnvoyPID || !n.Ready {
		t.Errorf("Envoy did not just run on: %+v", n)
	}
}

func TestApplicationHealth(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	var down atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() || r.URL.Path != "/health" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer app.Close()
	_, port, _ := net.SplitHostPort(app.Listener.Addr().String())
	n := must(strconv.ParseUint(port, 10, 16))(t)
	c.Sidecar.Workload.HealthCheck = &HealthCheck{Port: uint16(n), Path: "/health", IntervalMS: 100}
	start(t, c).ready()
	eventually(t, "healthy", func() bool { return z.lastHealth().GetHealthy() })
	down.Store(true)
	eventually(t, "unhealthy, with the reason", func() bool {
		h := z.lastHealth()
		return !h.GetHealthy() && strings.Contains(h.GetReason(), "503")
	})
	down.Store(false)
	eventually(t, "healthy again", func() bool { return z.lastHealth().GetHealthy() })
	app.Close()
	eventually(t, "dead", func() bool { return strings.Contains(z.lastHealth().GetReason(), "refused") })
}

func TestIngress(t *testing.T) {
	z := newTestZone(t)
	dir := t.TempDir()
	c := Config{
		Name: "in1", Token: z.token("", "", 1), RunDir: filepath.Join(dir, strings.Repeat("deep/", 30)+"run"), InfoFile: filepath.Join(dir, "info.json"),
		DrainTime: 50 * time.Millisecond, Envoy: Envoy{Path: must(envoybin.Path())(t), Concurrency: 1},
		Ingress: &IngressSpec{BindAddress: "127.0.0.1", BindPorts: []uint16{0, 0}, Gateways: []string{"shop/edge"}},
	}
	a := start(t, c)
	i := a.ready()
	if i.Identity != "spiffe://east.example/fed/zone-ingress/in1" || len(i.Ports) != 2 || i.Ports[0] == i.Ports[1] {
		t.Errorf("got %+v", i)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, r := range z.reports {
		if s := r.GetIngress(); s != nil {
			if s.GetBindAddress() != "127.0.0.1" || len(s.GetBindPorts()) != 2 || len(s.GetGateways()) != 1 || !strings.Contains(string(s.GetIngress()), `"host":"127.0.0.1"`) {
				t.Errorf("registered %v", s)
			}
			return
		}
	}
	t.Error("not registered")
}

// TestMissingSecretIsTold: a certificate that Envoy wants and the machine does not have is told to the zone, by name.
func TestMissingSecretIsTold(t *testing.T) {
	z := newTestZone(t)
	z.serveTLS(must((&reservation{}).pick(context.Background(), "127.0.0.1"))(t), "secret/shop/www")
	start(t, Config{
		Name: "in1", Token: z.token("", "", 1), SecretsDir: t.TempDir(), DrainTime: 50 * time.Millisecond,
		Envoy: Envoy{Path: must(envoybin.Path())(t), Concurrency: 1}, Ingress: &IngressSpec{BindAddress: "127.0.0.1", BindPorts: []uint16{0}},
	})
	eventually(t, "the zone knows", func() bool {
		list := z.lastHealth().GetSecrets()
		return len(list) == 1 && list[0].GetName() == "secret/shop/www" && strings.Contains(list[0].GetProblem(), "no such file")
	})
}

func TestRefusedRegistrationEndsTheAgent(t *testing.T) {
	z := newTestZone(t)
	z.refuse = &enrolpb.Refused{Code: "invalid", Reason: "port 70000 is no port"}
	a := start(t, sidecarConfig(t, z))
	<-a.ended
	f, ok := errors.AsType[*fault.Error](a.err)
	if !ok || f.Code != "REGISTRATION-REFUSED" || !strings.Contains(f.Cause, "port 70000") {
		t.Errorf("got %v", a.err)
	}
}

func TestAnEnvoyThatNeverStartsEndsTheAgent(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	c.Envoy.Path = filepath.Join(t.TempDir(), "envoy")
	must(0, os.WriteFile(c.Envoy.Path, []byte("#!/bin/sh\necho 'critical|main|no such option' >&2\nexit 3\n"), 0o755))(t) //nolint:gosec // a program
	a := start(t, c)
	<-a.ended
	f, ok := errors.AsType[*fault.Error](a.err)
	if !ok || f.Code != "ENVOY-START" || !strings.Contains(f.Cause, "exit code 3") || !strings.Contains(f.Cause, "no such option") {
		t.Errorf("got %v", a.err)
	}
}

func TestTwoAgentsDontShareAFolder(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	start(t, c).ready()
	err := Run(context.Background(), c, slog.New(slog.DiscardHandler))
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "RUN-DIR" || !strings.Contains(f.Cause, "another agent") {
		t.Errorf("got %v", err)
	}
	open := filepath.Join(t.TempDir(), "open")
	must(0, os.Mkdir(open, 0o755))(t) //nolint:gosec // the mistake
	c.RunDir, c.DataDir = open, ""
	err = Run(context.Background(), c, slog.New(slog.DiscardHandler))
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "RUN-DIR" {
		t.Errorf("a folder that others can read: got %v", err)
	}
}

func TestARenewalTheZoneAsksFor(t *testing.T) {
	z := newTestZone(t)
	a := start(t, sidecarConfig(t, z))
	i := a.ready()
	specs := func() int { return z.count(func(r *enrolpb.AgentReport) bool { return r.GetWorkload() != nil }) }
	eventually(t, "registered", func() bool { return specs() > 0 })
	before, attended := z.renewed(), specs()
	// As a zone restored from a backup: it knows the instance, not the certificate.
	z.mu.Lock()
	z.forgotten = z.renewals
	z.mu.Unlock()
	z.stop()
	z.start(z.address)
	eventually(t, "the agent has renewed by its key and registered again", func() bool { return z.renewed() > before && specs() > attended })
	eventually(t, "Envoy is connected with the new certificate", func() bool {
		_, body := get(t, "http://"+i.Metrics+"/metrics")
		return strings.Contains(body, "comity_proxy_zone_connected 1")
	})
	if n := a.info(); n.EnvoyPID != i.EnvoyPID {
		t.Error("Envoy was restarted for it")
	}
}

func TestHostileBytes(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	a := start(t, c)
	i := a.ready()
	noise := []byte("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 noise\r\n\r\n")
	for _, to := range [][2]string{{"tcp", i.Metrics}, {"unix", filepath.Join(c.RunDir, fileSDS)}} {
		conn := must(net.Dial(to[0], to[1]))(t)
		must(conn.Write(noise))(t)
		must(0, conn.SetReadDeadline(time.Now().Add(10*time.Second)))(t)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s stays open after noise", to[0])
		}
		must(0, conn.Close())(t)
	}
	eventually(t, "both are counted", func() bool {
		_, body := get(t, "http://"+i.Metrics+"/metrics")
		return strings.Contains(body, "comity_agent_http_connections_unserved_total 1") &&
			strings.Contains(body, `comity_agent_sds_connections_refused_total{reason="bytes"} 1`)
	})
}

// TestMain is also the agent of TestKilledAgentLeavesNoEnvoy, as a process of its own.
func TestMain(m *testing.M) {
	raw := os.Getenv("COMITY_TEST_AGENT")
	if raw == "" {
		os.Exit(m.Run())
	}
	var c Config
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		panic(err)
	}
	if err := Run(context.Background(), c, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		os.Exit(1)
	}
}

func TestKilledAgentLeavesNoEnvoy(t *testing.T) {
	z := newTestZone(t)
	c := sidecarConfig(t, z)
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this test's own program
	cmd.Env = append(os.Environ(), "COMITY_TEST_AGENT="+string(must(json.Marshal(c))(t)))
	out := &output{}
	cmd.Stderr = out
	must(0, cmd.Start())(t)
	r := &running{t: t, config: c, log: out, ended: make(chan struct{})}
	i := r.ready()
	must(0, cmd.Process.Kill())(t)
	_ = cmd.Wait()
	eventually(t, "its Envoy is gone too", func() bool { return !alive(i.EnvoyPID) })
	// And what it left in its run directory hinders nobody.
	must(0, os.Remove(c.InfoFile))(t)
	c.Token = ""
	start(t, c).ready()
}

func TestBootstrapIsValid(t *testing.T) {
	for name, addresses := range map[string][]string{"addresses": {"127.0.0.1:1", "[::1]:2"}, "names": {"zone.example:443"}} {
		t.Run(name, func(t *testing.T) {
			raw, err := bootstrap{
				Proxy: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-1"}, Zone: "east", TrustDomain: testTD,
				Locality: mesh.Locality{Cloud: "aws", Region: "r1", Zone: "a"}, ZoneAddresses: addresses,
				AdminSocket: fileAdmin, SDSSocket: fileSDS, MaxConnections: 100,
			}.JSON()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "envoy.json")
			must(0, os.WriteFile(path, raw, 0o600))(t)
			cmd := exec.Command(must(envoybin.Path())(t), "--mode", "validate", "--disable-hot-restart", "-c", path, "-l", "warning") //nolint:gosec // the test's own
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "warning") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	if _, err := (bootstrap{ZoneAddresses: []string{"zone.example"}}).JSON(); err == nil {
		t.Error("an address without port is taken")
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
