package dataplane

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/dataplane/dns"
	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// openDNS opens the ports on which names are answered, and asks the zone for virtual addresses.
func (a *agent) openDNS(ctx context.Context, w *Workload) error {
	d := a.config.Sidecar.DNS
	if d == nil {
		return nil
	}
	upstreams, err := d.upstreams()
	if err != nil {
		return err
	}
	if a.dns, err = dns.Listen(ctx, dns.Config{Address: d.Address, Upstreams: upstreams, Log: a.log}); err != nil {
		return &fault.Error{
			Code: "DNS-PORT", What: "names can't be answered on " + d.Address, Err: err,
			Try: "free the port, or choose another with dns.address: one below 1024 needs CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities)", Docs: "docs/dns.md",
		}
	}
	w.VirtualAddresses = &mesh.VirtualAddresses{Block: cmp.Or(d.Block, mesh.DefaultVirtualBlock), LowestPort: lowestPort()}
	a.info.DNS = a.dns.Address().String()
	return nil
}

// plainResolver is who this machine's Envoy asks, which must not be answered by the addresses on which it listens.
func (a *agent) plainResolver() netip.AddrPort {
	if a.dns == nil {
		return netip.AddrPort{}
	}
	return a.dns.Plain()
}

// answerNames takes the zone's word of which names there are.
func (a *agent) answerNames(list []*enrolpb.Name) {
	if a.dns == nil {
		return
	}
	block := cmp.Or(a.config.Sidecar.DNS.Block, mesh.DefaultVirtualBlock)
	var names []dns.Name
	for _, n := range list {
		if n.GetNumber() == 0 || n.GetNumber() > 65534 {
			continue // of a later release, that knows of more
		}
		at := mesh.VirtualAddress(block, uint16(n.GetNumber()))
		for _, h := range n.GetHosts() {
			names = append(names, dns.Name{Host: h, Address: at})
		}
	}
	a.dns.Set(names)
	a.log.Debug("names of the mesh are answered", "names", len(names))
}

// lowestPort is the lowest on which Envoy, which inherits this process's rights, may listen; 0 means any.
func lowestPort() uint16 {
	const capNetBindService = 10
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(status)) {
			// Envoy has what is ambient, or all that there is if it is root's.
			field := "CapAmb:"
			if os.Geteuid() == 0 {
				field = "CapBnd:"
			}
			if rest, ok := strings.CutPrefix(line, field); ok {
				if set, err := strconv.ParseUint(strings.TrimSpace(rest), 16, 64); err == nil && set&(1<<capNetBindService) != 0 {
					return 0
				}
			}
		}
	}
	const usual = 1024
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	var start uint16
	if _, err := fmt.Sscan(string(raw), &start); err != nil {
		return usual
	}
	return start
}
