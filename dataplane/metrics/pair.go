package metrics

import (
	"regexp"
	"strings"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

// Self is the proxy that tells.
type Self struct {
	Role     mesh.Role
	Identity string // SPIFFE ID, empty before it has one
	Zone     string
}

// pair is who asks whom, as one end counts it.
type pair struct {
	reporter string
	from, to end
	protocol string
}

type end struct{ name, namespace, zone string }

// values are in the order of signals.Pair.
func (p pair) values() []string {
	return []string{p.reporter, p.from.name, p.from.namespace, p.from.zone, p.to.name, p.to.namespace, p.to.zone, p.protocol}
}

// overflow is the pair of all that are beyond the bound, of one reporter and protocol.
func (p pair) overflow() pair {
	other := end{signals.Other, signals.Other, signals.Other}
	return pair{p.reporter, other, other, p.protocol}
}

// names reads names that the zone's configuration gives, in which Envoy may have made "_" of ":".
type names struct{ cluster, chain *regexp.Regexp }

func newNames() names {
	const service = `([a-z0-9-]+)\.([a-z0-9-]+)`
	return names{
		cluster: regexp.MustCompile(`^(external/)?` + service + `(?:\.[a-z0-9-]+)?[:_][0-9]+(?:/l4)?$`),
		chain:   regexp.MustCompile(`^(inbound|callers|plaintext|egress)/` + service + `[:_][0-9]+(?:/([a-z0-9-]+))?(?:/l4)?$`),
	}
}

// asked is the pair in which this proxy asks a cluster's endpoints in a zone; ok is false for a cluster that is no service's.
func (n names) asked(self Self, cluster, zone, protocol string) (p pair, ok bool) {
	m := n.cluster.FindStringSubmatch(cluster)
	if m == nil {
		return pair{}, false
	}
	p = pair{signals.Client, caller(self.Identity), end{m[2], m[3], known(zone, signals.None)}, protocol}
	p.from.zone = self.Zone
	if self.Role != mesh.RoleSidecar {
		p.reporter = signals.Gateway
	}
	return p, true
}

// served is the pair in which a caller asks what this proxy serves by a chain.
func (n names) served(self Self, chain, id, protocol string) (p pair, ok bool) {
	m := n.chain.FindStringSubmatch(chain)
	if m == nil {
		return pair{}, false
	}
	p = pair{signals.Server, caller(id), end{m[2], m[3], self.Zone}, protocol}
	p.from.zone = known(m[4], signals.Unknown)
	if m[1] == "egress" {
		p.reporter, p.to.zone = signals.Gateway, signals.None
	}
	return p, true
}

// caller is who a SPIFFE ID names: /ns/<namespace>/sa/<name>, or /fed/<role>/<name> of the zone's own proxies, whose namespace is the
// role.
func caller(id string) end {
	unknown := end{name: signals.Unknown, namespace: signals.Unknown}
	_, rest, _ := strings.Cut(id, "://")
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa":
		return end{name: parts[4], namespace: parts[2]}
	case len(parts) == 4 && parts[1] == "fed":
		return end{name: parts[3], namespace: parts[2]}
	}
	return unknown
}

// known is a value that Envoy may not have.
func known(v, or string) string {
	if v == "" || v == "-" {
		return or
	}
	return v
}
