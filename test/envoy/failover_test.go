package envoy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// threeZones is a caller in zone one and pay in zones one, two and three, with a sidecar each. What answers says in
// which zone it is. The other zones' sidecars are reached without their ingress: it would pass bytes on.
type threeZones struct {
	in   topology.Input // of zone one
	web  *process
	port uint16
	pay  [3]*process // by zone
	app  [3]*payApp
	http *http.Client
	last []envoy.Resource
}

// payApp answers its zone's name, or with the status that it is told.
type payApp struct {
	status atomic.Int32
	server *httptest.Server
}

var zoneNames = [3]string{"one", "two", "three"}

const payHost = "pay.shop.svc.clusterset.local"

func newPayApp(t *testing.T, zone string) *payApp {
	a := &payApp{}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s := a.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		fmt.Fprint(w, zone)
	}))
	t.Cleanup(a.server.Close)
	return a
}

// newThreeZones has so many of ten ready in zone one, and ten in each of the others.
func newThreeZones(t *testing.T, ready float64) *threeZones {
	t.Helper()
	m := &threeZones{port: freeporttest.Port(t), http: client(t, false)}
	m.in = topology.Input{Zone: "one", TrustDomain: "one.example", Roots: map[mesh.TrustDomain][]byte{}}
	var zones []mesh.Resource
	var authorities [3]authority
	for i, z := range zoneNames {
		td := mesh.TrustDomain(z + ".example")
		authorities[i] = newAuthority(t, td)
		m.in.Roots[td] = authorities[i].bundle()
		zones = append(zones, resource(mesh.KindZone, "", z, `{"namespaces":["shop"]}`))
	}
	zones = append(zones, resource(mesh.KindServiceExport, "shop", "pay", `{}`), allow("web-may-pay", webMayPay))
	workload := func(zone, app, name string, port uint16, capacity float64) topology.Workload {
		return topology.Workload{
			Namespace: "shop", Name: name, Labels: map[string]string{"app": app}, Healthy: true, Identity: "spiffe://" + zone + ".example/ns/shop/sa/" + app,
			Spec: policy.Workload{ServiceAccount: app, Address: "127.0.0.1", InboundPort: port, Capacity: capacity},
		}
	}
	for i, z := range zoneNames {
		m.app[i] = newPayApp(t, z)
		port := freeporttest.Port(t)
		in := topology.Input{Zone: z, TrustDomain: mesh.TrustDomain(z + ".example"), Roots: m.in.Roots}
		in.Resources = append(slices.Clip(zones), resource(mesh.KindService, "shop", "pay",
			fmt.Sprintf(`{"selector":{"app":"pay"},"ports":[{"port":8080,"targetPort":%d,"appProtocol":"http"}]}`, portOf(m.app[i].server.Listener.Addr()))))
		in.Workloads = []topology.Workload{workload(z, "pay", "pay-1", port, 10)}
		for _, other := range zoneNames {
			if other != z {
				in.Remotes = append(in.Remotes, topology.Remote{Zone: other, TrustDomain: mesh.TrustDomain(other + ".example")})
			}
		}
		topo, _ := topology.Build(in)
		m.pay[i] = startEnvoy(t, "pay-"+z, resources(t, in, mesh.RoleSidecar), authorities[i].secret(t, authorities[i].issue(t, "/ns/shop/sa/pay")))
		if i > 0 {
			m.in.Remotes = append(m.in.Remotes, topology.Remote{
				Zone: z, TrustDomain: in.TrustDomain, Exports: topo.Exports(),
				Ingresses: []topology.RemoteIngress{{Ingress: mesh.Ingress{ID: "gate", Host: "127.0.0.1", Ports: []uint16{port}}, Addresses: []string{"127.0.0.1"}}},
			})
			continue
		}
		web, dead := workload(z, "web", "web-1", freeporttest.Port(t), 1), workload(z, "pay", "pay-2", freeporttest.Port(t), 10-ready)
		web.Spec.OutboundPort, dead.Healthy = m.port, false
		m.in.Resources = in.Resources
		m.in.Workloads = []topology.Workload{web, in.Workloads[0], dead}
		m.in.Workloads[1].Spec.Capacity = ready
		if ready == 10 {
			m.in.Workloads = m.in.Workloads[:2]
		}
	}
	m.last = m.build(t, nil)
	m.web = startEnvoy(t, "web", m.last, authorities[0].secret(t, authorities[0].issue(t, "/ns/shop/sa/web")))
	m.web.wait(t, "reach pay", func() error {
		by, status := m.ask(t)
		if status != http.StatusOK {
			return fmt.Errorf("%d %s", status, by)
		}
		return nil
	})
	return m
}

