package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// grpcClient is the program of an application that knows nothing of the mesh but xDS.
var grpcClient = sync.OnceValues(func() (string, error) { return buildApplication("grpcclient") })

// buildApplication builds a program of a module like grpcclient's.
func buildApplication(dir string) (string, error) {
	out := filepath.Join(bin, filepath.Base(dir))
	text, err := exec.Command("go", "build", "-C", dir, "-o", out, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build %s: %w\n%s", dir, err, text)
	}
	return out, err
}

// grpcAnswer is what the program says of a call.
type grpcAnswer struct{ Server, Caller, Code, Message string }

// proxyless is a workload without an Envoy.
type proxyless struct {
	*proxy
	zone *zone
}

// proxyless starts the agent of a workload whose service account is its name.
func (z *zone) proxyless(name string) *proxyless {
	z.t.Helper()
	p := z.startProxy(nil, "sidecar", name, client.EnrolmentTokenRequest{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: name}, map[string]any{
		"namespace": "shop", "address": "127.0.0.1", "proxyless": true,
	})
	return &proxyless{p, z}
}

// environment is what the agent has for applications.
func (p *proxyless) environment() []string {
	p.zone.t.Helper()
	i, err := p.info()
	if err != nil {
		p.zone.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(i.RunDir, "grpc.env"))
	if err != nil {
		p.zone.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// dialled is a running application with its calls.
type dialled struct {
	t   *testing.T
	ask io.Writer
	say *json.Decoder
}

// dial starts an application that calls a target.
func (p *proxyless) dial(t *testing.T, target string) *dialled {
	t.Helper()
	program, err := grpcClient()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, target)
	cmd.Env = append(os.Environ(), p.environment()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &testWriter{t: t}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() }) // it ends with its input
	return &dialled{t, in, json.NewDecoder(bufio.NewReader(out))}
}

// testWriter shows what an application says.
type testWriter struct{ t *testing.T }

func (w *testWriter) Write(b []byte) (int, error) { w.t.Logf("%s", b); return len(b), nil }

// call makes one call.
func (d *dialled) call(method string) grpcAnswer {
	d.t.Helper()
	var a grpcAnswer
	if _, err := io.WriteString(d.ask, method+"\n"); err != nil {
		d.t.Fatal(err)
	}
	if err := d.say.Decode(&a); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// answers awaits an answer of the code, from the server if one is named.
func (d *dialled) answers(method, code, server string) grpcAnswer {
	d.t.Helper()
	var a grpcAnswer
	await(d.t, fmt.Sprintf("%s answers %s from %q", method, code, server), func() error {
		if a = d.call(method); a.Code != code || server != "" && a.Server != server {
			return fmt.Errorf("it answers %s (%s) from %q", a.Code, a.Message, a.Server)
		}
		return nil
	})
	return a
}

// tally counts who answers n calls, all of which must be OK.
func (d *dialled) tally(method string, n int) map[string]int {
	d.t.Helper()
	out := map[string]int{}
	for range n {
		a := d.call(method)
		if a.Code != "OK" {
			d.t.Fatalf("after %v: %s: %s", out, a.Code, a.Message)
		}
		out[a.Server]++
	}
	return out
}

// steady awaits that 50 calls in a row are OK.
func (d *dialled) steady(method string) {
	d.t.Helper()
	await(d.t, method+" does not fail", func() error {
		for range 50 {
			if a := d.call(method); a.Code != "OK" {
				return errors.New(a.Message)
			}
		}
		return nil
	})
}

// grpcServer says in every answer who it is and who called, as its sidecar told it.
type grpcServer struct {
	*health.Server
	name  string
	calls *atomic.Int64 // of what fails every other time
}

func (s grpcServer) tell(ctx context.Context) error {
	in, _ := metadata.FromIncomingContext(ctx)
	return grpc.SetHeader(ctx, metadata.Pairs("server-name", s.name, "caller", strings.Join(in.Get("x-forwarded-client-cert"), ";")))
}

func (s grpcServer) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	switch r.GetService() {
	case "flaky":
		if s.calls.Add(1)%2 == 1 {
			return nil, status.Error(codes.Unavailable, "every other time") // without headers, after which nothing is retried
		}
		r = &healthpb.HealthCheckRequest{}
	case "never":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := s.tell(ctx); err != nil {
		return nil, err
	}
	return s.Server.Check(ctx, r)
}

func (s grpcServer) List(ctx context.Context, r *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	if err := s.tell(ctx); err != nil {
		return nil, err
	}
	return s.Server.List(ctx, r)
}

// grpcApp is an application that serves gRPC; port 0 is any.
func grpcApp(t *testing.T, name, address string, port int) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, grpcServer{health.NewServer(), name, new(atomic.Int64)})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) }) // ends with Stop
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func grpcService(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {selector: {app: %[1]s}, ports: [{port: 9090, targetPort: %d, appProtocol: grpc}]}\n---\n", name, port)
}

