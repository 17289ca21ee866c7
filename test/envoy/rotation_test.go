package envoy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// rotate gives all proxies of a zone certificates of an authority, and waits until each shows its new one.
func (w *world) rotate(t *testing.T, z *worldZone, a authority) {
	t.Helper()
	for _, p := range w.proxies {
		if p.zone != z || p.id.Role != mesh.RoleSidecar { // an ingress shows none: it passes bytes on
			continue
		}
		leaf := p.identify(t, a)
		p.wait(t, "show its new certificate", func() error {
			certs, err := p.ask("/certs")
			if err == nil && !strings.Contains(certs, fmt.Sprintf("%x", leaf.SerialNumber)) {
				err = errors.New("it has another")
			}
			return err
		})
	}
}

// TestRotation: certificates are renewed, and the root of a zone is replaced, under load in the zone and across zones: no request fails.
// At the end nobody believes who shows a certificate of the old root.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	const age = "connectionPool: {maxConnectionAge: 1s}" // so that there are handshakes all the time
	w.apply(t, echoPolicy(age)+"---\nkind: TrafficPolicy\nmetadata: {name: pay}\nspec: {targetRef: {kind: Service, name: pay}, "+age+"}\n")
	loads := []*load{w.load(t, echoHost), w.load(t, payHost)}
	more := func() {
		t.Helper()
		for _, l := range loads {
			l.more(t, 60)
		}
	}
	for range 3 {
		for _, z := range w.zones {
			w.rotate(t, z, z.authority)
		}
		more()
	}

	// Believe both, issue by the new one, believe no longer in the old one.
	z := w.zones[0]
	former := z.authority
	z.authority, z.former = newAuthority(t, z.TrustDomain), &former
	w.publish(t)
	more()
	w.rotate(t, z, z.authority)
	more()
	z.former = nil
	w.publish(t)
	more()
	for _, l := range loads {
		l.unharmed(t)
	}
	handshakes := w.sidecar(t, "web").stat(t, "cluster.pay.shop:80.ssl.handshake")
	t.Logf("%d handshakes of web with pay", handshakes)
	if handshakes < 3 {
		t.Errorf("%d handshakes of web with pay are too few to show anything", handshakes)
	}

	w.sidecar(t, "echo-1").identify(t, former)
	ask := call{from: "echo-1", to: payHost}
	eventually(t, "a certificate of the old root is refused", func() error {
		if r := w.call(t, ask); r.status != http.StatusServiceUnavailable {
			return fmt.Errorf("%d", r.status)
		}
		return nil
	})
	w.sidecar(t, "echo-1").identify(t, z.authority)
	eventually(t, "one of the new root is not", func() error { return want{app: "pay-1"}.check(w.call(t, ask)) })
}
