package translate

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
)

// PeersCluster is the cluster of the agent's own socket for other zones' ingresses, which the bootstrap
// of an ingress brings. Where it doesn't, connections to it are closed.
const PeersCluster = "local_peers"

// peerChains lead the ingresses of each believed zone to the agent beside this Envoy, which ends TLS
// itself: one chain per zone, so that the end of the trust in a zone ends its connections and nobody
// else's. They are open for as long as both sides live.
func (tr *Translator) peerChains() ([]ir.Chain, ir.Sources) {
	var chains []ir.Chain
	var sources ir.Sources
	for _, z := range tr.t.Zones {
		if z.Local {
			continue
		}
		sources = append(sources, z.Sources...)
		chains = append(chains, ir.Chain{
			Name:        peerName(z.Name),
			ServerNames: []string{mesh.PeerSNI(z.Name, tr.t.Zone)},
			TCP:         &ir.TCP{StatPrefix: "peers", Cluster: PeersCluster},
		})
	}
	return chains, sources
}
