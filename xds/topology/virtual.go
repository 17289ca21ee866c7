package topology

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// Name is a host name that sidecars answer with a virtual address: of a service wherever it is, in one zone or of one instance
// there, or of what is outside.
type Name struct {
	// Host is the name by which its number is remembered, and Aliases are others for the same.
	Host    string
	Aliases []string
	// Number is its place in every sidecar's block.
	Number uint16
	// Service is nil for a host of ExternalServices, whose ports are External.
	Service        *Service
	Zone, Instance string
	External       []ExternalHost
}

// Names lists what the sidecar of a workload answers, by host. There are none where no workload has virtual addresses.
func (t *Topology) Names(w *Workload) []Name {
	var out []Name
	d, bounded := t.Dependencies(w)
	for _, n := range t.hostNames(t.Scope(w).Namespace) {
		if bounded && n.Service != nil && !slices.Contains(d.Services, n.Service.ServiceName) {
			continue
		}
		if n.Number = t.numbers[n.Host]; n.Number != 0 {
			out = append(out, n)
		}
	}
	return out
}

// NamesKey is the same for workloads with the same Names.
func (t *Topology) NamesKey(w *Workload) string {
	d, bounded := t.Dependencies(w)
	return fmt.Sprint(t.Scope(w).Namespace, bounded, d.Services)
}

// hostNames are all names that the workloads of a namespace can know, with or without a number.
func (t *Topology) hostNames(namespace string) []Name {
	var out []Name
	for _, s := range t.Services {
		out = append(out, Name{Service: s, Host: mesh.ClusterSetHost(s.Name, s.Namespace), Aliases: []string{s.ServiceName.String()}})
		zones := s.zones(t.Zone)
		for _, z := range zones {
			// That of a service which is here alone says no more than the service's own, and would cost as much.
			if z != t.Zone || len(zones) > 1 {
				out = append(out, Name{Service: s, Zone: z, Host: mesh.ZoneHost(s.Name, s.Namespace, z)})
			}
			for _, i := range s.Instances(z, t.Zone) {
				out = append(out, Name{
					Service: s, Zone: z, Instance: i, Host: mesh.InstanceHost(i, s.Name, s.Namespace, z),
					Aliases: []string{mesh.ClusterSetInstanceHost(i, s.Name, s.Namespace, z)},
				})
			}
		}
	}
	external := map[string][]ExternalHost{}
	for _, x := range t.ExternalHosts(namespace) {
		for _, h := range x.Spec.Hosts {
			if slices.Contains(x.Domains, hostPort(h, x.Port.Port)) && !isAddress(h) {
				external[h] = append(external[h], x)
			}
		}
	}
	for _, h := range slices.Sorted(maps.Keys(external)) {
		out = append(out, Name{Host: h, External: external[h]})
	}
	slices.SortFunc(out, func(x, y Name) int { return cmp.Compare(x.Host, y.Host) })
	return out
}

// isAddress reports whether a host is not asked for: an IP address is its own.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// zones lists those that have the service, own first.
func (s *Service) zones(own string) []string {
	var out []string
	if s.Local != nil {
		out = append(out, own)
	}
	for _, r := range s.Remotes {
		out = append(out, r.Zone)
	}
	return out
}

// numberNames gives numbers to what the workloads with virtual addresses can ask for.
func (b *builder) numberNames() {
	hosts := map[string]bool{}
	seen := map[string]bool{}
	for _, w := range b.t.Workloads {
		if ns := b.t.Scope(w).Namespace; w.Spec.VirtualAddresses != nil && !seen[ns] {
			seen[ns] = true
			for _, n := range b.t.hostNames(ns) {
				hosts[n.Host] = true
			}
		}
	}
	if len(hosts) == 0 {
		return
	}
	number := b.in.Number
	if number == nil {
		number = new(Numbers).Of
	}
	b.t.numbers = number(slices.Sorted(maps.Keys(hosts)))
	b.checkLowPorts()
}

// checkLowPorts says where a sidecar may not listen on a service's own port.
func (b *builder) checkLowPorts() {
	for _, w := range b.t.Workloads {
		v := w.Spec.VirtualAddresses
		if v == nil || v.LowestPort == 0 {
			continue
		}
		var example string
		count := 0
		for _, s := range b.t.Services {
			for _, p := range s.Ports {
				if p.Number < v.LowestPort {
					example, count = hostPort(s.ServiceName.String(), p.Number), count+1
				}
			}
		}
		if count > 0 {
			b.issue(w.key(b.in.Zone), "its sidecar may not listen on ports below %d, so %d service ports, %s among them, are not at their virtual addresses", v.LowestPort, count, example)
		}
	}
}

// Numbers gives host names numbers from 1 to 65534. A name that is new gets one that follows from the name alone, or the next
// that is free, so that the same names mostly get the same numbers though nothing is remembered. The zero value is empty.
type Numbers struct {
	byHost map[string]uint16
	taken  map[uint16]string
}

const maxNumber = 65534

// Hold reserves a number for a host; false if another has it.
func (n *Numbers) Hold(host string, number uint16) bool {
	if by, taken := n.taken[number]; taken && by != host || number == 0 || number > maxNumber {
		return false
	}
	if n.byHost == nil {
		n.byHost, n.taken = map[string]uint16{}, map[uint16]string{}
	}
	delete(n.taken, n.byHost[host])
	n.byHost[host], n.taken[number] = number, host
	return true
}

// Free gives a host's number back.
func (n *Numbers) Free(host string) {
	delete(n.taken, n.byHost[host])
	delete(n.byHost, host)
}

// Of is the number of each host, those that are new in their order. A host for which there is none left is not in the result.
func (n *Numbers) Of(hosts []string) map[string]uint16 {
	out := make(map[string]uint16, len(hosts))
	for _, h := range hosts {
		if _, has := n.byHost[h]; !has && !n.assign(h) {
			continue
		}
		out[h] = n.byHost[h]
	}
	return out
}

func (n *Numbers) assign(host string) bool {
	if len(n.taken) == maxNumber {
		return false
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(host)) // never fails
	number := uint16(sum.Sum32() % maxNumber)
	for {
		if n.Hold(host, number+1) {
			return true
		}
		number = (number + 1) % maxNumber
	}
}
