package publish

import (
	"fmt"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// atAddresses names the workloads by their addresses. Of several at one address the first by name stands for them.
func (p *Publisher) atAddresses() map[string]string {
	at := map[string]string{}
	for _, w := range p.picture.Workloads {
		name := w.Namespace + "/" + w.Name
		if other, taken := at[w.Spec.Address]; !taken || name < other {
			at[w.Spec.Address] = name
		}
	}
	return at
}

// named gives the callers of ports the names of the workloads behind their addresses, which are looked up where there are ports.
func named(ports []mesh.PlaintextPort, addresses func() map[string]string) []mesh.PlaintextPort {
	if len(ports) == 0 {
		return nil
	}
	at, out := addresses(), slices.Clone(ports)
	for i := range out {
		out[i].Callers = slices.Clone(out[i].Callers)
		for j := range out[i].Callers {
			out[i].Callers[j].Workload = at[out[i].Callers[j].Address]
		}
	}
	return out
}

// plaintextOf says of each policy that lets ports take plaintext who speaks it: the condition Plaintext.
func (p *Publisher) plaintextOf(t *topology.Topology) map[mesh.Key]mesh.Condition {
	type port struct {
		namespace, service string
		number             uint16
	}
	reports := map[port][]mesh.PlaintextPort{}
	for id, a := range p.picture.Agents {
		said := map[port]bool{}
		for _, r := range a.Plaintext {
			// A sidecar speaks of its own namespace, and once of a port: another's word could make an operator believe that nobody is left.
			at := port{r.Namespace, r.Service, r.Port}
			if id.Role != mesh.RoleSidecar || id.Namespace != r.Namespace || said[at] {
				continue
			}
			said[at] = true
			reports[at] = append(reports[at], r)
		}
	}
	out := map[mesh.Key]mesh.Condition{}
	for k, ports := range t.Permissive() {
		var seen mesh.PlaintextPort
		callers, proxies, watching := map[string]bool{}, 0, 0
		for _, at := range ports {
			proxies += at.Workloads
			for _, r := range reports[port{at.Namespace, at.Name, at.Port}] {
				watching++
				seen.Since = newest(seen.Since, r.Since)
				seen.Last = newest(seen.Last, r.Last)
				seen.Others += r.Others
				for _, c := range r.Callers {
					callers[c.Address] = true
				}
			}
		}
		c := mesh.Condition{Type: mesh.ConditionPlaintext, Status: "False", Reason: "NoneSeen"}
		switch {
		case !seen.Last.IsZero():
			c.Status, c.Reason = "True", "CallersSeen"
			c.Message = fmt.Sprintf("%d callers, the last at %s", len(callers)+seen.Others, seen.Last.Format(time.RFC3339))
		case watching < proxies || proxies == 0:
			c.Status, c.Reason = "Unknown", "NotWatched"
			c.Message = "not all proxies say who speaks plaintext"
		default:
			c.Message = "none since " + seen.Since.Format(time.RFC3339)
		}
		c.Message += fmt.Sprintf("; %d of %d proxies watch", watching, proxies)
		out[k] = c
	}
	return out
}

func newest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// notePlaintext sets the conditions of policies that let ports take plaintext.
func (t *tracker) notePlaintext(conditions map[mesh.Key]mesh.Condition) {
	for k, c := range t.changes {
		if k.Kind != mesh.KindAuthenticationPolicy || c.gone {
			continue
		}
		var now []mesh.Condition
		if one, ok := conditions[k]; ok {
			now = []mesh.Condition{one}
		}
		if !slices.Equal(c.status.Conditions, now) {
			c.status.Conditions = now
			t.updated[k] = struct{}{}
		}
	}
}
