package envoy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// virtualBlock is one that no other test has, nor the world's own addresses are in.
func (w *world) virtualBlock() string {
	for {
		if block := fmt.Sprintf("127.%d.0.0/16", 1+rand.IntN(254)); !strings.HasPrefix(w.net, strings.TrimSuffix(block, "0.0/16")) {
			return block
		}
	}
}

// giveAddresses makes a workload listen on the virtual addresses of a block.
func (w *world) giveAddresses(name, block string) {
	w.each(func(wl *topology.Workload) {
		if wl.Name == name {
			wl.Spec.VirtualAddresses = &mesh.VirtualAddresses{Block: block}
		}
	})
}

// each changes workloads, from the next publish on.
func (w *world) each(change func(*topology.Workload)) {
	for _, z := range w.zones {
		for i := range z.Workloads {
			change(&z.Workloads[i])
		}
	}
}

// virtual is where a workload of zone one finds a name.
func (w *world) virtual(t *testing.T, from, name string, port int) string {
	t.Helper()
	topos, _ := w.topologies()
	id := w.spec(t, from)
	wl, _ := topos[0].Workload(id.ProxyID())
	for _, n := range topos[0].Names(wl) {
		if n.Host == name || slices.Contains(n.Aliases, name) {
			at := mesh.VirtualAddress(w.spec(t, from).Spec.VirtualAddresses.Block, n.Number)
			return net.JoinHostPort(at.String(), strconv.Itoa(port))
		}
	}
	t.Fatalf("%s has no virtual address", name)
	return ""
}

// greeting is who answers on a TCP port.
func greeting(t *testing.T, at string) (string, error) {
	t.Helper()
	c := dial(t, at)
	defer c.Close()
	line, err := readLine(c)
	return strings.TrimSpace(line), err
}

