// Package exports is what a zone says of itself to the other zones: which services it offers and how
// they do, how its ingresses are reached, and which authorities vouch for its identities. Compute
// works it out, a Ledger turns it into signed statements, each subject anew only when it changed or
// its lease is half over.
package exports

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// Claim is what one statement will say, before it is signed.
type Claim struct {
	Kind    string
	Subject string
	Payload []byte // the same content gives the same bytes
}

// Input is what claims are computed from.
type Input struct {
	Bundle    identity.Bundle
	Exports   []mesh.Export // what the topology offers
	Ingresses []discovery.Ingress
	Egresses  []topology.EgressProxy
	// Zone is what global says about this zone; nil before the zone has heard of it.
	Zone *policy.Zone
}

// Withheld is a service that is not offered, with the reason for the status of its ServiceExport.
type Withheld struct {
	Namespace, Service string
	Reason             string
}

// Compute works out all claims of the zone, ordered by kind and subject. A service of a namespace for
// which the zone may not speak is withheld: nobody would believe it.
func Compute(in Input) ([]Claim, []Withheld, error) {
	bundle, err := in.Bundle.Marshal()
	if err != nil {
		return nil, nil, err
	}
	ingresses, err := json.Marshal(ingressSet(in.Ingresses, in.Egresses))
	if err != nil {
		return nil, nil, fmt.Errorf("ingress set: %w", err)
	}
	claims := []Claim{
		{Kind: federation.StatementBundle, Subject: string(in.Bundle.TrustDomain), Payload: bundle},
		{Kind: federation.StatementIngress, Payload: ingresses},
	}
	var withheld []Withheld
	for _, e := range in.Exports {
		if in.Zone == nil || !MaySpeak(*in.Zone, e.Namespace) {
			withheld = append(withheld, Withheld{e.Namespace, e.Service, "not offered to other zones: this zone may not speak for namespace " + e.Namespace + " (Zone.spec.namespaces)"})
			continue
		}
		payload, err := json.Marshal(e)
		if err != nil {
			return nil, nil, fmt.Errorf("export %s/%s: %w", e.Namespace, e.Service, err)
		}
		claims = append(claims, Claim{Kind: federation.StatementExport, Subject: Subject(e.Namespace, e.Service), Payload: payload})
	}
	slices.SortFunc(claims, func(a, b Claim) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return strings.Compare(a.Subject, b.Subject)
	})
	return claims, withheld, nil
}

// Subject names an exported service in statements: namespace/service.
func Subject(namespace, service string) string { return namespace + "/" + service }

// MaySpeak reports whether a zone may export services of the namespace.
func MaySpeak(z policy.Zone, namespace string) bool {
	return slices.Contains(z.Namespaces, namespace) || slices.Contains(z.Namespaces, "*")
}

// ingressSet advertises the ingresses that serve; if none does, all of them, so that the zone never
// withdraws its last way in on the word of its own control path. Of egresses it says which do, since others may have a second zone to
// leave by.
func ingressSet(list []discovery.Ingress, egresses []topology.EgressProxy) mesh.IngressSet {
	out := mesh.IngressSet{Ingresses: []mesh.Ingress{}}
	ready := slices.ContainsFunc(list, func(i discovery.Ingress) bool { return i.Ready })
	for _, i := range list {
		if i.Ready || !ready {
			out.Ingresses = append(out.Ingresses, i.Advertised)
		}
	}
	for _, g := range egresses {
		out.Egresses = append(out.Egresses, mesh.Egress{Name: g.Name, Ready: g.Ready})
	}
	return out
}
