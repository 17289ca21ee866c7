package translate_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestOrderPlaysNoPart: whatever the order of the input, the output is the same bytes.
func TestOrderPlaysNoPart(t *testing.T) {
	files, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			in := topologytest.Load(t, file)
			want := fingerprint(t, in)
			rapid.Check(t, func(rt *rapid.T) {
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				if got := fingerprint(rt, shuffled(r, in)); got != want {
					rt.Fatalf("differs:\n%s\n%s", got, want)
				}
			})
		})
	}
}

func shuffle[T any](r *rand.Rand, list []T) []T {
	out := slices.Clone(list)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func shuffled(r *rand.Rand, in topology.Input) topology.Input {
	in.Resources, in.Workloads, in.Ingresses, in.Remotes = shuffle(r, in.Resources), shuffle(r, in.Workloads), shuffle(r, in.Ingresses), shuffle(r, in.Remotes)
	for i := range in.Ingresses {
		in.Ingresses[i].BindPorts = shuffle(r, in.Ingresses[i].BindPorts)
	}
	in.Egresses = shuffle(r, in.Egresses)
	for i := range in.Remotes {
		in.Remotes[i].Exports, in.Remotes[i].Ingresses = shuffle(r, in.Remotes[i].Exports), shuffle(r, in.Remotes[i].Ingresses)
		for j := range in.Remotes[i].Exports {
			e := &in.Remotes[i].Exports[j]
			e.Ports, e.Identities = shuffle(r, e.Ports), shuffle(r, e.Identities)
		}
		for j := range in.Remotes[i].Ingresses {
			g := &in.Remotes[i].Ingresses[j]
			g.Ports, g.Addresses = shuffle(r, g.Ports), shuffle(r, g.Addresses)
		}
	}
	return in
}

// fingerprint is everything that comes out: proxies, versions, bodies, sources, issues, statuses, exports.
func fingerprint(t interface{ Fatal(...any) }, in topology.Input) string {
	return fingerprintOf(t, in, envoy.NewCache())
}

// fingerprintOf is fingerprint with a memory of what was built before.
func fingerprintOf(t interface{ Fatal(...any) }, in topology.Input, cache *envoy.Cache) string {
	topo, issues := topology.Build(in)
	var b strings.Builder
	tr := translate.New(topo, nil)
	for _, p := range topo.Proxies() {
		fmt.Fprintf(&b, "%s %s\n", p.ID, p.ViewKey)
		out := tr.Proxy(p)
		resources, err := cache.Build(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resources {
			fmt.Fprintf(&b, "  %s %s %x %v\n", r, r.Version, sha256.Sum256(r.Body), r.Sources)
		}
		short, err := envoy.BuildEndpoints(tr.Endpoints(p))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range short {
			if !slices.ContainsFunc(resources, func(o envoy.Resource) bool { return o.Type == r.Type && o.Name == r.Name && o.Version == r.Version }) {
				t.Fatal("the short path differs: " + r.String())
			}
		}
	}
	exports, err := json.Marshal(topo.Exports())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%s\n%v\n%v\n", exports, issues, topo.Listeners())
	return b.String()
}

// TestSharedIsTheSame: what a translator shares and a cache remembers is what is built alone.
func TestSharedIsTheSame(t *testing.T) {
	topo, _ := topology.Build(topologytest.Load(t, "testdata/cross-zone/input.yaml"))
	tr, cache := translate.New(topo, nil), envoy.NewCache()
	for range 3 { // twice from memory, the last time after all was forgotten
		for _, p := range topo.Proxies() {
			got, err := cache.Build(tr.Proxy(p))
			if err != nil {
				t.Fatal(err)
			}
			want, err := envoy.Build(translate.Proxy(topo, p))
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range got {
				if r.Version != want[i].Version || !bytes.Equal(r.Body, want[i].Body) {
					t.Errorf("%s differs", r)
				}
			}
		}
		cache.Turn()
	}
}

// TestAuthorizationMeansWhatItSays checks the resolved tables against the policies read literally, for
// random policies, callers and requests.
func TestAuthorizationMeansWhatItSays(t *testing.T) {
	base := topologytest.Load(t, "testdata/default-allow/input.yaml")
	zones := map[string]mesh.TrustDomain{"one": "one.example", "two": "two.example"}
	rapid.Check(t, func(rt *rapid.T) {
		var policies []policy.AuthorizationPolicy
		in := base
		in.Resources = slices.DeleteFunc(slices.Clone(in.Resources), func(r mesh.Resource) bool { return r.Kind == mesh.KindMeshConfig })
		byDefault := rapid.SampledFrom([]policy.DefaultAuthorization{policy.DefaultAllow, policy.DefaultDeny}).Draw(rt, "default")
		in.Resources = append(in.Resources, spec(rt, mesh.KindMeshConfig, "", "default", policy.MeshConfig{DefaultAuthorization: byDefault}))
		for i := range rapid.IntRange(0, 4).Draw(rt, "policies") {
			p := drawPolicy(rt)
			policies = append(policies, p)
			in.Resources = append(in.Resources, spec(rt, mesh.KindAuthorizationPolicy, "shop", fmt.Sprintf("p%d", i), p))
		}
		topo, _ := topology.Build(in)
		out := translate.Proxy(topo, topo.Proxies()[0])
		for range 20 {
			zone := rapid.SampledFrom([]string{"one", "two"}).Draw(rt, "zone")
			q := request{
				zone: zone, namespace: rapid.SampledFrom([]string{"shop", "other"}).Draw(rt, "ns"),
				account: rapid.SampledFrom([]string{"web", "batch"}).Draw(rt, "sa"),
				method:  rapid.SampledFrom([]string{"GET", "POST"}).Draw(rt, "method"),
				path:    rapid.SampledFrom([]string{"/", "/a", "/a/b", "/b"}).Draw(rt, "path"),
				port:    rapid.SampledFrom([]uint16{8080, 7070}).Draw(rt, "port"),
			}
			q.id = zones[zone].WorkloadID(q.namespace, q.account)
			want := literally(policies, byDefault, q)
			if got := asBuilt(rt, out, q); got != want {
				rt.Fatalf("%+v: the tables say %v, the policies %v", q, got, want)
			}
		}
	})
}

type request struct {
	zone, namespace, account, id, method, path string
	port                                       uint16
}

func spec(t interface{ Fatal(...any) }, kind mesh.Kind, namespace, name string, v any) mesh.Resource {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: namespace, Name: name}, Spec: raw}
}

