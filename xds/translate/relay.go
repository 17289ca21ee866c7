package translate

import "github.com/comity-mesh/comity/xds/ir"

// relay decides about connections that may lead to more than one place, or by names. Where such a connection leads, Envoy chooses before
// the handshake, and so before anybody knows who calls. So the chain that takes it notes what its admission decides and hands it on, with
// the notes, to a listener inside of the same Envoy, where it begins anew: there it is told of, and led on or closed.
type relay struct {
	admission ir.Admission
	cluster   ir.Cluster
	listener  ir.Listener
}

// newRelay leads on by `to` whom the admission lets in, of the chain of the name.
func newRelay(chain string, a ir.Admission, to ir.TCP, sources ir.Sources) relay {
	a.Name = admissionName(chain)
	to.Relayed = true
	refused := to
	refused.Cluster, refused.Backends, refused.Attempts = NowhereCluster, nil, 0
	return relay{
		admission: a,
		cluster:   ir.Cluster{Name: relayName(chain), Protocol: ir.Bytes, ConnectTimeout: appConnectTimeout, Inside: relayName(chain), Sources: sources},
		listener: ir.Listener{Name: relayName(chain), Inside: true, Sources: sources, Chains: []ir.Chain{
			{Name: chain, TCP: &to}, {Name: chain + "/refused", TCP: &refused},
		}},
	}
}

func (r relay) addTo(p *ir.Proxy) {
	p.Admissions = append(p.Admissions, r.admission)
	p.Clusters = append(p.Clusters, r.cluster)
	p.Listeners = append(p.Listeners, r.listener)
}

// relaysTo is what the chain itself does with its connections.
func relaysTo(chain string) *ir.TCP {
	return &ir.TCP{StatPrefix: "relay", Relays: true, Cluster: relayName(chain), Admission: admissionName(chain)}
}

// relayName is `relay/<chain>`.
func relayName(chain string) string { return "relay/" + chain }
