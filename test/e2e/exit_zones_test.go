package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
)

// What lets in only the machines of zone west is reached from east through west's egress, by who may; with a second zone named, through
// that one when west's is gone.
func TestExitByAnotherZone(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	port := app(t, "partner")
	const host = "api.partner.example"
	partner := func(zones string) {
		t.Helper()
		global.apply(fmt.Sprintf(`
apiVersion: mesh.comity.dev/v1alpha1
kind: ExternalService
metadata: {name: partner, namespace: shop}
spec:
  hosts: [%s]
  ports: [{port: 80, protocol: http}]
  endpoints: [{address: 127.0.0.1, port: %d}]
  exit: {zones: [%s]}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-calls-partner, namespace: shop}
spec:
  targetRef: {group: mesh.comity.dev, kind: ExternalService, name: partner}
  action: Allow
  rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]
`, host, port, zones))
	}
	egress := func(z *zone, name string) *proxy {
		return z.startProxy(nil, "ingress", name, client.EnrolmentTokenRequest{Role: mesh.RoleEgress, Name: name}, map[string]any{
			"role": "egress", "bindAddress": "127.0.0.1", "lanes": []int{int(freeporttest.Port(t))},
		})
	}
	says := func(part string) {
		t.Helper()
		await(t, "east says of the service: "+part, func() error {
			var o struct {
				Status client.ResourceObjectStatus `json:"status"`
			}
			if err := global.Fetch(ctxOf(t), "/namespaces/shop/externalservices/partner", &o); err != nil {
				return err
			}
			for _, z := range o.Status.Zones {
				if z.Zone == east.name && strings.Contains(z.Message, part) {
					return nil
				}
			}
			return fmt.Errorf("%+v", o.Status)
		})
	}
	partner("west")
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	web, other := east.workload("web"), east.workload("other")
	web.answers(host, 503)
	says("zone west: it says of no egress")

	first, second := egress(west, "out-1"), egress(west, "out-2")
	web.answers(host, 200) // east has no egress, so it is west's
	other.answers(host, 403)

	global.kill() // it is not needed for this
	first.kill()
	web.answers(host, 200)
	second.kill()
	web.answers(host, 503)
	global.run()
	says("none of its egresses is ready")

	partner("west, east")
	egress(east, "out")
	web.answers(host, 200)
	other.answers(host, 403)
}
