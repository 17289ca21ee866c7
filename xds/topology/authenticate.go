package topology

import (
	"maps"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachAuthentication collects the AuthenticationPolicies, and says of each what it targets that is not here, and by whom
// it is overridden.
func (b *builder) attachAuthentication() {
	policies := attached[policy.AuthenticationPolicy](b, mesh.KindAuthenticationPolicy)
	if b.t.authentication = attachmentsOf(policies); b.t.authentication == nil {
		return
	}
	for _, p := range policies {
		b.checkTarget(p.Resource, p.Spec.TargetRef)
		b.checkKeys(p)
		b.checkServerSide(p.Resource, p.Spec.TargetRef, "it")
	}
	lost := map[mesh.Key][]mesh.Key{}
	for _, s := range b.t.Services {
		for _, p := range s.Ports {
			noteLost(lost, b.t.Authentication(s, p, mesh.Key{}, "").Overridden)
			for _, m := range p.Routes {
				noteLost(lost, b.t.Authentication(s, p, m.Route, m.RuleName).Overridden)
			}
		}
	}
	b.sayOverridden(lost)
}

// checkKeys says of a policy which keys of its issuers could not be fetched.
func (b *builder) checkKeys(p policy.Attached[policy.AuthenticationPolicy]) {
	for _, k := range p.Spec.Fetched() {
		if problem := b.in.Keys[k.Source()].Problem; problem != "" {
			b.issue(p.Resource.Key, "keys of issuers: %s", problem)
		}
	}
}

// FetchedKeys are an issuer's, if the zone has them.
func (t *Topology) FetchedKeys(k policy.JWKS) (jwks string, ok bool) {
	jwks = t.keys[k.Source()].JWKS
	return jwks, jwks != ""
}

// PlaintextPort is a port at a workload's own address where it takes plaintext.
type PlaintextPort struct {
	Port uint16
	// Of are the service ports that the application serves there, at least one, all permissive and alike in whether requests
	// are understood.
	Of []ServedPort
}

// ServedPort is a port of a service that a workload serves.
type ServedPort struct {
	Service *Service
	Port    Port
}

// Plaintext lists where a workload takes plaintext, by port.
func (t *Topology) Plaintext(w *Workload) []PlaintextPort {
	var out []PlaintextPort
	t.eachPermissive(w, func(port uint16, of []ServedPort, why string) {
		if why == "" {
			out = append(out, PlaintextPort{port, of})
		}
	})
	return out
}

// PermissivePort is a port of a service that takes plaintext, with how many workloads of this zone.
type PermissivePort struct {
	ServicePort
	Workloads int
}

// Permissive lists where plaintext is taken, by the policy that says so.
func (t *Topology) Permissive() map[mesh.Key][]PermissivePort {
	counts := map[mesh.Key]map[ServicePort]int{}
	for _, w := range t.Workloads {
		for _, at := range t.Plaintext(w) {
			// A proxy counts what it takes at one address under the first of the services there.
			first := at.Of[0]
			by := t.Authentication(first.Service, first.Port, mesh.Key{}, "").By("MTLS")
			if counts[by] == nil {
				counts[by] = map[ServicePort]int{}
			}
			counts[by][ServicePort{ServiceName: first.Service.ServiceName, Port: first.Port.Number}]++
		}
	}
	out := map[mesh.Key][]PermissivePort{}
	for by, ports := range counts {
		for p, n := range ports {
			out[by] = append(out[by], PermissivePort{p, n})
		}
	}
	return out
}

// eachPermissive calls f for each port of the application of which a policy says that it is permissive: with the service ports
// there, and with the reason if it can't be.
func (t *Topology) eachPermissive(w *Workload, f func(port uint16, of []ServedPort, why string)) {
	at := map[uint16][]ServedPort{}
	for _, s := range t.ServedBy(w) {
		for _, p := range s.Ports {
			if target, ok := s.Local.Targets[p.Number]; ok {
				at[target] = append(at[target], ServedPort{s, p})
			}
		}
	}
	for _, port := range slices.Sorted(maps.Keys(at)) {
		of := at[port]
		strict := slices.ContainsFunc(of, func(x ServedPort) bool { return !t.permissive(x) })
		mixed := slices.ContainsFunc(of, func(x ServedPort) bool { return x.Port.Protocol.IsHTTP() != of[0].Port.Protocol.IsHTTP() })
		own := port == w.Spec.InboundPort
		switch {
		case !slices.ContainsFunc(of, t.permissive):
		case w.Spec.AppAddress == w.Spec.Address:
			f(port, of, "its application listens at "+w.Spec.Address+" itself, where callers reach it without the sidecar; let it listen at loopback")
		case own:
			f(port, of, "the port is the sidecar's inboundPort")
		case strict:
			f(port, of, "another service of the application at the same port is strict")
		case mixed:
			f(port, of, "it is http for one service and tcp for another")
		default:
			f(port, of, "")
		}
	}
}

func (t *Topology) permissive(p ServedPort) bool {
	return t.Authentication(p.Service, p.Port, mesh.Key{}, "").Spec.Permissive()
}

// checkPermissive says where plaintext is not taken though a policy wants it.
func (b *builder) checkPermissive() {
	for _, w := range b.t.Workloads {
		b.t.eachPermissive(w, func(port uint16, of []ServedPort, why string) {
			for _, p := range of {
				if why != "" && b.t.permissive(p) {
					b.issue(b.t.Authentication(p.Service, p.Port, mesh.Key{}, "").By("MTLS"), "workload %s/%s takes no plaintext on port %d: %s", w.Namespace, w.Name, port, why)
				}
			}
		})
	}
}

// Authentication is what the AuthenticationPolicies say of requests to a port of a service that matched a rule of a route;
// see Traffic.
func (t *Topology) Authentication(s *Service, p Port, route mesh.Key, rule string) policy.Merged[policy.AuthenticationPolicy] {
	return t.authentication.of(subject(s, p, route, rule))
}