func allowCaller(service string) string {
	return fmt.Sprintf("apiVersion: mesh.comity.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: caller-%s, namespace: shop}\nspec: {targetRef: {kind: Service, name: %[1]s}, action: Allow, rules: [{from: [{namespaces: [shop], serviceAccounts: [caller]}]}]}\n---\n", service)
}

const payTarget = "xds:///pay.shop.svc.clusterset.local:9090"

// A gRPC client without a proxy is one of the mesh: servers know it by its certificate, routes and weights hold for it, the
// dead are left, and all that goes on while the zone's control plane is away.
func TestProxyless(t *testing.T) {
	z := startZone(t, "alone")
	pay := grpcApp(t, "pay-1", "127.0.0.1", 0)
	grpcApp(t, "pay-2", "127.0.0.2", pay)
	v2 := grpcApp(t, "pay-v2", "127.0.0.1", 0)
	z.apply(grpcService("pay", pay) + grpcService("pay-v2", v2))
	app := map[string]string{"app": "pay"}
	first := z.workload("pay-1", map[string]any{"labels": app})
	z.workload("pay-2", map[string]any{"labels": app, "appAddress": "127.0.0.2"})
	z.workload("pay-v2")
	caller, other := z.proxyless("caller"), z.proxyless("other")
	d := caller.dial(t, payTarget)
	d.answers("Check", "PermissionDenied", "") // nobody may by default
	z.apply(allowCaller("pay") + allowCaller("pay-v2"))
	a := d.answers("Check", "OK", "")
	if want := "URI=" + z.trustDomain.WorkloadID("shop", "caller"); !strings.HasSuffix(a.Caller, ";"+want) {
		t.Fatalf("the server saw %q, not %q", a.Caller, want)
	}
	other.dial(t, payTarget).answers("Check", "PermissionDenied", "")
	d.answers("Check", "OK", "pay-1")
	d.answers("Check", "OK", "pay-2")
	if got := d.tally("Check", 100); got["pay-1"] < 40 || got["pay-2"] < 40 {
		t.Fatalf("calls are not spread over the endpoints: %v", got)
	}

	revision := z.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pay, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: pay, port: 9090}]
  rules:
    - matches: [{path: {type: Exact, value: /grpc.health.v1.Health/List}}]
      backendRefs: [{name: pay-v2, port: 9090}]
    - backendRefs: [{name: pay, port: 9090, weight: 3}, {name: pay-v2, port: 9090, weight: 1}]
`)
	followed(t, z.controlPlane, revision)
	// grpc-go takes routes a moment before the clusters that they name, and fails calls between the two.
	d.answers("List", "OK", "pay-v2")
	if got := d.tally("List", 50); got["pay-v2"] != 50 {
		t.Fatalf("the route by method sends calls to %v", got)
	}
	if got := d.tally("Check", 400); got["pay-v2"] < 60 || got["pay-v2"] > 140 {
		t.Fatalf("a weight of one in four sends calls to %v", got)
	}

	// A GRPCRoute chooses by service and method; the header that it changes is not changed, which its status says.
	revision = z.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: pay-v2, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: pay-v2, port: 9090}]
  rules:
    - matches: [{method: {service: grpc.health.v1.Health, method: List}}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-was, value: changed}]}}]
      backendRefs: [{name: pay, port: 9090}]
    - matches: [{method: {service: grpc.health.v1.Health}}]
      backendRefs: [{name: pay-v2, port: 9090}]
`)
	followed(t, z.controlPlane, revision)
	direct := caller.dial(t, "xds:///pay-v2.shop.svc.clusterset.local:9090")
	direct.answers("Check", "OK", "pay-v2")
	direct.answers("List", "OK", "pay-1")
	if got := direct.tally("List", 20); got["pay-v2"] != 0 {
		t.Fatalf("the GRPCRoute sends calls of one method to %v", got)
	}
	if got := direct.tally("Check", 20); got["pay-v2"] != 20 {
		t.Fatalf("the GRPCRoute sends calls of the others to %v", got)
	}

	// A second application under the same identity, by another name of the service.
	again := caller.dial(t, "xds:///pay.shop.alone.mesh:9090")
	if got := again.tally("Check", 20); got["pay-v2"] != 0 {
		t.Fatalf("a host that is pinned to a zone follows no routes, but: %v", got)
	}
	await(t, "the zone says how its clients do", func() error {
		list, err := z.Proxies(ctxOf(t), z.name)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.Proxy.Name == "caller" && p.Connected && p.Healthy && p.Nacks == 0 && p.Applied >= revision {
				return nil
			}
		}
		return fmt.Errorf("it says %+v", list)
	})

	first.kill() // its Envoy with it
	d.answers("Check", "OK", "pay-2")
	d.steady("Check")

	z.kill()
	if got := d.tally("Check", 50); got["pay-2"] == 0 {
		t.Fatalf("without the control plane: %v", got)
	}
	z.run()
	z.apply("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: pay, namespace: shop}\nspec: {parentRefs: [{kind: Service, group: \"\", name: pay, port: 9090}], rules: [{backendRefs: [{name: pay-v2, port: 9090}]}]}\n")
	await(t, "a route from after the restart", func() error {
		if got := d.tally("Check", 20); got["pay-v2"] != 20 {
			return fmt.Errorf("calls go to %v", got)
		}
		return nil
	})
}

