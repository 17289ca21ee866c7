package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// ours is a mesh of whole programs, configured as their users would: global, the zones one to three, and in them
//
//	web-a, web-b    sidecars of callers, in zone one
//	echo-a, echo-b  sidecars of services of the same names, and of wire-a and wire-b, which are layer l4; in zone one
//	edge            an ingress of zone one, for Gateways
//	gate, pay       the ingress of zone two, and the sidecar of the service behind it
//	hatch, till     the same of zone three, but that other zones reach hatch by an Envoy written by hand
type ours struct {
	bin, dir string
	app      load.App
	servers  []*rig.Server
	global   *client.Client
	zones    map[string]*client.Client
	proxies  map[string]proxyInfo
	hosts    int      // addresses of workloads so far
	middle   *process // that Envoy
	feature  []object // what apply applied last
}

type object struct {
	kind            policy.KindInfo
	namespace, name string
}

// proxyInfo is what a sidecar or an ingress writes of itself.
type proxyInfo struct {
	Ready bool `json:"ready"`
	// Of a sidecar, where other proxies reach it.
	Address     string          `json:"address"`
	InboundPort int             `json:"inboundPort"`
	EnvoyPID    int             `json:"envoyPid"`
	Outbound    string          `json:"outbound"`
	Upstreams   []mesh.Upstream `json:"upstreams"`
}

const (
	namespace = "shop"
	rawPort   = 7070
)

func zones() []string { return []string{"one", "two", "three"} }

// startOurs returns when every service answers. The mesh is stopped by stop, also after an error.
func startOurs(ctx context.Context, bin, dir string, app load.App) (*ours, error) {
	m := &ours{bin: bin, dir: dir, app: app, zones: map[string]*client.Client{}, proxies: map[string]proxyInfo{}}
	for _, step := range []func(context.Context) error{m.startControlPlanes, m.declare, m.startProxies, m.awaitAnswers} {
		if err := step(ctx); err != nil {
			m.stop()
			return nil, err
		}
	}
	return m, nil
}

func (m *ours) stop() {
	if m.middle != nil {
		defer m.middle.stop()
	}
	for _, s := range slices.Backward(m.servers) {
		s.Stop()
	}
}

