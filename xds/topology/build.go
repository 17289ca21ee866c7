package topology

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// builder collects a topology; its methods run once each, in the order of Build.
type builder struct {
	in     Input
	t      *Topology
	issues []Issue

	specs    map[mesh.Key]any // decoded, those in scope that could be
	byKind   map[mesh.Kind][]mesh.Resource
	zones    map[string]*policy.Zone
	accepted map[string]Remote // remotes that may be believed
	routes   map[string][]policy.Route
	authz    map[string][]policy.Authorization
	implicit []policy.FailoverTier // of services without tiers of their own
}

// Build makes the topology of an input. The order of the input plays no part. Issues are sorted by key
// and say everything that was left out, and what is overridden.
func Build(in Input) (*Topology, []Issue) {
	b := &builder{
		in: in,
		t: &Topology{
			Zone: in.Zone, TrustDomain: in.TrustDomain, Revision: in.Revision,
			Roots:        map[mesh.TrustDomain][]byte{},
			services:     map[ServiceName]*Service{},
			workloads:    map[mesh.ProxyID]*Workload{},
			grants:       map[string][]*policy.ReferenceGrant{},
			serves:       map[mesh.ProxyID][]*Service{},
			trustDomains: map[string]mesh.TrustDomain{in.Zone: in.TrustDomain},
			edges:        map[string][]EdgePort{},
			keys:         in.Keys,
			consumes:     map[policy.Clients]bool{},
			consumed:     map[consumer][]policy.RouteMatch{},
		},
		specs: map[mesh.Key]any{}, byKind: map[mesh.Kind][]mesh.Resource{}, zones: map[string]*policy.Zone{},
		accepted: map[string]Remote{}, routes: map[string][]policy.Route{}, authz: map[string][]policy.Authorization{},
	}
	b.decode()
	b.config()
	b.roots()
	b.findZones()
	b.findWorkloads()
	b.findIngresses()
	b.findEgresses()
	b.localServices()
	b.importServices()
	b.findExternals()
	b.findGrants()
	b.attachRoutes()
	b.attachTraffic()
	streams := b.allStreamRoutes()
	b.attachStreams(streams)
	b.attachGateways(streams)
	b.attachAuthentication()
	b.attachExtensions()
	b.attachTelemetry()
	b.leadFurther()
	b.checkProxyless()
	b.attachPolicies()
	b.attachExternalPolicies()
	b.attachFailover()
	b.checkUpstreams()
	b.numberNames()
	for _, s := range b.t.Services {
		if s.Local == nil {
			continue
		}
		for _, w := range s.Local.Workloads {
			b.t.serves[w.ProxyID()] = append(b.t.serves[w.ProxyID()], s)
		}
	}
	b.attachDependencies()
	b.checkPermissive()
	return b.t, b.sortedIssues()
}

func (b *builder) issue(k mesh.Key, format string, a ...any) {
	b.issues = append(b.issues, Issue{Key: k, Message: fmt.Sprintf(format, a...)})
}

func (b *builder) overridden(k mesh.Key, by ...mesh.Key) {
	slices.SortFunc(by, mesh.Key.Compare)
	names := make([]string, len(by))
	for i, o := range by {
		names[i] = o.String()
	}
	b.issues = append(b.issues, Issue{Key: k, Message: "overridden by " + strings.Join(names, ", "), OverriddenBy: by})
}

func (b *builder) sortedIssues() []Issue {
	slices.SortFunc(b.issues, func(x, y Issue) int {
		return cmp.Or(x.Key.Compare(y.Key), cmp.Compare(x.Message, y.Message))
	})
	return slices.CompactFunc(b.issues, func(x, y Issue) bool { return x.Key == y.Key && x.Message == y.Message })
}

