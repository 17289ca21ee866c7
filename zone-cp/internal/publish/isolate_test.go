package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
)

// reason is in what Envoy says of what spoil makes.
const reason = "domain"

// spoil breaks every route table in which the word is: a domain twice is well-formed, and Envoy
// refuses it. Other than a real fault it is not in what people wrote, because what they could write wrong
// is found before.
func spoil(t *testing.T, word string) func([]envoy.Resource) []envoy.Resource {
	return func(list []envoy.Resource) []envoy.Resource {
		list = slices.Clone(list)
		for i, r := range list {
			if r.Type != envoy.TypeRoute || !bytes.Contains(r.Body, []byte(word)) {
				continue
			}
			var table routev3.RouteConfiguration
			if err := proto.Unmarshal(r.Body, &table); err != nil {
				t.Error(err)
				return list
			}
			twin := proto.Clone(table.VirtualHosts[0]).(*routev3.VirtualHost)
			twin.Name = "twin"
			table.VirtualHosts = append(table.VirtualHosts, twin)
			body, err := proto.Marshal(&table)
			if err != nil {
				t.Error(err)
				return list
			}
			list[i].Body, list[i].Version = body, r.Version+"-spoiled"
			if bad := envoy.Validate(list[i : i+1]); len(bad) > 0 {
				t.Errorf("validation finds it: %v", bad[0].Err)
			}
		}
		return list
	}
}

func service(t *testing.T, name string) mesh.Resource {
	return made(t, mesh.KindService, name, policy.Service{Selector: map[string]string{"app": name}, Ports: []policy.ServicePort{{Port: 80, TargetPort: 8080, AppProtocol: "http"}}})
}

// routed makes Envoy answer a path of a service by itself: its backend is not there.
func routed(t *testing.T, name, service, path string) mesh.Resource {
	return made(t, mesh.KindHTTPRoute, name, map[string]any{
		"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": service, "port": 80}},
		"rules": []any{map[string]any{
			"matches":     []any{map[string]any{"path": map[string]any{"type": "Exact", "value": path}}},
			"backendRefs": []any{map[string]any{"name": "nowhere", "port": 80}},
		}},
	})
}

func allowPath(t *testing.T, name, path string) mesh.Resource {
	return made(t, mesh.KindAuthorizationPolicy, name, policy.AuthorizationPolicy{
		TargetRef: &policy.TargetRef{Kind: "Service", Name: "web"}, Action: policy.Allow,
		Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{path}}}}},
	})
}

// TestOneBadResourceIsRefusedAlone: what an Envoy refuses for a reason that no validation knows costs
// nobody else anything, though it shares a route table with all the others.
func TestOneBadResourceIsRefusedAlone(t *testing.T) {
	r := newRunning(t, spoil(t, "/planted"))
	r.run()
	services := []mesh.Resource{service(t, "web"), service(t, "cart"), service(t, "pay"), service(t, "ledger")}
	other := routed(t, "other", "ledger", "/ledger")
	r.apply(append(slices.Clone(services), other, routed(t, "good", "cart", "/v1"), routed(t, "bad", "pay", "/v1"), routed(t, "fine", "web", "/v1"))...)
	r.envoy()
	const cart, pay, web, ledger = "cart.shop.svc.clusterset.local", "pay.shop.svc.clusterset.local", "web.shop.svc.clusterset.local", "ledger.shop.svc.clusterset.local"
	r.answers(cart, "/v1", "NO-BACKEND")
	r.answers(pay, "/v1", "NO-BACKEND")

	good, bad, fine := routed(t, "good", "cart", "/v2"), routed(t, "bad", "pay", "/planted"), routed(t, "fine", "web", "/v2")
	t.Run("with others in the same apply", func(t *testing.T) {
		r.t = t
		r.apply(good, bad, fine)
		s := r.refused(bad, reason)
		if s.Acked == s.Total {
			t.Errorf("refused, and yet acknowledged by all: %+v", s)
		}
		r.clean(good, fine, other)
		r.clean(services...)
		r.answers(cart, "/v2", "NO-BACKEND")
		r.answers(cart, "/v1", "NO-ROUTE")
		r.answers(web, "/v2", "NO-BACKEND")
		r.answers(pay, "/v1", "NO-BACKEND") // the last good version
		r.answers(pay, "/planted", "NO-ROUTE")
	})
	t.Run("later changes of others are not held up", func(t *testing.T) {
		r.t = t
		good = routed(t, "good", "cart", "/v3")
		r.apply(good)
		r.clean(good)
		r.answers(cart, "/v3", "NO-BACKEND")
		r.refused(bad, reason)
	})
	t.Run("after a restart it is known", func(t *testing.T) {
		r.t = t
		r.stop()
		r.run()
		other = routed(t, "other", "ledger", "/ledger2")
		r.apply(other)
		r.clean(other)
		r.clean(services...)
		r.answers(ledger, "/ledger2", "NO-BACKEND")
		r.answers(pay, "/v1", "NO-BACKEND")
		r.refused(bad, reason)
	})
	t.Run("one that is new and bad", func(t *testing.T) {
		r.t = t
		created := routed(t, "created", "cart", "/planted2")
		good = routed(t, "good", "cart", "/v4")
		r.apply(good, created)
		r.refused(created, reason)
		r.clean(good)
		r.answers(cart, "/v4", "NO-BACKEND")
		r.answers(cart, "/planted2", "NO-ROUTE")
		r.refused(bad, reason)
	})
	t.Run("the cure lifts it", func(t *testing.T) {
		r.t = t
		bad = routed(t, "bad", "pay", "/v5")
		r.apply(bad)
		r.clean(bad)
		r.answers(pay, "/v5", "NO-BACKEND")
		r.answers(pay, "/v1", "NO-ROUTE")
	})
	t.Run("a policy beside a policy of the same service", func(t *testing.T) {
		r.t = t
		first, second := allowPath(t, "first", "/a"), allowPath(t, "second", "/planted")
		r.apply(first, second)
		r.refused(second, reason)
		r.clean(first)
		r.clean(services...)
		second = allowPath(t, "second", "/b")
		r.apply(second)
		r.clean(first, second)
	})
}

