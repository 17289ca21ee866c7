package topology_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
)

// TestConsumersShare: only those who follow routes of their own have configuration of their own.
func TestConsumersShare(t *testing.T) {
	in := topologytest.Load(t, "../translate/testdata/consumer-routes/input.yaml")
	in.Workloads = nil
	for i, at := range []struct{ namespace, account string }{
		{"bank", "teller"}, {"bank", "audit"}, {"shop", "web"}, {"mill", "miller"},
	} {
		for n := range 2 {
			in.Workloads = append(in.Workloads, topology.Workload{
				Namespace: at.namespace, Name: at.account + strconv.Itoa(n), Healthy: true, Identity: in.TrustDomain.WorkloadID(at.namespace, at.account),
				Spec: policy.Workload{ServiceAccount: at.account, Address: "10.0.0." + strconv.Itoa(10*i+n), Proxyless: true},
			})
		}
	}
	topo, _ := topology.Build(in)
	views := map[string]string{}
	for _, p := range topo.Proxies() {
		w, _ := topo.Workload(p.ID)
		views[p.ID.Name] = p.ViewKey + fmt.Sprint(topo.Scope(w)) // the second is a sidecar's
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"teller0", "teller1", true}, {"audit0", "audit1", true}, {"teller0", "audit0", false}, {"teller0", "web0", false}, {"web0", "miller0", true},
	} {
		if same := views[c.a] == views[c.b]; same != c.same || views[c.a] == "" {
			t.Errorf("%s and %s share: %v (%s, %s)", c.a, c.b, same, views[c.a], views[c.b])
		}
	}
}