// decode keeps the resources that concern this zone, sorted by key, and reads their specs.
func (b *builder) decode() {
	decode := b.in.Decode
	if decode == nil {
		decode = func(r mesh.Resource) (any, error) { return policy.Decode(r.Kind, r.Spec) }
	}
	list := slices.Clone(b.in.Resources)
	slices.SortFunc(list, func(x, y mesh.Resource) int { return x.Key.Compare(y.Key) })
	known := map[mesh.Kind]bool{}
	for _, r := range list {
		mine := r.Origin == mesh.Origin(b.in.Zone) || r.Origin == mesh.OriginGlobal && r.InScope(b.in.Zone)
		if !mine || r.Kind == mesh.KindWorkload {
			continue
		}
		if _, asked := known[r.Kind]; !asked {
			_, known[r.Kind] = policy.Lookup(string(r.Kind))
		}
		if !known[r.Kind] {
			continue // its status is the federation's to report
		}
		spec, err := decode(r)
		if err != nil {
			b.issue(r.Key, "not understood: %v", err)
			continue
		}
		if err := checkNames(r.Key); err != nil {
			b.issue(r.Key, "unusable name: %v", err)
			continue
		}
		b.specs[r.Key] = spec
		b.byKind[r.Kind] = append(b.byKind[r.Kind], r)
		if z, ok := spec.(*policy.Zone); ok && r.Origin == mesh.OriginGlobal {
			b.zones[r.Name] = z
		}
	}
}

// checkNames makes sure that names can be part of host names and server names without ambiguity.
func checkNames(k mesh.Key) error {
	switch k.Kind {
	case mesh.KindService, mesh.KindServiceExport, mesh.KindExternalService:
		return errors.Join(mesh.CheckLabel(k.Namespace), mesh.CheckLabel(k.Name))
	case mesh.KindZone:
		return mesh.CheckZoneName(k.Name)
	}
	return nil
}

// preferred returns the resources of a kind by namespace and name, a zone's own before global's.
func (b *builder) preferred(kind mesh.Kind) []mesh.Resource {
	won := map[ServiceName]mesh.Resource{}
	for _, r := range b.byKind[kind] {
		n := ServiceName{r.Namespace, r.Name}
		other, taken := won[n]
		switch {
		case !taken:
			won[n] = r
		case other.Origin == mesh.OriginGlobal:
			won[n] = r
			b.overridden(other.Key, r.Key)
		default:
			b.overridden(r.Key, other.Key)
		}
	}
	return slices.SortedFunc(maps.Values(won), func(x, y mesh.Resource) int {
		return ServiceName{x.Namespace, x.Name}.compare(ServiceName{y.Namespace, y.Name})
	})
}

func (b *builder) config() {
	for _, r := range b.preferred(mesh.KindMeshConfig) {
		if r.Name != "default" {
			b.issue(r.Key, "only the MeshConfig named default counts")
			continue
		}
		if c, ok := b.specs[r.Key].(*policy.MeshConfig); ok {
			b.t.Config = *c
			b.t.ConfigSources = []mesh.Key{r.Key}
		}
	}
	if b.t.Config.DefaultAuthorization != policy.DefaultAllow {
		b.t.Config.DefaultAuthorization = policy.DefaultDeny
	}
}

// roots brings the trusted roots into one byte form, so that the same set always gives the same
// configuration. Envoy would keep the old trust if it were sent what it can't read, so a trust domain
// without a readable root is left out.
func (b *builder) roots() {
	for td, raw := range b.in.Roots {
		if mesh.CheckTrustDomain(string(td)) != nil {
			continue
		}
		if out := canonicalPEM(raw); len(out) > 0 {
			b.t.Roots[td] = out
		}
	}
}

func canonicalPEM(raw []byte) []byte {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		certs = append(certs, c)
	}
	slices.SortFunc(certs, func(x, y *x509.Certificate) int { return bytes.Compare(x.Raw, y.Raw) })
	certs = slices.CompactFunc(certs, (*x509.Certificate).Equal)
	return identity.PEMCertificates(certs...)
}

// tie is c, unless that is 0: then it orders x and y by their content, so that which of two things that
// have one name and should not counts, does not depend on the order in which they came.
func tie(c int, x, y any) int {
	if c != 0 {
		return c
	}
	a, errA := json.Marshal(x)
	b, errB := json.Marshal(y)
	if errA != nil || errB != nil {
		return 0 // a capacity that is no number; nothing else can fail
	}
	return bytes.Compare(a, b)
}
