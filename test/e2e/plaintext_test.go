package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// TestPlaintext: who speaks plaintext to a permissive port is known at the zone and at global, by address and workload.
func TestPlaintext(t *testing.T) {
	global := startGlobal(t)
	east := startZone(t, "east")
	port := app(t, "pay")
	global.apply(payService(port) + "---" + allowAll + "---" + `
kind: AuthenticationPolicy
apiVersion: mesh.comity.dev/v1alpha1
metadata: {namespace: shop, name: moving-in}
spec: {targetRef: {kind: Service, name: pay}, mtls: {mode: Permissive}}
`)
	east.joins(global, "shop")
	east.workload("pay", map[string]any{"address": "127.0.0.3"})
	east.workload("legacy") // at 127.0.0.1, from where it calls without its sidecar
	all := map[string]*controlPlane{"zone": east.controlPlane, "global": global}
	known := func(what string, holds func(mesh.PlaintextStatus) bool) {
		t.Helper()
		for name, at := range all {
			await(t, name+" knows "+what, func() error {
				list, err := at.Plaintext(ctxOf(t), client.FailoverQuery{Namespace: "shop", Service: "pay"})
				if err == nil && (len(list) != 1 || !holds(list[0])) {
					err = fmt.Errorf("%+v", list)
				}
				return err
			})
		}
	}
	known("that nobody spoke any", func(p mesh.PlaintextStatus) bool { return p.Proxies == 1 && p.Last.IsZero() && !p.Since.IsZero() })

	await(t, "plaintext is answered", func() error { // that it is refused, since nobody is allowed by name, makes no difference
		r, err := http.Get(fmt.Sprintf("http://127.0.0.3:%d/", port))
		if err == nil {
			err = r.Body.Close()
		}
		return err
	})
	known("who spoke it", func(p mesh.PlaintextStatus) bool {
		return p.Zone == "east" && !p.Last.IsZero() && len(p.Callers) == 1 && p.Callers[0].Address == "127.0.0.1" && p.Callers[0].Workload == "shop/legacy"
	})
}