func (m *threeZones) build(t *testing.T, plans translate.Plans) []envoy.Resource {
	t.Helper()
	topo, issues := topology.Build(m.in)
	for _, i := range issues {
		t.Errorf("%s: %s", i.Key, i.Message)
	}
	out, err := envoy.Build(translate.New(topo, plans).Proxy(proxyNamed(t, topo, "web-1")))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// update publishes zone one as it is now, and makes sure that nothing but endpoints changed.
func (m *threeZones) update(t *testing.T, plans translate.Plans) {
	t.Helper()
	out := m.build(t, plans)
	for i, r := range out {
		if r.Version != m.last[i].Version && r.Type != envoy.TypeEndpoint {
			t.Errorf("%s changed", r)
		}
	}
	m.last = out
	m.web.update(t, out, "cluster.pay.shop:8080.update_success")
}

// policy gives pay a FailoverPolicy.
func (m *threeZones) policy(spec string) {
	for i, r := range m.in.Resources {
		if r.Kind == mesh.KindFailoverPolicy {
			m.in.Resources[i] = resource(mesh.KindFailoverPolicy, "shop", "pay", spec)
			return
		}
	}
	m.in.Resources = append(m.in.Resources, resource(mesh.KindFailoverPolicy, "shop", "pay", spec))
}

func (m *threeZones) ask(t *testing.T) (by string, status int) {
	t.Helper()
	a, err := try(t, m.http, http.MethodGet, m.port, payHost, "/")
	if err != nil {
		return err.Error(), 0
	}
	return a.body, a.status
}

// ask1000 sends a thousand requests, of which none may fail, and says who answered how many.
func (m *threeZones) ask1000(t *testing.T) [3]int {
	t.Helper()
	var got [3]int
	for range 1000 {
		by, status := m.ask(t)
		zone := slices.Index(zoneNames[:], by)
		if status != http.StatusOK || zone < 0 {
			t.Fatalf("a request failed: %d %s, after %v", status, by, got)
		}
		got[zone]++
	}
	return got
}

// counts allows for the two that a turn of round robin may be short of or ahead.
func counts(t *testing.T, got [3]int, one, two, three int) {
	t.Helper()
	for i, want := range []int{one, two, three} {
		if d := got[i] - want; d < -2 || d > 2 {
			t.Errorf("zones one, two, three answered %v, want %v", got, []int{one, two, three})
			return
		}
	}
}

const tiers = `"tiers":[{"name":"a","zones":[{"local":true}]},{"name":"b","zones":[{"zone":"two"}]},{"name":"c","zones":[{"zone":"three"}]}]`

// Shares are exact: 70 means 70, and 80 to 20 is 80 to 20.
func TestShares(t *testing.T) {
	m := newThreeZones(t, 7)
	counts(t, m.ask1000(t), 1000, 0, 0)
	m.in.Workloads[1].Spec.Capacity, m.in.Workloads[2].Spec.Capacity = 6, 4
	m.update(t, nil)
	counts(t, m.ask1000(t), 857, 71, 72) // the others are one tier
	m.policy(`{` + tiers + `}`)
	m.update(t, nil)
	counts(t, m.ask1000(t), 857, 143, 0)
	m.policy(`{"tiers":[{"name":"all","zones":[{"zone":"two","weight":80},{"zone":"three","weight":20}]}]}`)
	m.update(t, nil)
	counts(t, m.ask1000(t), 0, 800, 200)
}

// Zones die one after the other, and nobody is told: requests go from tier to tier in order, and none fails.
func TestTiersInOrder(t *testing.T) {
	m := newThreeZones(t, 10)
	m.policy(`{` + tiers + `}`)
	m.update(t, nil)
	counts(t, m.ask1000(t), 1000, 0, 0)
	m.pay[0].kill()
	counts(t, m.ask1000(t), 0, 1000, 0)
	m.pay[1].kill()
	counts(t, m.ask1000(t), 0, 0, 1000)
}

// Armed traffic fails where it is until a person switches it; then it is served.
func TestArmed(t *testing.T) {
	m := newThreeZones(t, 10)
	m.policy(`{"mode":"Armed",` + tiers + `}`)
	m.update(t, nil)
	counts(t, m.ask1000(t), 1000, 0, 0)
	m.pay[0].kill()
	for range 20 {
		if by, status := m.ask(t); status != http.StatusServiceUnavailable {
			t.Fatalf("%d %s, but the traffic is armed", status, by)
		}
	}
	m.in.Workloads[1].Healthy = false   // the zone knows, and leaves it as it is,
	m.in.Workloads[1].Spec.Capacity = 9 // with another weight, so that there is something to wait for
	m.update(t, nil)
	if by, status := m.ask(t); status != http.StatusServiceUnavailable {
		t.Fatalf("%d %s, but the traffic is armed", status, by)
	}
	m.policy(`{"mode":"Armed","active":"c",` + tiers + `}`)
	m.update(t, nil)
	counts(t, m.ask1000(t), 0, 0, 1000)
}

// A ramp takes the zone's traffic away step by step, and back, without a failed request.
func TestDrainRamp(t *testing.T) {
	m := newThreeZones(t, 10)
	m.policy(`{` + tiers + `}`)
	topo, _ := topology.Build(m.in)
	s, _ := topo.Service(topology.ServiceName{Namespace: "shop", Name: "pay"})
	for _, drained := range []float64{.02, .1, .5, 1, .3, 0} {
		plan := s.Failover.Plan.Only(func(string) bool { return true })
		plan.Tiers[0].Zones[0].Drained = drained
		m.update(t, translate.Plans{s.ServiceName: plan})
		counts(t, m.ask1000(t), int(1000-1000*drained), int(1000*drained), 0)
	}
}

// What nobody knows to be ready may answer after all: it is never withdrawn.
func TestTheLastBackendStays(t *testing.T) {
	m := newThreeZones(t, 10)
	m.in.Workloads[1].Healthy, m.in.Workloads[1].Spec.Capacity = false, 9
	for i := range m.in.Remotes {
		m.in.Remotes[i].Exports[0].Ready, m.in.Remotes[i].Exports[0].ReadyCapacity = 0, 0
		m.in.Remotes[i].Ingresses[0].Unreachable = true
	}
	m.update(t, nil)
	counts(t, m.ask1000(t), 1000, 0, 0)
}

// An endpoint that passes on what failed deeper in the call graph is well: it stays, and so does its traffic.
// One whose application does not answer is not.
func TestDeepFailure(t *testing.T) {
	m := newThreeZones(t, 10)
	const ejected = "cluster.pay.shop:8080.outlier_detection.ejections_enforced_total"
	for _, status := range []int32{502, 503, 504} {
		m.app[0].status.Store(status)
		for range 10 {
			a, err := try(t, m.http, http.MethodPost, m.port, payHost, "/") // which is not tried again
			if err != nil || a.status != int(status) {
				t.Fatalf("%d %s, %v; the application says %d", a.status, a.body, err, status)
			}
			if v := a.header.Get("x-envoy-degraded"); v != "" {
				t.Errorf("it says of itself that it does not answer: %q", v)
			}
		}
	}
	if n := m.web.stat(t, ejected); n != 0 {
		t.Errorf("%d endpoints were ejected for what they passed on", n)
	}
	m.app[0].status.Store(0)
	counts(t, m.ask1000(t), 1000, 0, 0)

	m.app[0].server.Close()
	failed := 0
	for range 20 {
		a, err := try(t, m.http, http.MethodPost, m.port, payHost, "/")
		if err != nil || a.status != http.StatusOK {
			failed++
		}
		if v := a.header.Get("x-envoy-degraded"); v != "" {
			t.Errorf("the caller's application is told what was for its sidecar: %q", v)
		}
	}
	// Five in a row; a connection that was open when the application ended may make it six.
	if n := m.web.stat(t, ejected); n != 1 || failed < 5 || failed > 6 {
		t.Errorf("%d ejected after %d POSTs failed, want 1 after 5 or 6", n, failed)
	}
	for range 20 {
		if by, status := m.ask(t); status != http.StatusOK {
			t.Fatalf("%d %s", status, by)
		}
	}
}
