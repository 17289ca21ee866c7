package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
)

// What is outside of the mesh is reached through the zone's egress alone, by who may; without it nothing leaves.
func TestEgress(t *testing.T) {
	z := startZone(t, "exit")
	port := app(t, "bank")
	const host = "api.bank.example"
	z.apply(fmt.Sprintf(`
apiVersion: mesh.comity.dev/v1alpha1
kind: ExternalService
metadata: {name: bank, namespace: shop}
spec:
  hosts: [%s]
  ports: [{port: 80, protocol: http}]
  endpoints: [{address: 127.0.0.1, port: %d}]
  exit: {gateway: true}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-calls-bank, namespace: shop}
spec:
  targetRef: {group: mesh.comity.dev, kind: ExternalService, name: bank}
  action: Allow
  rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]
`, host, port))
	web, other := z.workload("web"), z.workload("other")
	web.answers(host, 503)
	out := z.startProxy(nil, "ingress", "out", client.EnrolmentTokenRequest{Role: mesh.RoleEgress, Name: "out"}, map[string]any{
		"role": "egress", "bindAddress": "127.0.0.1", "lanes": []int{int(freeporttest.Port(t))},
	})
	if i, err := out.info(); err != nil || i.Identity != z.trustDomain.EgressID("out") {
		t.Fatalf("%+v %v", i, err)
	}
	if body := web.answers(host, 200); strings.Contains(body, "URI=") {
		t.Errorf("who asks is told to the outside: %s", body)
	}
	other.answers(host, 403)

	z.kill() // the Envoys go on with what they have, and the zone remembers its egress
	web.answers(host, 200)
	z.run()
	web.answers(host, 200)
	other.answers(host, 403)

	out.stop(syscall.SIGTERM)
	web.answers(host, 503)
	out.begin()
	web.answers(host, 200)

	// Of two one can be drained, and the other not then. A revoked one gets nothing more.
	first, second := mesh.ProxyID{Role: mesh.RoleEgress, Name: "out"}, mesh.ProxyID{Role: mesh.RoleEgress, Name: "out-2"}
	if _, err := z.DrainProxy(ctxOf(t), first, client.ProxyDrainRequest{}); fault.ExitCode(err) != fault.ExitConflict {
		t.Errorf("the last egress: %v", err)
	}
	another := z.startProxy(nil, "ingress", second.Name, client.EnrolmentTokenRequest{Role: mesh.RoleEgress, Name: second.Name}, map[string]any{
		"role": "egress", "bindAddress": "127.0.0.1", "lanes": []int{int(freeporttest.Port(t))},
	})
	await(t, "the second egress is ready", func() error {
		_, err := z.DrainProxy(ctxOf(t), first, client.ProxyDrainRequest{})
		return err
	})
	if _, err := z.DrainProxy(ctxOf(t), second, client.ProxyDrainRequest{}); fault.ExitCode(err) != fault.ExitConflict {
		t.Errorf("the last egress that is in use: %v", err)
	}
	out.stop(syscall.SIGTERM) // nobody needs it any more
	web.answers(host, 200)
	out.begin()
	if d, err := z.UndrainProxy(ctxOf(t), first); err != nil || d.Draining {
		t.Errorf("%+v, %v", d, err)
	}
	if v, err := z.RevokeProxy(ctxOf(t), second); err != nil || v.Identity != z.trustDomain.EgressID(second.Name) {
		t.Errorf("%+v, %v", v, err)
	}
	web.answers(host, 200)
	another.kill()
	web.answers(host, 200)
}
