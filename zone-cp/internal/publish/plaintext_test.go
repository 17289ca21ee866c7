package publish

import (
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// TestPlaintextCondition: a policy that lets ports take plaintext says who speaks it, and whether anybody would know.
func TestPlaintextCondition(t *testing.T) {
	resource := func(kind mesh.Kind, name, spec string) mesh.Resource {
		info, _ := policy.Lookup(string(kind))
		return mesh.Resource{Key: mesh.Key{Origin: "east", Kind: kind, Namespace: "shop", Name: name}, APIVersion: info.APIVersion, Spec: []byte(spec)}
	}
	moving := resource(mesh.KindAuthenticationPolicy, "moving-in", `{"targetRef":{"kind":"Service","name":"pay"},"mtls":{"mode":"Permissive"}}`)
	workload := func(name, address string) topology.Workload {
		return topology.Workload{
			Namespace: "shop", Name: name, Labels: map[string]string{"app": "pay"}, Healthy: true, Identity: mesh.TrustDomain("east.example").WorkloadID("shop", "pay"),
			Spec: policy.Workload{ServiceAccount: "pay", Address: address, AppAddress: "127.0.0.1", InboundPort: 15006},
		}
	}
	picture := discovery.Picture{Workloads: []topology.Workload{workload("pay-1", "10.0.0.1"), workload("pay-2", "10.0.0.2")}, Agents: map[mesh.ProxyID]discovery.Agent{}}
	topo, _ := topology.Build(topology.Input{
		Zone: "east", TrustDomain: "east.example", Workloads: picture.Workloads,
		Resources: []mesh.Resource{resource(mesh.KindService, "pay", `{"selector":{"app":"pay"},"ports":[{"name":"http","port":80,"targetPort":8080,"appProtocol":"http"}]}`), moving},
	})
	p := &Publisher{picture: picture}
	began, spoke := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)
	says := func(proxy string, last time.Time, callers ...mesh.PlaintextCaller) {
		p.picture.Agents[mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: proxy}] = discovery.Agent{Plaintext: []mesh.PlaintextPort{
			{Namespace: "shop", Service: "pay", Port: 80, Since: began, Last: last, Callers: callers},
		}}
	}
	check := func(status, message string) {
		t.Helper()
		if c := p.plaintextOf(topo)[moving.Key]; c.Type != mesh.ConditionPlaintext || c.Status != status || !strings.Contains(c.Message, message) {
			t.Errorf("%+v, not %s: %s", c, status, message)
		}
	}
	says("pay-1", time.Time{})
	check("Unknown", "1 of 2 proxies watch")
	says("pay-2", time.Time{})
	check("False", "none since 2026-01-01T10:00:00Z; 2 of 2 proxies watch")
	legacy := mesh.PlaintextCaller{Address: "10.0.0.2", Requests: 3, Last: spoke}
	says("pay-1", spoke, legacy, mesh.PlaintextCaller{Address: "10.9.9.9", Requests: 1, Last: began})
	says("pay-2", began, legacy)
	check("True", "2 callers, the last at 2026-01-01T11:00:00Z; 2 of 2")

	callers := named(p.picture.Agents[mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "pay-1"}].Plaintext, p.atAddresses)[0].Callers
	if callers[0].Workload != "shop/pay-2" || callers[1].Workload != "" || legacy.Workload != "" {
		t.Errorf("%+v", callers)
	}
}