// getAt asks an address, with a host name that is nobody's.
func getAt(t *testing.T, at, path string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "anything.example:1234"
	r, err := exchange(t, client(t, false), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const headlessDB = `
kind: Service
origin: two
metadata: {name: db}
spec: {selector: {db: "yes"}, clusterIP: None, ports: [{name: http, port: 80, targetPort: %d, appProtocol: http}, {name: raw, port: 7070, targetPort: %d}]}
---
kind: ServiceExport
origin: two
metadata: {name: db}
spec: {}
`

// TestVirtualAddresses: each service has its own address, at which its own ports are; requests may have any host name there.
func TestVirtualAddresses(t *testing.T) {
	w := newWorld(t)
	block := w.virtualBlock()
	w.giveAddresses("web", block)
	w.apply(t, "")

	t.Run("many TCP services on one port", func(t *testing.T) {
		for name, want := range map[string]string{
			"echo-v1.shop": "echo-1", "echo-v2.shop.svc.clusterset.local": "echo-2", "pay.shop": "pay-1", "pay.shop.two.mesh": "pay-1",
		} {
			if got, err := greeting(t, w.virtual(t, "web", name, 7070)); got != want || err != nil {
				t.Errorf("%s is answered by %q, %v", name, got, err)
			}
		}
	})
	t.Run("requests with any host name", func(t *testing.T) {
		for name, want := range map[string]string{"echo-v1.shop": "echo-1", "pay.shop": "pay-1", "pay.shop.two.mesh": "pay-1"} {
			r := getAt(t, w.virtual(t, "web", name, 80), "/")
			if r.status != http.StatusOK || r.app != want || r.echoed.Host != "anything.example:1234" {
				t.Errorf("%s: %d from %q, who is asked for %q", name, r.status, r.app, r.echoed.Host)
			}
		}
	})
	t.Run("what is applied holds there, and cuts nothing", func(t *testing.T) {
		c := dial(t, w.virtual(t, "web", "pay.shop", 7070))
		defer c.Close()
		if line, err := readLine(c); strings.TrimSpace(line) != "pay-1" || err != nil {
			t.Fatal(line, err)
		}
		w.apply(t, `
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules: [{matches: [{path: {type: PathPrefix, value: /only}}], backendRefs: [{name: echo-v2, port: 80}]}]
---
kind: Service
origin: one
metadata: {name: later}
spec: {selector: {app: echo-1}, ports: [{port: 7070, targetPort: `+strconv.Itoa(int(w.ports.tcp))+`}]}
---
kind: ExternalService
metadata: {name: old}
spec: {hosts: [old.example.org], endpoints: [{address: `+w.spec(t, "echo-2").Spec.AppAddress+`}], ports: [{port: 7070, targetPort: `+strconv.Itoa(int(w.ports.tcp))+`, protocol: tcp}]}
`)
		at := w.virtual(t, "web", "echo.shop", 80)
		if a, b := getAt(t, at, "/only"), getAt(t, at, "/other"); a.app != "echo-2" || b.status != http.StatusNotFound {
			t.Errorf("/only is answered by %q, /other with %d", a.app, b.status)
		}
		for name, want := range map[string]string{"later.shop": "echo-1", "old.example.org": "echo-2"} {
			if got, err := greeting(t, w.virtual(t, "web", name, 7070)); got != want || err != nil {
				t.Errorf("%s is answered by %q, %v", name, got, err)
			}
		}
		if _, err := io.WriteString(c, "still here\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := readLine(c); strings.TrimSpace(line) != "still here" || err != nil {
			t.Errorf("the connection from before: %q, %v", line, err)
		}
	})
	t.Run("one name over namespaces and zones", func(t *testing.T) {
		w.apply(t, fmt.Sprintf(`
kind: Service
metadata: {name: any, namespace: front}
spec: {selector: {nobody: has-it}, ports: [{name: http, port: 80, appProtocol: http}, {name: raw, port: %[1]d}]}
---
kind: HTTPRoute
metadata: {name: any, namespace: front}
spec:
  parentRefs: [{group: "", kind: Service, name: any, port: 80}]
  rules: [{backendRefs: [{group: "", kind: Service, name: echo-v1, namespace: shop, port: 80}, {group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, namespace: shop, port: 80}]}]
---
kind: TCPRoute
metadata: {name: any, namespace: front}
spec:
  parentRefs: [{group: "", kind: Service, name: any, port: %[1]d}]
  rules: [{backendRefs: [{group: "", kind: Service, name: echo-v1, namespace: shop, port: 7070}, {group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, namespace: shop, port: 7070}]}]
---
kind: ReferenceGrant
metadata: {name: front, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}, {group: gateway.networking.k8s.io, kind: TCPRoute, namespace: front}]
  to: [{group: "", kind: Service}, {group: multicluster.x-k8s.io, kind: ServiceImport}]
`, 5432))
		requests, connections := map[string]int{}, map[string]int{}
		for range 40 {
			requests[getAt(t, w.virtual(t, "web", "any.front", 80), "/").app]++
			who, err := greeting(t, w.virtual(t, "web", "any.front", 5432))
			if err != nil {
				t.Fatal(err)
			}
			connections[who]++
		}
		for _, got := range []map[string]int{requests, connections} {
			if got["echo-1"] < 5 || got["pay-1"] < 5 || got["echo-1"]+got["pay-1"] != 40 {
				t.Errorf("answered by %v", got)
			}
		}
	})
	t.Run("of dependencies alone", func(t *testing.T) {
		elsewhere := w.virtual(t, "web", "echo-v2.shop", 7070)
		w.apply(t, `
kind: TrafficPolicy
metadata: {name: web}
spec: {targetRef: {kind: Service, name: web}, dependencies: [{service: pay}]}
`)
		if got, err := greeting(t, w.virtual(t, "web", "pay.shop", 7070)); got != "pay-1" || err != nil {
			t.Errorf("answered by %q, %v", got, err)
		}
		if r := getAt(t, w.virtual(t, "web", "pay.shop.two.mesh", 80), "/"); r.app != "pay-1" {
			t.Errorf("answered by %q with %d", r.app, r.status)
		}
		if c, err := net.Dial("tcp", elsewhere); err == nil {
			t.Errorf("there is still somebody at %s", c.RemoteAddr())
			_ = c.Close()
		}
	})
	t.Run("nobody else takes connections there", func(t *testing.T) {
		w.giveAddresses("echo-1", block)
		refused := strings.Join(w.offer(t, ""), "\n")
		if !strings.Contains(refused, "in use") || !strings.Contains(refused, "virtual:") {
			t.Errorf("two sidecars have one block, and Envoy says %q", refused)
		}
	})
}

// TestInstances: each workload of a headless service of another zone can be called by itself, under the same authorization.
func TestInstances(t *testing.T) {
	w := newWorld(t)
	w.giveAddresses("web", w.virtualBlock())
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		w.workload(1, name, map[string]string{"db": "yes"})
	}
	headless := fmt.Sprintf(headlessDB, w.ports.http, w.ports.tcp)
	w.apply(t, headless)
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		host := name + ".db.shop.two.mesh"
		for range 5 {
			if got, err := greeting(t, w.virtual(t, "web", host, 7070)); got != name || err != nil {
				t.Fatalf("%s is answered by %q, %v", host, got, err)
			}
		}
		if got := w.tally(t, 5, call{to: name + ".two.db.shop.svc.clusterset.local"}); got[name] != 5 {
			t.Errorf("%s is answered by %v", name, got)
		}
	}
	t.Run("the zone's own from inside", func(t *testing.T) {
		if got := w.tally(t, 5, call{from: "pay-1", to: "db-1.db.shop.two.mesh"}); got["db-1"] != 5 {
			t.Errorf("db-1 is answered by %v", got)
		}
	})
	t.Run("it may be unhealthy, as long as it is there", func(t *testing.T) {
		w.each(func(wl *topology.Workload) { wl.Healthy = wl.Name != "db-1" })
		w.publish(t)
		if got := w.tally(t, 5, call{to: "db-1.db.shop.two.mesh"}); got["db-1"] != 5 {
			t.Errorf("db-1 is answered by %v", got)
		}
		if got := w.tally(t, 30, call{to: "db.shop.two.mesh"}); got["db-1"] != 0 {
			t.Errorf("the service's own name leads to %v", got)
		}
	})
	t.Run("who may not call the service may call none of it", func(t *testing.T) {
		w.apply(t, headless+`
---
kind: AuthorizationPolicy
metadata: {name: not-web}
spec: {targetRef: {kind: Service, name: db}, action: Deny, rules: [{from: [{zones: [one], namespaces: [shop], serviceAccounts: [web]}]}]}
`)
		if r := w.call(t, call{to: "db-0.db.shop.two.mesh"}); r.status != http.StatusForbidden {
			t.Errorf("answered with %d", r.status)
		}
		c := dial(t, w.virtual(t, "web", "db-0.db.shop.two.mesh", 7070))
		defer c.Close()
		_, _ = io.WriteString(c, "who is it?\n") // which may find the connection closed
		// The greeting may come, before there is anything to refuse.
		if said, _ := io.ReadAll(c); strings.Contains(string(said), "who") {
			t.Errorf("answered with %q", said)
		}
	})
	t.Run("who is not headless has no such names", func(t *testing.T) {
		w.apply(t, strings.Replace(headless, "clusterIP: None, ", "", 1))
		if r := w.call(t, call{to: "db-0.db.shop.two.mesh"}); r.status != http.StatusNotFound {
			t.Errorf("answered with %d", r.status)
		}
	})
}
