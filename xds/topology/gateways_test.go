package topology_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
)

// TestListeners: each listener of a Gateway says how it does, in the words of the Gateway API.
func TestListeners(t *testing.T) {
	topo, _ := topology.Build(topologytest.Load(t, "../translate/testdata/gateway/input.yaml"))
	got := map[string]string{}
	for k, list := range topo.Listeners() {
		for _, l := range list {
			var words []string
			for _, c := range l.Conditions {
				words = append(words, c.Type+"="+c.Status+"/"+c.Reason)
			}
			got[k.Name+"/"+l.Name] = fmt.Sprintf("%d %s", l.AttachedRoutes, strings.Join(words, " "))
		}
	}
	const fine = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed"
	for name, want := range map[string]string{
		"edge/all":        "2 " + fine,
		"edge/pay":        "1 " + fine,
		"edge/lane":       "1 Accepted=False/PortUnavailable ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid",
		"secure/shop":     "2 " + fine,
		"secure/rest":     "1 Accepted=True/Accepted ResolvedRefs=False/InvalidCertificateRef Programmed=True/Programmed",
		"secure/partners": "1 Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef Programmed=True/Programmed",
		"secure/taken":    "0 Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=False/Invalid Conflicted=True/HostnameConflict",
		"elsewhere/http":  "0 Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=False/Pending",
	} {
		if got[name] != want {
			t.Errorf("%s: %s\nwant %s", name, got[name], want)
		}
	}
}
