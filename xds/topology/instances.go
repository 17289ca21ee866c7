package topology

import (
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// Instances lists the workloads of a headless service in a zone, each of which has a name of its own; own is the zone whose
// picture this is.
func (s *Service) Instances(zone, own string) []string {
	if zone == own {
		if s.Local == nil || !s.Local.Headless {
			return nil
		}
		out := make([]string, 0, len(s.Local.Workloads))
		for _, w := range s.Local.Workloads {
			out = append(out, w.Name)
		}
		slices.Sort(out)
		return out[:min(len(out), mesh.MaxInstances)]
	}
	for _, r := range s.Remotes {
		if r.Zone == zone {
			return r.Instances
		}
	}
	return nil
}

// exportInstances keeps the names that can be part of a host name.
func (b *builder) exportInstances(r Remote, e mesh.Export, n ServiceName) []string {
	var out []string
	for _, i := range e.Instances {
		if mesh.CheckLabel(i) != nil {
			b.issue(zoneKey(r.Zone), "it exports %s with the instance %q, which is no DNS label: ignored", n, i)
			continue
		}
		out = append(out, i)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), mesh.MaxInstances)]
}
