package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// Exit is a zone through whose egress proxies an ExternalService is reached.
type Exit struct {
	Zone string
	// Last: it is to be used only where no other zone can be.
	Last bool
}

// LeavesHere reports whether an ExternalService leaves the mesh through the egress proxies of this zone.
func (t *Topology) LeavesHere(e *External) bool {
	return slices.ContainsFunc(e.Exits, func(x Exit) bool { return x.Zone == t.Zone })
}

// OpenToZones reports whether the egress proxies of this zone take callers of other zones for an ExternalService.
func (t *Topology) OpenToZones(e *External) bool {
	return t.LeavesHere(e) && e.Spec.Exit != nil && len(e.Spec.Exit.Zones) > 0
}

// exits are the zones of an ExternalService whose egress proxies could be recognised here, those that are not well last. What
// they are like in detail is for Envoys to find out.
func (b *builder) exits(e *External) []Exit {
	if !e.Gateway {
		return nil
	}
	zones := []string{b.in.Zone}
	if e.Spec.Exit != nil && len(e.Spec.Exit.Zones) > 0 {
		zones = e.Spec.Exit.Zones
	}
	var out []Exit
	for _, zone := range zones {
		if _, known := b.t.ZoneNamed(zone); known {
			out = append(out, Exit{zone, b.exitProblem(e, zone) != ""})
		}
	}
	slices.SortStableFunc(out, func(x, y Exit) int { return compareBools(x.Last, y.Last) })
	return out
}

// exitProblem says why the egress proxies of a zone are not used while those of others can be; empty if they are.
func (b *builder) exitProblem(e *External, zone string) string {
	z, known := b.t.ZoneNamed(zone)
	switch {
	case !known:
		return "it is not believed here: not known, revoked, or not heard of for too long"
	case !z.Local && (e.Source.Origin != mesh.OriginGlobal || !e.Source.InScope(zone)):
		return "it does not know the ExternalService, which must be made at global for it too"
	case b.drain(zone) != nil && len(z.egressNames(b.t)) > 0:
		return "it is being drained"
	case z.Local && len(b.t.Egresses) == 0:
		return "it has no egress"
	case z.Local:
		return "" // which of them are ready is for endpoints alone
	case len(z.Egresses) == 0:
		return "it says of no egress: it has none, or is of a release from before other zones could use it"
	case len(z.Ingresses) == 0:
		return "it has no ingress, by which its egress is reached"
	case !z.Reachable():
		return "none of its ingresses answers"
	case !slices.ContainsFunc(z.Egresses, func(g mesh.Egress) bool { return g.Ready }):
		return "none of its egresses is ready"
	}
	return ""
}

// EgressIdentities are the SPIFFE IDs under which the egress proxies of a zone answer, sorted.
func (t *Topology) EgressIdentities(z Zone) []string {
	var out []string
	for _, name := range z.egressNames(t) {
		out = append(out, z.TrustDomain.EgressID(name))
	}
	slices.Sort(out)
	return out
}

func (z Zone) egressNames(t *Topology) []string {
	var out []string
	if z.Local {
		for _, g := range t.Egresses {
			out = append(out, g.Name)
		}
	}
	for _, g := range z.Egresses {
		out = append(out, g.Name)
	}
	return out
}

// checkExits says through which zones an ExternalService can't leave.
func (b *builder) checkExits(e *External) {
	if !e.Gateway {
		return
	}
	if e.Spec.Exit == nil || len(e.Spec.Exit.Zones) == 0 {
		if len(b.t.Egresses) == 0 {
			b.issue(e.Source.Key, "it is reached through the zone's egress proxies, and there is none: requests are answered 503")
		}
		return
	}
	var problems []string
	for _, zone := range e.Spec.Exit.Zones {
		if problem := b.exitProblem(e, zone); problem != "" {
			problems = append(problems, fmt.Sprintf("zone %s: %s", zone, problem))
		}
	}
	if len(problems) == 0 {
		return
	}
	effect := "those that are left are used"
	if len(problems) == len(e.Spec.Exit.Zones) {
		effect = "requests are answered 503 unless one of them serves after all"
	}
	b.issue(e.Source.Key, "of the zones of exit.zones not all can be used: %s; %s", strings.Join(problems, "; "), effect)
}

// usableEgresses keeps what can have an identity, sorted.
func usableEgresses(list []mesh.Egress) []mesh.Egress {
	out := slices.DeleteFunc(slices.Clone(list), func(g mesh.Egress) bool { return mesh.CheckLabel(g.Name) != nil })
	slices.SortStableFunc(out, func(x, y mesh.Egress) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), -compareBools(x.Ready, y.Ready))
	})
	return slices.CompactFunc(out, func(x, y mesh.Egress) bool { return x.Name == y.Name })
}
