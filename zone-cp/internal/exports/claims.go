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

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// Kinds of statements.
const (
	KindBundle  = "bundle"
	KindExport  = "export"
	KindIngress = "ingress"
)

// Claim is what one statement will say, before it is signed.
type Claim struct {
	Kind    string
	Subject string
	Payload []byte // canonical: the same content gives the same bytes
}

// Input is what claims are computed from.
type Input struct {
	Zone      string
	Bundle    identity.Bundle
	Resources []mesh.Resource // of every origin
	Picture   discovery.Picture
}

// Withheld is a ServiceExport that is not published, with the reason for its status.
type Withheld struct {
	Key    mesh.Key
	Reason string
}

// Compute works out all claims of the zone, ordered by kind and subject. A ServiceExport without
// Service, or of a namespace for which the zone may not speak, is withheld.
func Compute(in Input) ([]Claim, []Withheld, error) {
	bundle, err := in.Bundle.Marshal()
	if err != nil {
		return nil, nil, err
	}
	claims := []Claim{{Kind: KindBundle, Subject: string(in.Bundle.TrustDomain), Payload: bundle}}

	ingresses, err := json.Marshal(ingressSet(in.Picture.Ingresses))
	if err != nil {
		return nil, nil, fmt.Errorf("ingress set: %w", err)
	}
	claims = append(claims, Claim{Kind: KindIngress, Payload: ingresses})

	mayExport := speaksFor(in.Zone, in.Resources)
	services := effectiveServices(in.Zone, in.Resources)
	var withheld []Withheld
	seen := map[string]bool{}
	for _, r := range in.Resources {
		if r.Kind != mesh.KindServiceExport || !local(r, in.Zone) {
			continue
		}
		subject := Subject(r.Namespace, r.Name)
		service, ok := services[subject]
		switch {
		case !mayExport(r.Namespace):
			withheld = append(withheld, Withheld{r.Key, fmt.Sprintf("zone %s may not speak for namespace %s (Zone.spec.namespaces)", in.Zone, r.Namespace)})
			continue
		case !ok:
			withheld = append(withheld, Withheld{r.Key, fmt.Sprintf("there is no Service %s/%s", r.Namespace, r.Name)})
			continue
		case seen[subject]:
			continue
		}
		seen[subject] = true
		payload, err := json.Marshal(export(r.Namespace, r.Name, service, in.Picture.Workloads))
		if err != nil {
			return nil, nil, fmt.Errorf("export %s: %w", subject, err)
		}
		claims = append(claims, Claim{Kind: KindExport, Subject: subject, Payload: payload})
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

// local reports whether a resource speaks in this zone: its own, or global's within its scope.
func local(r mesh.Resource, zone string) bool {
	return r.Origin == mesh.Origin(zone) || r.Origin == mesh.OriginGlobal && r.InScope(zone)
}

// speaksFor answers for which namespaces the zone may export. Before the zone has heard of its Zone
// resource it offers nothing: nobody would believe it.
func speaksFor(zone string, resources []mesh.Resource) func(namespace string) bool {
	for _, r := range resources {
		if r.Kind != mesh.KindZone || r.Name != zone || r.Origin != mesh.OriginGlobal {
			continue
		}
		var z policy.Zone
		if json.Unmarshal(r.Spec, &z) != nil {
			break
		}
		return func(ns string) bool { return MaySpeak(z, ns) }
	}
	return func(string) bool { return false }
}

// MaySpeak reports whether a zone may export services of the namespace.
func MaySpeak(z policy.Zone, namespace string) bool {
	return slices.Contains(z.Namespaces, namespace) || slices.Contains(z.Namespaces, "*")
}

// effectiveServices are the Services that hold in the zone by subject; the zone's own wins over
// global's of the same name.
func effectiveServices(zone string, resources []mesh.Resource) map[string]policy.Service {
	out := map[string]policy.Service{}
	own := map[string]bool{}
	for _, r := range resources {
		if r.Kind != mesh.KindService || !local(r, zone) {
			continue
		}
		subject := Subject(r.Namespace, r.Name)
		if own[subject] {
			continue
		}
		var s policy.Service
		if json.Unmarshal(r.Spec, &s) != nil {
			continue // it was validated before it was stored; an older one offers nothing
		}
		out[subject] = s
		own[subject] = r.Origin == mesh.Origin(zone)
	}
	return out
}

func export(namespace, name string, s policy.Service, workloads []topology.Workload) mesh.Export {
	e := mesh.Export{Namespace: namespace, Service: name, Ports: []mesh.ExportPort{}, Identities: []string{}}
	for _, p := range s.Ports {
		e.Ports = append(e.Ports, mesh.ExportPort{Name: p.Name, Port: p.Port, AppProtocol: appProtocol(p.AppProtocol)})
	}
	for _, w := range workloads {
		if w.Namespace != namespace || !selects(s.Selector, w.Labels) {
			continue
		}
		capacity := w.Spec.Capacity
		if capacity == 0 {
			capacity = 1
		}
		e.Total++
		e.Capacity += capacity
		if w.Healthy {
			e.Ready++
			e.ReadyCapacity += capacity
		}
		if !slices.Contains(e.Identities, w.Identity) {
			e.Identities = append(e.Identities, w.Identity)
		}
	}
	slices.Sort(e.Identities)
	return e
}

// selects: an empty selector selects nothing, as for core Services without selector.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return len(selector) > 0
}

func appProtocol(s string) string {
	switch s {
	case "http", "http2", "grpc":
		return s
	case "kubernetes.io/h2c":
		return "http2"
	}
	return "tcp"
}

// ingressSet advertises the ingresses that serve; if none does, all of them, so that the zone never
// withdraws its last way in on the word of its own control path.
func ingressSet(list []discovery.Ingress) mesh.IngressSet {
	out := mesh.IngressSet{Ingresses: []mesh.Ingress{}}
	ready := slices.ContainsFunc(list, func(i discovery.Ingress) bool { return i.Ready })
	for _, i := range list {
		if i.Ready || !ready {
			out.Ingresses = append(out.Ingresses, i.Advertised)
		}
	}
	return out
}