func some[T any](rt *rapid.T, name string, from ...T) []T {
	return rapid.SliceOfN(rapid.SampledFrom(from), 0, 2).Draw(rt, name)
}

func drawPolicy(rt *rapid.T) policy.AuthorizationPolicy {
	p := policy.AuthorizationPolicy{Action: rapid.SampledFrom([]policy.Action{policy.Allow, policy.Deny}).Draw(rt, "action")}
	if rapid.Bool().Draw(rt, "targeted") {
		p.TargetRef = &policy.TargetRef{Kind: "Service", Name: rapid.SampledFrom([]string{"pay", "else"}).Draw(rt, "target")}
	}
	for range rapid.IntRange(0, 2).Draw(rt, "rules") {
		var rule policy.Rule
		for range rapid.IntRange(0, 2).Draw(rt, "from") {
			s := policy.Source{
				Identities: some(rt, "ids", "spiffe://one.example/", "spiffe://two.example/ns/shop/", "spiffe://one.example/ns/shop/sa/web", "spiffe://two.example/ns/shop/sa/batch"),
				Namespaces: some(rt, "namespaces", "shop", "other"),
				Zones:      some(rt, "zones", "one", "two", "three"),
			}
			if len(s.Namespaces) > 0 {
				s.ServiceAccounts = some(rt, "accounts", "web", "batch")
			}
			rule.From = append(rule.From, s)
		}
		for range rapid.IntRange(0, 2).Draw(rt, "to") {
			rule.To = append(rule.To, policy.Operation{
				Methods: some(rt, "methods", "GET", "POST"), Paths: some(rt, "paths", "/a", "/a*", "/b"), Ports: some[uint16](rt, "ports", 8080, 7070),
			})
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// literally reads the policies as their documentation does.
func literally(policies []policy.AuthorizationPolicy, byDefault policy.DefaultAuthorization, q request) bool {
	allowed, anyAllow := false, false
	for _, p := range policies {
		if p.TargetRef != nil && p.TargetRef.Name != "pay" {
			continue
		}
		hit := p.Action == policy.Deny && len(p.Rules) == 0
		for _, r := range p.Rules {
			from := len(r.From) == 0 || slices.ContainsFunc(r.From, func(s policy.Source) bool { return fromMatches(s, q) })
			to := len(r.To) == 0 || slices.ContainsFunc(r.To, func(o policy.Operation) bool { return toMatches(o, q, p.Action) })
			hit = hit || from && to
		}
		if p.Action == policy.Deny && hit {
			return false
		}
		if p.Action == policy.Allow {
			anyAllow = true
			allowed = allowed || hit
		}
	}
	return allowed || !anyAllow && byDefault == policy.DefaultAllow
}

func in[T comparable](list []T, v T) bool { return len(list) == 0 || slices.Contains(list, v) }

func fromMatches(s policy.Source, q request) bool {
	ids := len(s.Identities) == 0 || slices.ContainsFunc(s.Identities, func(p string) bool {
		return p == q.id || strings.HasSuffix(p, "/") && strings.HasPrefix(q.id, p)
	})
	return ids && in(s.Namespaces, q.namespace) && in(s.ServiceAccounts, q.account) && in(s.Zones, q.zone)
}

func toMatches(o policy.Operation, q request, action policy.Action) bool {
	if !in(o.Ports, q.port) {
		return false
	}
	if q.port == 7070 && len(o.Methods)+len(o.Paths) > 0 {
		return action == policy.Deny // there are no requests to look at: fail closed
	}
	paths := len(o.Paths) == 0 || slices.ContainsFunc(o.Paths, func(p string) bool {
		return p == q.path || strings.HasSuffix(p, "*") && strings.HasPrefix(q.path, strings.TrimSuffix(p, "*"))
	})
	return in(o.Methods, q.method) && paths
}

// asBuilt reads the IR as Envoy does: the longest pattern, then the first decision.
func asBuilt(rt *rapid.T, p ir.Proxy, q request) bool {
	if q.port == 7070 {
		name := "admission/inbound/pay.shop:7070/" + q.zone
		i := slices.IndexFunc(p.Admissions, func(a ir.Admission) bool { return a.Name == name })
		if i < 0 {
			rt.Fatalf("no %s", name)
		}
		return callerOf(p.Admissions[i].Authorization, q.id).Decisions[0].Allow
	}
	table := fmt.Sprintf("inbound/pay.shop:%d/%s", q.port, q.zone)
	i := slices.IndexFunc(p.Routes, func(r ir.RouteTable) bool { return r.Name == table })
	if i < 0 {
		rt.Fatalf("no table %s", table)
	}
	for _, d := range callerOf(*p.Routes[i].Hosts[0].Authorization, q.id).Decisions {
		if len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r ir.RequestMatch) bool { return requestMatches(r, q) }) {
			return d.Allow
		}
	}
	return false
}

func requestMatches(r ir.RequestMatch, q request) bool {
	paths := len(r.Paths) == 0 || slices.ContainsFunc(r.Paths, func(p ir.PathMatch) bool {
		return p.Value == q.path || p.Kind == ir.PathPrefix && strings.HasPrefix(q.path, p.Value)
	})
	return in(r.Methods, q.method) && paths && !r.AmbiguousPath
}

func callerOf(a ir.Authorization, id string) (best ir.Caller) {
	for _, c := range a.Callers {
		if covered(c.Identity, id) && len(c.Identity) > len(best.Identity) {
			best = c
		}
	}
	return best
}

func covered(by ir.Pattern, id string) bool {
	return string(by) == id || by.Prefix() && strings.HasPrefix(id, string(by))
}
