package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/comity-mesh/comity/dataplane/tap"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
)

// tapShare has the proxy's Envoy tell of a share of its requests, as its agent does.
func (p *proxy) tapShare(ctx context.Context, share uint32) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/runtime_modify?%s=%d", p.admin, envoy.TapKey, share), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("runtime_modify: %d, %w", res.StatusCode, err)
	}
	return nil
}

// watch taps a proxy until the test ends.
func (w *world) watch(t *testing.T, name string, what mesh.Tap) <-chan mesh.TapEvent {
	t.Helper()
	p := w.sidecar(t, name)
	what.Proxy = p.id.String()
	if what.Service != "" {
		what.Proxy = ""
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan mesh.TapEvent, 1000), make(chan error, 1)
	go func() {
		ended <- p.tap.Watch(ctx, tap.Self{Proxy: p.id, Zone: "one", Identity: "spiffe://one.example/ns/shop/sa/" + name}, what, func(e mesh.TapEvent) error {
			seen <- e
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return seen
}

func TestTap(t *testing.T) {
	w := newWorld(t)
	w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{to: [{methods: [DELETE]}]}]}
`)
	var all []<-chan mesh.TapEvent
	for _, n := range []string{"web", "echo-1", "echo-2"} {
		all = append(all, w.watch(t, n, mesh.Tap{}))
	}
	w.call(t, call{path: "/x?token=s3cret", header: map[string]string{"authorization": "s3cret", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}})
	w.call(t, call{method: "DELETE"})
	w.call(t, call{to: "pay.shop.svc.clusterset.local"})
	for _, s := range all {
		for len(s) > 0 {
			e := <-s
			raw, _ := json.Marshal(e)
			t.Log(string(raw))
		}
	}
}
