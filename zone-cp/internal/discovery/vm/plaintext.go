package vm

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// Bounds of what an agent says of plaintext.
const (
	maxPlaintextPorts   = 64
	maxPlaintextCallers = 32
)

// plaintextOf is who spoke plaintext to a proxy, as its agent says. What is no name or address is passed over.
func plaintextOf(h *enrolpb.Health) []mesh.PlaintextPort {
	var out []mesh.PlaintextPort
	for _, p := range h.GetPlaintext() {
		host, number, _ := strings.Cut(p.GetPort(), ":")
		service, namespace, _ := strings.Cut(host, ".")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || mesh.CheckLabel(service) != nil || mesh.CheckLabel(namespace) != nil || len(out) == maxPlaintextPorts {
			continue
		}
		one := mesh.PlaintextPort{
			Namespace: namespace, Service: service, Port: uint16(port), Since: moment(p.GetSinceMs()), Last: moment(p.GetLastMs()),
			Requests: p.GetRequests(), Others: int(min(p.GetOthers(), 1<<20)),
		}
		for _, c := range p.GetCallers() {
			address, err := netip.ParseAddr(c.GetAddress())
			if err != nil || len(one.Callers) == maxPlaintextCallers {
				continue
			}
			one.Callers = append(one.Callers, mesh.PlaintextCaller{Address: address.Unmap().String(), Requests: c.GetRequests(), Last: moment(c.GetLastMs())})
		}
		out = append(out, one)
	}
	return out
}

// moment is zero for none, and for what no clock of today shows.
func moment(ms int64) time.Time {
	if ms <= 0 || ms > time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
