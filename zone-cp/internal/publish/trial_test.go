package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

const cartHost = "cart.shop.svc.clusterset.local"

// patched is an Extension that patches the route table of what applications call.
func patched(t *testing.T, merge string) mesh.Resource {
	t.Helper()
	x := made(t, mesh.KindExtension, "patch", map[string]any{"patch": map[string]any{"resource": "RouteConfiguration", "name": "outbound", "merge": json.RawMessage(merge)}})
	x.Namespace = policy.SystemNamespace
	if wrong := policy.Validate(x); wrong != nil {
		t.Fatalf("%+v", wrong)
	}
	return x
}

// answering is a virtual host that Comity does not make.
func answering(domain string) string {
	return `{"virtual_hosts": [{"name": "more", "domains": ["` + domain + `"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 418}}]}]}`
}

// realTrials has a real Envoy read what is asked about, as an agent does, and counts.
func realTrials(t *testing.T, asked *atomic.Int32) func(context.Context, mesh.ProxyID, []byte) (string, error) {
	program, err := envoybin.Path()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return func(ctx context.Context, _ mesh.ProxyID, bootstrap []byte) (string, error) {
		asked.Add(1)
		return envoybin.Validate(ctx, program, dir, bootstrap)
	}
}

// nacks is how often a running Envoy refused something.
func (r *running) nacks() float64 { return testutil.ToFloat64(r.p.metrics.rejections) }

// TestPatchIsTriedBeforeItGoesOut: what an Envoy would refuse of a patch no running Envoy ever gets.
func TestPatchIsTriedBeforeItGoesOut(t *testing.T) {
	var asked atomic.Int32
	r := newRunning(t, nil)
	r.try = realTrials(t, &asked)
	r.run()
	r.apply(service(t, "web"), service(t, "cart"), routed(t, "cart", "cart", "/v1"))
	r.envoy()
	r.answers(cartHost, "/v1", "NO-BACKEND")
	if asked.Load() != 0 {
		t.Error("something was tried though nothing is patched")
	}
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			r.t = t
			f(t)
			if n := r.nacks(); n != 0 {
				t.Errorf("a running Envoy refused something, %v times", n)
			}
		})
	}
	cart := routed(t, "cart", "cart", "/v2")
	step("one that is bad", func(t *testing.T) {
		bad := patched(t, answering(cartHost))
		r.apply(bad, cart)
		s := r.refused(bad, "not sent: ")
		if !strings.Contains(s.Rejections[0].Error, "domain") || !strings.HasPrefix(s.Message, "risk: ") {
			t.Errorf("%+v", s)
		}
		r.clean(cart) // which came with it, in the same table
		r.answers(cartHost, "/v2", "NO-BACKEND")
	})
	good := patched(t, answering("elsewhere.example"))
	step("one that is good", func(t *testing.T) {
		r.apply(good)
		r.clean(good)
		if status, _ := r.answer("elsewhere.example", "/"); status != 418 {
			t.Errorf("it is said to be in force, and the answer is %d", status)
		}
	})
	step("a change of others in what is patched", func(t *testing.T) {
		before := asked.Load()
		cart = routed(t, "cart", "cart", "/v3")
		r.apply(cart)
		r.clean(cart)
		r.answers(cartHost, "/v3", "NO-BACKEND")
		if asked.Load() == before {
			t.Error("it went out without having been tried")
		}
	})
	step("after a restart nobody is asked again", func(t *testing.T) {
		before := asked.Load()
		r.stop()
		r.run()
		r.clean(good, cart)
		if n := asked.Load() - before; n != 0 {
			t.Errorf("%d times", n)
		}
	})
	step("a change that does not go with the patch", func(t *testing.T) {
		elsewhere := made(t, mesh.KindExternalService, "elsewhere", policy.ExternalService{Hosts: []string{"elsewhere.example"}, Ports: []policy.ExternalPort{{Port: 80, Protocol: "http"}}})
		r.apply(elsewhere)
		r.refused(elsewhere, "not sent: ")
		r.clean(good)
		if status, _ := r.answer("elsewhere.example", "/"); status != 418 {
			t.Errorf("what was there before is no more: %d", status)
		}
	})
}

