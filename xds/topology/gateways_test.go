package topology_test

import (
	"fmt"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
)

// TestListeners: each listener of a Gateway says how it does, in the words of the Gateway API.
func TestListeners(t *testing.T) {
	got := map[string]string{}
	words := func(l mesh.ListenerStatus) string {
		out := fmt.Sprint(l.AttachedRoutes)
		for _, c := range l.Conditions {
			out += " " + c.Type + "=" + c.Status + "/" + c.Reason
		}
		return out
	}
	told := func(input string) map[mesh.Key][]mesh.ListenerStatus {
		topo, _ := topology.Build(topologytest.Load(t, "../translate/testdata/"+input+"/input.yaml"))
		return topo.Listeners()
	}
	for k, list := range told("gateway") {
		for _, l := range list {
			got[k.Name+"/"+l.Name] = words(l)
		}
	}
	const fine = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed"
	for _, list := range told("gateway-policies") {
		for _, l := range list {
			got["policies/"+l.Name] = words(l)
		}
	}
	for name, want := range map[string]string{
		"policies/granted": "1 " + fine,
		"policies/refused": "0 Accepted=True/Accepted ResolvedRefs=False/RefNotPermitted Programmed=False/Invalid",
		"edge/all":         "2 " + fine,
		"edge/pay":         "1 " + fine,
		"edge/lane":        "1 Accepted=False/PortUnavailable ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
		"secure/shop":      "2 " + fine,
		"secure/rest":      "1 Accepted=True/Accepted ResolvedRefs=False/InvalidCertificateRef Programmed=True/Programmed",
		"secure/partners":  "1 Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef Programmed=True/Programmed",
		"secure/taken":     "0 Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid Conflicted=True/HostnameConflict",
		"elsewhere/http":   "0 Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=False/Pending",
	} {
		if got[name] != want {
			t.Errorf("%s: %s\nwant %s", name, got[name], want)
		}
	}
}