// TestPatchThatEnvoyRefuses: a patch that is well-formed, and that only an Envoy can know to be wrong, is refused with Envoy's words, and
// what was before stays; it is called a risk either way. One that Envoy takes is in force.
func TestPatchThatEnvoyRefuses(t *testing.T) {
	r := newRunning(t, nil)
	r.run()
	r.apply(service(t, "web"), service(t, "cart"), routed(t, "cart", "cart", "/v1"))
	r.envoy()
	const cart = "cart.shop.svc.clusterset.local"
	r.answers(cart, "/v1", "NO-BACKEND")
	patch := func(merge string) mesh.Resource {
		x := made(t, mesh.KindExtension, "patch", map[string]any{"patch": map[string]any{"resource": "RouteConfiguration", "name": "outbound", "merge": json.RawMessage(merge)}})
		x.Namespace = policy.SystemNamespace
		if wrong := policy.Validate(x); wrong != nil {
			t.Fatalf("%+v", wrong)
		}
		return x
	}
	risky := func(s mesh.ResourceStatus) {
		t.Helper()
		if !strings.HasPrefix(s.Message, "risk: ") {
			t.Errorf("it is not called a risk: %+v", s)
		}
	}
	bad := patch(`{"virtual_hosts": [{"name": "more", "domains": ["` + cart + `"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 418}}]}]}`)
	r.apply(bad)
	risky(r.refused(bad, "domain"))
	r.answers(cart, "/v1", "NO-BACKEND")

	good := patch(`{"response_headers_to_add": [{"header": {"key": "x-patched", "value": "by-hand"}}]}`)
	r.apply(good)
	r.clean(good)
	s, err := r.status(good)
	if err != nil {
		t.Fatal(err)
	}
	risky(s)
	r.answers(cart, "/v1", "NO-BACKEND")
}

// TestOneFaultInManyResources: a patch that makes two clusters invalid is refused, and not the services whose clusters they are. With it the
// refusal goes.
func TestOneFaultInManyResources(t *testing.T) {
	p := small(t, 2)
	patch := made(t, mesh.KindExtension, "patch", map[string]any{"patch": map[string]any{"resource": "Cluster", "name": "s*", "merge": map[string]any{"connect_timeout": "-1s"}}})
	patch.Namespace, patch.Changed, patch.Revision = policy.SystemNamespace, 2, 2
	build := func(c ...store.Change) {
		t.Helper()
		if err := p.build(t.Context(), batch{cursor: mesh.Cursor{Revision: 2}, changes: c}); err != nil {
			t.Fatal(err)
		}
		for p.stale {
			if err := p.build(t.Context(), batch{cursor: mesh.Cursor{Revision: 2}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func() []mesh.Key {
		var out []mesh.Key
		for k, c := range p.tracker.changes {
			if len(c.refused) > 0 {
				out = append(out, k)
			}
		}
		return out
	}
	build(store.Change{Resource: patch})
	if got := refused(); !slices.Equal(got, []mesh.Key{patch.Key}) {
		t.Errorf("refused are %v, want the patch alone", got)
	}
	build(store.Change{Resource: patch, Deleted: true})
	if got := refused(); len(got) > 0 {
		t.Errorf("without the patch are refused %v", got)
	}

	// Where nobody can be found, all sources are blamed, until it is left out no more.
	service := mesh.Key{Origin: "east", Kind: mesh.KindService, Namespace: "shop", Name: "s0"}
	for view := range p.views {
		p.invalid = []invalidResource{{string(view), envoy.Invalid{Resource: envoy.Resource{Type: envoy.TypeCluster, Name: "s0.shop:80", Sources: []mesh.Key{service}}, Err: errors.New("it is wrong")}}}
		break
	}
	p.blameInvalid(nil, nil, true, time.Now())
	if got := refused(); !slices.Equal(got, []mesh.Key{service}) {
		t.Errorf("refused are %v, want %v", got, service)
	}
	build()
	if got := refused(); !slices.Equal(got, []mesh.Key{service}) {
		t.Errorf("a build of endpoints alone, which judges nothing else, took it back: %v", got)
	}
	build(authorization(t, "s1", 2))
	if got := refused(); len(got) > 0 {
		t.Errorf("refused are still %v", got)
	}
}