// Across zones it goes through an ingress, to the zone that serves, and to the other one when that is gone: of an
// application too that was started before that zone was a member of the mesh.
func TestProxylessAcrossZones(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	port := grpcApp(t, "east", "127.0.0.1", 0)
	grpcApp(t, "west", "127.0.0.2", port)
	global.apply(grpcService("pay", port) + strings.TrimPrefix(exportPay, "\n") + "---\n" + allowCaller("pay"))
	east.joins(global, "shop")
	here := east.workload("pay")
	caller := east.proxyless("caller")
	old := caller.dial(t, payTarget)
	old.answers("Check", "OK", "east")

	west.joins(global, "shop")
	west.ingress("in1")
	west.workload("pay", map[string]any{"appAddress": "127.0.0.2"})
	pinned := caller.dial(t, "xds:///pay.shop.west.mesh:9090")
	a := pinned.answers("Check", "OK", "west")
	if want := "URI=" + east.trustDomain.WorkloadID("shop", "caller"); !strings.HasSuffix(a.Caller, ";"+want) {
		t.Fatalf("the server of the other zone saw %q, not %q", a.Caller, want)
	}
	d := caller.dial(t, payTarget)
	d.answers("Check", "OK", "east")
	if got := d.tally("Check", 50); got["east"] != 50 {
		t.Fatalf("this zone is preferred, but calls go to %v", got)
	}
	if got := old.tally("Check", 50); got["east"] != 50 {
		t.Fatalf("of an old application calls go to %v", got)
	}

	began := time.Now()
	here.kill()
	d.answers("Check", "OK", "west")
	t.Logf("the other zone answers %s after the last endpoint of this one died", time.Since(began))
	old.answers("Check", "OK", "west")
}

// TrafficPolicies hold as far as gRPC knows what they ask for.
func TestProxylessPolicies(t *testing.T) {
	z := startZone(t, "policies")
	z.apply(grpcService("pay", grpcApp(t, "pay", "127.0.0.1", 0)) + allowCaller("pay"))
	z.workload("pay")
	caller := z.proxyless("caller")
	d := caller.dial(t, payTarget)
	d.answers("Check", "OK", "pay")
	failed := 0
	for range 20 {
		if d.call("Checkflaky").Code == "Unavailable" {
			failed++
		}
	}
	if failed != 10 {
		t.Fatalf("%d of 20 calls fail, of a server that fails every other", failed)
	}
	policy := func(spec string) {
		t.Helper()
		followed(t, z.controlPlane, z.apply("apiVersion: mesh.comity.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: pay, namespace: shop}\nspec: {targetRef: {kind: Service, name: pay}, "+spec+"}\n"))
	}
	policy("retry: {attempts: 2, reasons: [unavailable], requests: All}, timeouts: {request: 300ms}")
	d.steady("Checkflaky") // gRPC acknowledges a configuration a moment before calls follow it
	began := time.Now()
	if a := d.call("Checknever"); a.Code != "DeadlineExceeded" || time.Since(began) > 3*time.Second {
		t.Fatalf("after %s: %+v", time.Since(began), a)
	}
	policy("fault: {abort: {percent: 100, status: 503}}")
	d.answers("Check", "Unavailable", "")
	policy("fault: {match: {headers: [{name: x-trial, value: \"yes\"}]}, abort: {percent: 100, status: 503}}")
	d.steady("Check") // gRPC would not look whether a call matches, so it is told nothing

	// The example of the docs is a program that works.
	text, err := os.ReadFile("../../docs/proxyless.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "```go\n")
	example, _, _ = strings.Cut(example, "```\n")
	dir := filepath.Join(t.TempDir(), "example")
	if err := os.CopyFS(dir, os.DirFS("grpcclient")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := buildApplication(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctxOf(t), program)
	cmd.Env = append(os.Environ(), caller.environment()...)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "pay is SERVING\n" {
		t.Fatalf("the example of docs/proxyless.md: %v\n%s", err, out)
	}
}
