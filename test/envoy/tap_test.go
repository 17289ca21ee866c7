package envoy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// watch taps proxies until the test ends; it returns once their Envoys tell.
func (w *world) watch(t *testing.T, what mesh.Tap, names ...string) <-chan mesh.TapEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	seen, begun := make(chan mesh.TapEvent, 1000), make(chan struct{}, len(names))
	var watches sync.WaitGroup
	for _, name := range names {
		p, one := w.sidecar(t, name), what
		if one.Service == "" {
			one.Proxy = p.id.String()
		}
		watches.Go(func() {
			self := tap.Self{Proxy: p.id, Zone: "one", Identity: "spiffe://one.example/ns/shop/sa/" + name}
			err := p.tap.Watch(ctx, self, one, func(e mesh.TapEvent) error {
				if e == (mesh.TapEvent{}) {
					begun <- struct{}{}
					return nil
				}
				seen <- e
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); watches.Wait() })
	for range names {
		select {
		case <-begun:
		case <-time.After(10 * time.Second):
			t.Fatal("the tap does not begin")
		}
	}
	return seen
}

// tapRequest is the next request that a tap shows.
func tapRequest(t *testing.T, seen <-chan mesh.TapEvent) mesh.TapRequest {
	t.Helper()
	for {
		select {
		case e := <-seen:
			if e.Request != nil {
				return *e.Request
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a tap shows nothing")
		}
	}
}

func TestTap(t *testing.T) {
	w := newWorld(t)
	const noDelete = `
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{to: [{methods: [DELETE]}]}]}
`
	w.apply(t, noDelete)
	echo := mesh.Tap{Namespace: "shop", Service: "echo"}

	t.Run("both ends", func(t *testing.T) {
		seen := w.watch(t, mesh.Tap{}, "web", "echo-1", "echo-2")
		began := time.Now()
		w.call(t, call{path: "/x?token=s3cret", header: map[string]string{
			"authorization": "Bearer s3cret", "cookie": "s3cret", "x-user": "s3cret", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		}})
		bySide := map[mesh.TapSide]mesh.TapRequest{}
		for range 2 {
			r := tapRequest(t, seen)
			bySide[r.Side] = r
			if raw, err := json.Marshal(r); err != nil || strings.Contains(string(raw), "s3cret") {
				t.Errorf("what is shown holds a secret: %s, %v", raw, err)
			}
		}
		t.Logf("a request was shown by both ends %s after it began", time.Since(began))
		client, server := bySide[mesh.TapClient], bySide[mesh.TapServer]
		if client.Source.Name != "web" || client.Destination.Name != "echo" || client.Destination.Zone != "one" || !strings.HasPrefix(client.Destination.Identity, "spiffe://one.example/ns/shop/sa/echo-") {
			t.Errorf("the client tells of %+v -> %+v", client.Source, client.Destination)
		}
		if server.Source.Identity != "spiffe://one.example/ns/shop/sa/web" || server.Source.Zone != "one" || server.Destination.Port != 80 {
			t.Errorf("the server tells of %+v -> %+v", server.Source, server.Destination)
		}
		for _, r := range bySide {
			if r.Method != http.MethodGet || r.Path != "/x" || r.Status != 200 || r.TraceID != "4bf92f3577b34da6a3ce929d0e0e4736" || r.DurationMS <= 0 {
				t.Errorf("%s: %+v", r.Side, r)
			}
		}
		if server.Policy != "global/shop/everybody-may" {
			t.Errorf("allowed by %q", server.Policy)
		}
	})

	t.Run("answered before anybody was chosen", func(t *testing.T) {
		seen := w.watch(t, mesh.Tap{Namespace: "shop", Service: "echo", Side: mesh.TapClient}, "web")
		w.apply(t, `
kind: TrafficPolicy
metadata: {name: abort, namespace: shop}
spec: {targetRef: {kind: Service, name: echo}, fault: {abort: {percent: 100, status: 503}}}
`)
		w.call(t, call{})
		if r := tapRequest(t, seen); r.Status != 503 || r.Destination.Name != "echo" || r.Destination.Namespace != "shop" || r.Source.Name != "web" {
			t.Errorf("%+v", r)
		}
		w.apply(t, noDelete)
	})

	t.Run("refused", func(t *testing.T) {
		seen := w.watch(t, echo, "echo-1", "echo-2")
		w.call(t, call{method: "DELETE"})
		if r := tapRequest(t, seen); r.Status != 403 || r.Policy != "global/shop/no-delete" {
			t.Errorf("%d by %q", r.Status, r.Policy)
		}
	})

	t.Run("refused in the handshake", func(t *testing.T) {
		seen := w.watch(t, mesh.Tap{}, "echo-1")
		spec := w.spec(t, "echo-1").Spec
		at := net.JoinHostPort(spec.Address, fmt.Sprint(spec.InboundPort))
		c, err := tls.Dial("tcp", at, &tls.Config{ServerName: "one.80.echo.shop.one.mesh", InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // of the server nothing is wanted
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // TLS 1.3: the client hears of it only now
			_ = c.Close()
		}
		if err == nil {
			t.Fatal("who has no certificate is let in")
		}
		r := tapRequest(t, seen)
		if !strings.Contains(r.Details, "PEER_DID_NOT_RETURN_A_CERTIFICATE") || r.Source.Zone != "one" || r.Destination.Name != "echo" {
			t.Errorf("%+v", r)
		}
		if c, err = tls.Dial("tcp", at, &tls.Config{ServerName: "one.80.nobody.shop.one.mesh", InsecureSkipVerify: true}); err == nil { //nolint:gosec // as above
			_ = c.Close()
			t.Fatal("there is a service nobody")
		}
		if r := tapRequest(t, seen); r.Destination.Name != "nobody" || r.Flags != "NR" {
			t.Errorf("%+v", r)
		}
	})

	t.Run("filters", func(t *testing.T) {
		calls := []call{
			{path: "/a"}, {path: "/b", method: "POST"}, {path: "/a/c", header: map[string]string{"x-canary": "yes"}}, {method: "DELETE", path: "/d"},
			{path: "/e", to: "echo-v1.shop.svc.clusterset.local"},
		}
		for name, c := range map[string]struct {
			tap  mesh.Tap
			want string
		}{
			"method":     {mesh.Tap{Filter: mesh.TapFilter{Methods: []string{"POST", "PUT"}}}, "/b"},
			"path":       {mesh.Tap{Filter: mesh.TapFilter{Path: "/a"}}, "/a /a/c"},
			"status":     {mesh.Tap{Filter: mesh.TapFilter{Status: []string{"4xx"}}}, "/d"},
			"two":        {mesh.Tap{Filter: mesh.TapFilter{Status: []string{"200"}, Path: "/a/"}}, "/a/c"},
			"header":     {mesh.Tap{Filter: mesh.TapFilter{Headers: map[string]string{"x-canary": "yes"}}}, "/a/c"},
			"from":       {mesh.Tap{Filter: mesh.TapFilter{From: "shop/web@one"}}, "/a /a/c /b /d /e"},
			"from other": {mesh.Tap{Filter: mesh.TapFilter{From: "web@two"}}, ""},
			"to":         {mesh.Tap{Filter: mesh.TapFilter{To: "echo-v1"}}, "/e"},
			"a service":  {echo, "/a /a/c /b /d"},
		} {
			t.Run(name, func(t *testing.T) {
				seen := w.watch(t, c.tap, "echo-1", "echo-2")
				all := w.watch(t, mesh.Tap{}, "echo-1", "echo-2")
				for _, one := range calls {
					w.call(t, one)
				}
				for range calls { // whoever is shown one of them, the others were decided about at the same time
					tapRequest(t, all)
				}
				var paths []string
				eventually(t, "what is looked for is shown, and nothing else", func() error {
					for len(seen) > 0 {
						paths = append(paths, (<-seen).Request.Path)
					}
					slices.Sort(paths)
					if got := strings.Join(paths, " "); got != c.want {
						return fmt.Errorf("shown: %q, want %q", got, c.want)
					}
					return nil
				})
			})
		}
	})

	t.Run("a connection", func(t *testing.T) {
		seen := w.watch(t, mesh.Tap{}, "web")
		c, _, err := w.dialTCP(t, "web", "pay")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if r := tapRequest(t, seen); r.Protocol != "TCP" || r.Destination.Name != "pay" || r.Destination.Zone != "two" || r.Destination.Port != 7070 || r.Source.Name != "web" {
			t.Errorf("%+v", r)
		}
	})

	t.Run("a connection that is refused", func(t *testing.T) {
		seen := w.watch(t, mesh.Tap{}, "pay-1")
		// tried makes a connection and returns how it ended; earlier ones may be shown late.
		tried := func() mesh.TapRequest {
			began := time.Now()
			if c, _, err := w.dialTCP(t, "web", "pay"); err == nil {
				_ = c.Close()
			}
			for {
				if r := tapRequest(t, seen); !r.Open && r.Time.After(began) {
					return r
				}
			}
		}
		if r := tried(); r.Policy != "global/shop/everybody-may" || r.Denied {
			t.Errorf("let in: %+v", r)
		}
		w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: no-web, namespace: shop}
spec: {targetRef: {kind: Service, name: pay, sectionName: raw}, action: Deny, rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]}
`)
		if r := tried(); r.Policy != "global/shop/no-web" || !r.Denied || r.Protocol != "TCP" || r.Destination.Name != "pay" {
			t.Errorf("refused: %+v", r)
		}
	})

	// More than may be shown: every request is either shown or counted, and no more are shown than may be.
	t.Run("bounded", func(t *testing.T) {
		const sent, rate = 400, 5
		what := echo
		what.Rate = rate
		seen := w.watch(t, what, "echo-1", "echo-2")
		began := time.Now()
		for range sent {
			w.call(t, call{})
		}
		var shown, left uint64
		for shown+left < sent {
			select {
			case e := <-seen:
				if e.Request != nil {
					shown++
				} else {
					left += e.Left.Count
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%d shown and %d left out of %d", shown, left, sent)
			}
		}
		if most := uint64(2 * rate * (2 + time.Since(began).Seconds())); shown+left != sent || shown > most || shown < rate {
			t.Errorf("%d shown, of which at most %d may be, and %d left out of %d", shown, most, left, sent)
		}
	})
}