// serve runs a program of ours by its configuration; `name` is what its files are called.
func (m *ours) serve(ctx context.Context, program, verb, name, ready string, settings map[string]any) error {
	text, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	config := filepath.Join(m.dir, name+".yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	s, err := rig.Serve(ctx, filepath.Join(m.dir, name+".log"), ready, filepath.Join(m.bin, program), verb, "--config", config)
	if err != nil {
		return err
	}
	m.servers = append(m.servers, s)
	return nil
}

func (m *ours) startControlPlanes(ctx context.Context) error {
	var addresses [2 + 3]string
	for i := range addresses {
		var err error
		if addresses[i], err = rig.FreeAddress(); err != nil {
			return err
		}
	}
	start := func(program, name string, settings map[string]any, api string, listen map[string]any) (*client.Client, error) {
		token := filepath.Join(m.dir, name+".token")
		listen["api"] = api
		settings["listen"], settings["dataDir"], settings["adminTokenFile"] = listen, filepath.Join(m.dir, name), token
		if err := m.serve(ctx, program, "serve", name, api, settings); err != nil {
			return nil, err
		}
		return rig.Connect(api, token)
	}
	var err error
	m.global, err = start("global-cp", "global", map[string]any{"trustDomain": "global.bench.example"}, addresses[0], map[string]any{"federation": addresses[1]})
	if err != nil {
		return err
	}
	for i, zone := range zones() {
		c, err := start("zone-cp", zone, map[string]any{"zone": zone, "trustDomain": zone + ".bench.example"}, addresses[2+i], map[string]any{"proxies": "127.0.0.1:0"})
		if err != nil {
			return err
		}
		m.zones[zone] = c
	}
	return nil
}

// declare says at global what the mesh is like. Nothing is said of how traffic is treated but layer l4 of wire: everything
// else is as it comes.
func (m *ours) declare(ctx context.Context) error {
	var docs []string
	for _, zone := range zones() {
		docs = append(docs, fmt.Sprintf("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: %s}\nspec: {namespaces: [%s]}\n", zone, namespace))
	}
	for _, service := range []struct{ name, app string }{{"echo-a", "echo-a"}, {"echo-b", "echo-b"}, {"wire-a", "echo-a"}, {"wire-b", "echo-b"}, {"pay", "pay"}, {"till", "till"}} {
		docs = append(docs, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec:
  selector: {app: %s}
  ports:
  - {name: http, port: 80, targetPort: %d, appProtocol: http}
  - {name: h2c, port: 81, targetPort: %d, appProtocol: kubernetes.io/h2c}
  - {name: grpc, port: 9090, targetPort: %d, appProtocol: grpc}
  - {name: raw, port: %d, targetPort: %d}
`, service.name, namespace, service.app, m.app.HTTP1, m.app.HTTP2, m.app.GRPC, rawPort, m.app.HTTP1))
	}
	for _, service := range []string{"pay", "till"} {
		docs = append(docs, fmt.Sprintf("apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: %s, namespace: %s}\n", service, namespace))
	}
	docs = append(docs, `apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-may, namespace: shop}
spec:
  action: Allow
  rules: [{from: [{namespaces: [shop], serviceAccounts: [web-a, web-b]}]}]
`)
	for _, wire := range []string{"wire-a", "wire-b"} {
		docs = append(docs, fmt.Sprintf(`apiVersion: mesh.comity.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: %[1]s, namespace: shop}
spec: {targetRef: {kind: Service, name: %[1]s, sectionName: http}, layer: l4}
`, wire))
	}
	if _, err := m.global.Apply(ctx, []byte(strings.Join(docs, "---\n")), client.ApplyOptions{}); err != nil {
		return err
	}
	for zone, c := range m.zones {
		token, err := m.global.CreateJoinToken(ctx, zone, client.JoinTokenRequest{})
		if err != nil {
			return err
		}
		if _, err := c.Join(ctx, client.JoinRequest{Token: token.Token}); err != nil {
			return err
		}
	}
	return nil
}

func (m *ours) startProxies(ctx context.Context) error {
	for _, name := range []string{"web-a", "web-b", "echo-a", "echo-b"} {
		if err := m.sidecar(ctx, "one", name); err != nil {
			return err
		}
	}
	for zone, name := range map[string]string{"two": "pay", "three": "till"} {
		if err := m.sidecar(ctx, zone, name); err != nil {
			return err
		}
	}
	for zone, name := range map[string]string{"one": "edge", "two": "gate"} {
		lanes, err := freePorts(lanesOfIngress)
		if err != nil {
			return err
		}
		if err := m.ingress(ctx, zone, name, lanes, nil); err != nil {
			return err
		}
	}
	return m.hatch(ctx)
}

// hatch is an ingress behind an Envoy that somebody wrote by hand, to which other zones are sent.
func (m *ours) hatch(ctx context.Context) error {
	ports, err := freePorts(2 * lanesOfIngress)
	if err != nil {
		return err
	}
	lanes, shown := ports[:lanesOfIngress], ports[lanesOfIngress:]
	till := m.proxies["till"]
	name := mesh.ServicePort{Port: 80, Service: "till", Namespace: namespace, Zone: "three"}.SNI("one")
	if m.middle, err = startMiddle(m.dir, shown, name, till.Address, till.InboundPort, lanes); err != nil {
		return err
	}
	return m.ingress(ctx, "three", "hatch", lanes, shown)
}

func (m *ours) sidecar(ctx context.Context, zone, name string) error {
	// Not where the application listens: a permissive sidecar listens there too.
	m.hosts++
	settings := map[string]any{"namespace": namespace, "address": fmt.Sprintf("127.0.0.%d", 1+m.hosts), "labels": map[string]string{"app": name}}
	if last, ok := strings.CutPrefix(name, "web-"); ok {
		settings["upstreams"] = []mesh.Upstream{{Service: "echo-" + last, Port: rawPort}}
	}
	return m.proxy(ctx, "sidecar", zone, name, client.EnrolmentTokenRequest{
		Role: mesh.RoleSidecar, Namespace: namespace, ServiceAccount: name, Labels: map[string]string{"app": name},
	}, settings)
}

// ingress has four lanes, as by default, which other zones may be shown as other ports.
func (m *ours) ingress(ctx context.Context, zone, name string, lanes, shown []int) error {
	settings := map[string]any{"bindAddress": "127.0.0.1", "lanes": lanes}
	if shown != nil {
		settings["advertise"] = map[string]any{"host": "127.0.0.1", "ports": shown}
	}
	return m.proxy(ctx, "ingress", zone, name, client.EnrolmentTokenRequest{Role: mesh.RoleIngress, Name: name}, settings)
}

func (m *ours) proxy(ctx context.Context, program, zone, name string, token client.EnrolmentTokenRequest, settings map[string]any) error {
	tok, err := m.zones[zone].CreateEnrolmentToken(ctx, token)
	if err != nil {
		return err
	}
	file := filepath.Join(m.dir, name+".token")
	if err := os.WriteFile(file, []byte(tok.Token), 0o600); err != nil {
		return err
	}
	ready, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	info := filepath.Join(m.dir, name+".json")
	maps.Copy(settings, map[string]any{
		"name": name, "tokenFile": file, "dataDir": filepath.Join(m.dir, name), "runDir": filepath.Join(m.dir, "r-"+name), "writeInfo": info,
		"metrics": map[string]any{"address": ready}, "envoy": map[string]any{"concurrency": 1},
		// Where it is, as people say: Envoy then counts by place too.
		"locality": mesh.Locality{Cloud: "bench", Region: "east", Zone: zone},
	})
	if err := m.serve(ctx, program, "run", name, ready, settings); err != nil {
		return err
	}
	return rig.Poll(ctx, name+" tells of itself", func() error {
		text, err := os.ReadFile(info)
		if err != nil {
			return err
		}
		var p proxyInfo
		if err := json.Unmarshal(text, &p); err != nil {
			return err
		}
		if !p.Ready {
			return fmt.Errorf("%s is not ready", name)
		}
		m.proxies[name] = p
		return nil
	})
}

// awaitAnswers waits until each way that is measured is open.
func (m *ours) awaitAnswers(ctx context.Context) error {
	for _, way := range [][2]string{{"web-a", "echo-a"}, {"web-b", "echo-b"}, {"web-a", "wire-a"}, {"web-b", "wire-b"}, {"web-a", "pay"}, {"web-b", "pay"}, {"web-a", "till"}, {"web-b", "till"}} {
		err := rig.Poll(ctx, way[0]+" gets answers of "+way[1], func() error {
			return getOK(ctx, m.proxies[way[0]].Outbound, host(way[1]))
		})
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"web-a", "web-b"} {
		address, err := m.upstream(name)
		if err != nil {
			return err
		}
		if err := rig.Poll(ctx, name+" gets answers by TCP", func() error { return getOK(ctx, address, "echo") }); err != nil {
			return err
		}
	}
	return nil
}

func host(service string) string { return mesh.ClusterSetHost(service, namespace) }

// apply replaces what it applied before at zone one by documents, and returns when every Envoy runs it.
func (m *ours) apply(ctx context.Context, documents string) error {
	zone := m.zones["one"]
	var revisions []mesh.Revision
	for _, o := range m.feature {
		r, err := zone.Delete(ctx, o.kind, o.namespace, o.name)
		if err != nil {
			return err
		}
		revisions = append(revisions, r)
	}
	m.feature = nil
	if strings.TrimSpace(documents) != "" {
		r, err := zone.Apply(ctx, []byte(documents), client.ApplyOptions{})
		if err != nil {
			return err
		}
		revisions = append(revisions, r.Revision)
	}
	for doc := range strings.SplitSeq(documents, "\n---") {
		var d struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal([]byte(doc), &d); err != nil {
			return err
		}
		if kind, ok := policy.Lookup(d.Kind); ok {
			m.feature = append(m.feature, object{kind, d.Metadata.Namespace, d.Metadata.Name})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, r := range revisions {
		if err := zone.Follow(ctx, r, func(p client.Progress) bool { return p.Done }); err != nil {
			return fmt.Errorf("revision %d: %w", r, err)
		}
	}
	return nil
}

// upstream is the local port of a caller for a TCP service.
func (m *ours) upstream(name string) (string, error) {
	for _, u := range m.proxies[name].Upstreams {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(u.LocalPort)), nil
	}
	return "", fmt.Errorf("%s has no upstream", name)
}
