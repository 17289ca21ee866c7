package demo

import (
	"fmt"
	"slices"
)

// The demo's mesh. Zones are what users have: two clouds and a cellar.
const (
	globalTrustDomain = "global.demo.example"
	namespace         = "shop"
)

// Names by which workloads call the ledger: wherever it is, and pinned to a zone.
const (
	ledgerAnywhere = "ledger.shop.svc.clusterset.local"
	ledgerOnPrem   = "ledger.shop.onprem.mesh"
)

type zonePlan struct {
	name, cloud, region string
	ingresses           int
	workloads           []workloadPlan
}

func (z zonePlan) trustDomain() string { return z.name + ".demo.example" }

type workloadPlan struct {
	name string
	app  string // service account, label app, and the shop's role
	// host is a loopback address of its own: on one machine it stands for the workload's host, so that
	// every workload serves on the service's own port.
	host string
	// capacity in endpoint-equivalents; 0 means 1.
	capacity float64
	// later workloads are not started with the mesh: the story starts them while something is broken.
	later bool
}

// thePlan lays out the mesh on loopback addresses 127.<net>.<zone>.<workload>. A net of its own per demo
// keeps two demos on one machine apart.
func thePlan(net int) []zonePlan {
	zones := []zonePlan{
		{name: "aws-east", cloud: "aws", region: "us-east-1", ingresses: 1,
			workloads: apps("shopper-a", "web-a1", "cart-a1", "ledger-a1", "web-a2")},
		{name: "gcp-west", cloud: "gcp", region: "us-west1", ingresses: 2,
			workloads: apps("shopper-g", "web-g1", "cart-g1", "pay-g1", "pay-g2")},
		{name: "onprem", cloud: "onprem", region: "cellar", ingresses: 1,
			workloads: apps("pay-o1", "ledger-o1", "ledger-o2")},
	}
	// The standby of the ledger can carry all that the cellar does.
	zones[0].workloads[3].capacity = 2
	zones[0].workloads[4].later = true
	for z := range zones {
		for w := range zones[z].workloads {
			zones[z].workloads[w].host = fmt.Sprintf("127.%d.%d.%d", net, z+1, w+10)
		}
	}
	return zones
}

func apps(names ...string) []workloadPlan {
	var out []workloadPlan
	for _, n := range names {
		i := slices.Index([]byte(n), '-')
		out = append(out, workloadPlan{name: n, app: n[:i]})
	}
	return out
}

// The hosts of a zone's control plane and ingresses, and of global.
func zoneHost(net, zone int) string { return fmt.Sprintf("127.%d.%d.1", net, zone+1) }
func ingressHost(net, zone, index int) string {
	return fmt.Sprintf("127.%d.%d.%d", net, zone+1, index+2)
}

// wireHost is where other zones reach an ingress: the demo's network between zones (wire) leads to it.
func wireHost(net, zone, index int) string {
	return fmt.Sprintf("127.%d.%d.%d", net, zone+1, index+102)
}
func globalHost(net int) string { return fmt.Sprintf("127.%d.0.1", net) }

// Ports, the same everywhere as every host has an address of its own.
const (
	portAPI        = 7400  // REST of global and of each zone
	portFederation = 7405  // zones to global
	portEnrol      = 7410  // sidecars and ingresses to their zone: enrolment and xDS
	portInbound    = 15006 // sidecar: mTLS in
	portOutbound   = 15001 // sidecar: HTTP by host name, on loopback
	portMetrics    = 15020 // sidecar and ingress agents
	portIngress    = 15443 // first lane
	lanes          = 2
	portApp        = 8080
	portJournal    = 9090
)

// processes of a zone, in the order in which they are started: the control plane, ingresses, and each workload's
// sidecar and application. Those of later workloads are among them.
func (z zonePlan) processes() []string {
	out := []string{z.name}
	for k := range z.ingresses {
		out = append(out, z.ingress(k))
	}
	for _, w := range z.workloads {
		out = append(out, w.name, w.application())
	}
	return out
}

// ingress is the process of the zone's k-th ingress, from 0.
func (z zonePlan) ingress(k int) string { return fmt.Sprintf("%s-in%d", z.name, k+1) }

// application is the process of the workload itself; its sidecar's has its name.
func (w workloadPlan) application() string { return w.name + "-app" }
