package envoy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// outboundClusters are the names of those that an Envoy got from its zone, sorted, with the time at which it took each last.
func outboundClusters(t *testing.T, p *proxy) (names []string, taken map[string]string) {
	t.Helper()
	text, err := p.ask("/config_dump?resource=dynamic_active_clusters")
	if err != nil {
		t.Fatal(err)
	}
	var dump struct {
		Configs []struct {
			Cluster     struct{ Name string }
			LastUpdated string `json:"last_updated"`
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatalf("%v in %.500s", err, text)
	}
	taken = map[string]string{}
	for _, c := range dump.Configs {
		names = append(names, c.Cluster.Name)
		taken[c.Cluster.Name] = c.LastUpdated
	}
	slices.Sort(names)
	return names, taken
}

// TestDependencies: of 1,000 services a client with three dependencies has three clusters and hosts; one more comes without
// touching the others, nor the connections to them.
func TestDependencies(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "client", nil)
	w.inNamespace("client", "bank")
	w.zones[0].Workloads[len(w.zones[0].Workloads)-1].Spec.Upstreams = nil
	w.publish(t)

	var services strings.Builder
	for i := range 1000 {
		selector := `app: nobody`
		if i < 10 {
			selector = `app: echo-1` // one endpoint, so one connection
		}
		fmt.Fprintf(&services, "\n---\n{kind: Service, metadata: {name: service-%03d}, spec: {selector: {%s}, ports: [{port: 80, targetPort: %d, appProtocol: http}]}}", i, selector, w.ports.http)
	}
	calls := func(list string) string {
		return services.String() + `
---
kind: TrafficPolicy
metadata: {namespace: comity-system, name: nobody}
spec: {dependencies: []}
---
kind: TrafficPolicy
metadata: {namespace: bank, name: client}
spec: {dependencies: [` + list + `]}`
	}
	const three = `{namespace: shop, service: service-007}, {namespace: shop, service: service-500}, {namespace: shop, service: service-999}`
	w.apply(t, calls(three))

	sidecar := w.sidecar(t, "client")
	want := []string{"service-007.shop:80", "service-500.shop:80", "service-999.shop:80"}
	names, before := outboundClusters(t, sidecar)
	if !slices.Equal(names, want) {
		t.Errorf("its clusters are %v, want %v", names, want)
	}
	whole, err := sidecar.ask("/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	// Beside the bootstrap, which is most of it: 1,000 services would be some 10 MB.
	if len(whole) > 256<<10 {
		t.Errorf("its configuration is %d bytes", len(whole))
	}
	connections := &http.Transport{MaxConnsPerHost: 1}
	t.Cleanup(connections.CloseIdleConnections)
	kept := &http.Client{Transport: connections, CheckRedirect: notFollowed}
	ask := func(n int) reply {
		r, err := w.tryWith(t, kept, call{from: "client", to: fmt.Sprintf("service-%03d.shop", n)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask(7); r.status != http.StatusOK {
		t.Errorf("a dependency answers %d %s", r.status, r.body)
	}
	if r := ask(8); r.status != http.StatusNotFound || !strings.Contains(r.body, "NOT-A-DEPENDENCY") {
		t.Errorf("what is no dependency is answered %d %s", r.status, r.body)
	}

	opened := sidecar.stat(t, "cluster.service-007.shop:80.upstream_cx_total")
	w.apply(t, calls(three+`, {namespace: shop, service: service-008}`))
	names, after := outboundClusters(t, sidecar)
	if want = append(want, "service-008.shop:80"); len(names) != 4 || !slices.Contains(names, want[3]) {
		t.Errorf("its clusters are %v, want %v", names, want)
	}
	for name, at := range before {
		if after[name] != at {
			t.Errorf("cluster %s was taken anew at %s", name, after[name])
		}
	}
	for _, n := range []int{7, 8} {
		if r := ask(n); r.status != http.StatusOK {
			t.Errorf("service %d answers %d %s", n, r.status, r.body)
		}
	}
	if now := sidecar.stat(t, "cluster.service-007.shop:80.upstream_cx_total"); now != opened {
		t.Errorf("the sidecar made %d connections where it had %d", now, opened)
	}
}