// TestWhileAPatchIsTried: a view that waits for a verdict stays as it was, says so, and goes on from verdict to verdict though changes come
// faster.
func TestWhileAPatchIsTried(t *testing.T) {
	var asked atomic.Int32
	begun, verdict := make(chan struct{}, 16), make(chan string)
	r := newRunning(t, nil)
	r.try = func(ctx context.Context, _ mesh.ProxyID, _ []byte) (string, error) {
		asked.Add(1)
		begun <- struct{}{}
		select {
		case v := <-verdict:
			return v, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	r.run()
	r.apply(service(t, "web"), service(t, "cart"), routed(t, "cart", "cart", "/v1"))
	r.envoy()
	r.answers(cartHost, "/v1", "NO-BACKEND")
	patch := patched(t, answering("elsewhere.example"))
	r.apply(patch)
	<-begun
	cart := routed(t, "cart", "cart", "/v2")
	r.apply(cart)
	until(t, "the route is on its way", func() error {
		s, err := r.status(cart)
		if err == nil && (s.State != mesh.StateApplied || s.Total != 1 || s.Acked != 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	if s, err := r.status(patch); err != nil || s.Acked != 0 || s.Total != 1 {
		t.Errorf("nobody has the patch: %+v, %v", s, err)
	}
	r.answers(cartHost, "/v1", "NO-BACKEND")
	verdict <- "" // of the patch; the route is asked about next
	<-begun
	r.clean(patch)
	if status, _ := r.answer("elsewhere.example", "/"); status != 418 {
		t.Errorf("what is good waits for what came later: %d", status)
	}
	r.answers(cartHost, "/v1", "NO-BACKEND")
	verdict <- "" // of the route
	r.clean(cart)
	r.answers(cartHost, "/v2", "NO-BACKEND")
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestRestartWhileAPatchIsTried: a zone that ends before the verdict asks again; what then is refused is the patch alone, and what it was merged
// into is there without it.
func TestRestartWhileAPatchIsTried(t *testing.T) {
	var asked atomic.Int32
	begun := make(chan struct{}, 16)
	r := newRunning(t, nil)
	r.try = func(ctx context.Context, _ mesh.ProxyID, _ []byte) (string, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	}
	r.run()
	services := []mesh.Resource{service(t, "web"), service(t, "cart")}
	cart := routed(t, "cart", "cart", "/v1")
	r.apply(append(services, cart)...)
	r.envoy()
	r.answers(cartHost, "/v1", "NO-BACKEND")
	bad := patched(t, answering(cartHost))
	r.apply(bad)
	<-begun
	r.stop()
	r.try = realTrials(t, &asked)
	r.run()
	r.refused(bad, "not sent: ")
	r.clean(cart)
	r.clean(services...)
	r.answers(cartHost, "/v1", "NO-BACKEND")
	cart = routed(t, "cart", "cart", "/v2")
	r.apply(cart)
	r.clean(cart)
	r.answers(cartHost, "/v2", "NO-BACKEND")
	if n := r.nacks(); n != 0 {
		t.Errorf("a running Envoy refused something, %v times", n)
	}
}

// TestPatchThatNobodyCanTry goes out, says so, and the Envoy that gets it decides.
func TestPatchThatNobodyCanTry(t *testing.T) {
	r := newRunning(t, nil)
	r.try = func(context.Context, mesh.ProxyID, []byte) (string, error) {
		return "", errors.New("exec: \"envoy\": not found")
	}
	r.run()
	r.apply(service(t, "web"), service(t, "cart"), routed(t, "cart", "cart", "/v1"))
	r.envoy()
	r.answers(cartHost, "/v1", "NO-BACKEND")
	bad := patched(t, answering(cartHost))
	r.apply(bad)
	r.refused(bad, "domain")
	if r.nacks() == 0 {
		t.Error("no Envoy got it")
	}
	good := patched(t, answering("elsewhere.example"))
	r.apply(good)
	r.clean(good)
	s, err := r.status(good)
	if err != nil || !strings.HasPrefix(s.Message, "risk: ") || !strings.Contains(s.Message, "not tried beforehand") || !strings.Contains(s.Message, "not found") {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestPatchIsTriedWhenItIsApplied: who applies it is told Envoy's reason, and nothing is stored.
func TestPatchIsTriedWhenItIsApplied(t *testing.T) {
	var asked atomic.Int32
	r := newRunning(t, nil)
	r.try = realTrials(t, &asked)
	r.run()
	r.apply(service(t, "web"), service(t, "cart"), routed(t, "cart", "cart", "/v1"))
	r.envoy()
	r.answers(cartHost, "/v1", "NO-BACKEND")
	admit := func(merge string) []policy.FieldError {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		wrong, err := r.p.Admit(ctx, store.Write{Resource: patched(t, merge)})
		if err != nil {
			t.Fatal(err)
		}
		return wrong
	}
	wrong := admit(answering(cartHost))
	if len(wrong) != 1 || wrong[0].Pointer != "/spec/patch/merge" || !strings.Contains(wrong[0].Message, "domain") || !strings.Contains(wrong[0].Message, r.id.String()) {
		t.Errorf("%+v", wrong)
	}
	if wrong := admit(answering("elsewhere.example")); wrong != nil {
		t.Errorf("%+v", wrong)
	}
	before := asked.Load()
	wrong = admit(`{"virtual_hosts": [{"name": "", "domains": []}]}`) // breaks the protocol's own rules
	if len(wrong) != 1 || asked.Load() != before {
		t.Errorf("%+v; asked %d times", wrong, asked.Load()-before)
	}
	if n := r.nacks(); n != 0 {
		t.Errorf("a running Envoy refused something, %v times", n)
	}
}
