package translate

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// undeclaredCluster leads wherever a request's host says.
const undeclaredCluster = "undeclared"

// forward is to hosts that nobody declared. None of them may be at this machine, on its link or in no network at all, in the
// forms in which IPv4 addresses appear in IPv6 either (RFC 4291, 6052, 6890); at a private address only if MeshConfig says so.
func (tr *Translator) forward() *ir.Forward {
	refused := []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		"::/127", "::ffff:0:0/96", "64:ff9b::/96", "fe80::/10", "ff00::/8",
	}
	if e := tr.t.Config.Egress; e == nil || e.PrivateAddresses != policy.UndeclaredAllow {
		refused = append(refused, "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "fc00::/7")
	}
	f := &ir.Forward{}
	for _, r := range refused {
		f.Refused = append(f.Refused, netip.MustParsePrefix(r))
	}
	return f
}

// undeclaredClusters is the one by which undeclared hosts are reached, where any workload may.
func (tr *Translator) undeclaredClusters() []ir.Cluster {
	allowed := func(w *topology.Workload) bool {
		return tr.t.Config.OfUndeclared(w.Namespace) == policy.UndeclaredAllow
	}
	if !slices.ContainsFunc(tr.t.Workloads, allowed) {
		return nil
	}
	return []ir.Cluster{{
		Name: undeclaredCluster, Protocol: ir.HTTP1, ConnectTimeout: externalConnectTimeout, IdleTimeout: appIdle,
		Forward: tr.forward(), Sources: tr.t.ConfigSources,
	}}
}

// undeclaredHost takes the requests for hosts that are no service's and no ExternalService's. What looks like a name of the
// mesh never leaves it: unknown is the answer.
func (tr *Translator) undeclaredHost(namespace string, unknown ir.Reply) ir.VirtualHost {
	h := ir.VirtualHost{Name: "unknown", Domains: []string{"*"}, Routes: []ir.Route{
		{Match: ir.Match{Path: anyPath().Path, Host: tr.meshNames()}, Reply: &unknown},
	}}
	if tr.t.Config.OfUndeclared(namespace) == policy.UndeclaredAllow {
		to := []ir.Backend{{Cluster: undeclaredCluster, Weight: 1}}
		through := ir.Filters{After: []ir.Filter{{Resolve: tr.forward()}}}
		h.Routes = append(h.Routes,
			ir.Route{Match: ir.Match{Connect: true, NotHost: tr.meshNames()}, Backends: to, Filters: through},
			ir.Route{Match: anyPath(), Backends: to, Filters: through})
		return h
	}
	refusal := func(m ir.Match, counted ...ir.Filter) ir.Route {
		return ir.Route{
			Match: m, Filters: ir.Filters{After: counted},
			Reply: &ir.Reply{
				Status: http.StatusForbidden, Code: "HOST-NOT-DECLARED", Title: "Nobody has declared this host",
				Detail: "The host of the request is no service of the mesh and no ExternalService that this namespace knows, and undeclared hosts are refused.",
				Try:    "Declare it as an ExternalService, or let this namespace reach undeclared hosts: MeshConfig, spec.egress.",
			},
		}
	}
	h.Routes = append(h.Routes,
		refusal(ir.Match{Connect: true}), // Envoy says it shorter: it runs no filter for what it doesn't connect, and sends no text
		refusal(ir.Match{Path: anyPath().Path, Host: addressPattern}, ir.Filter{Count: &ir.Count{Name: "undeclared_address"}}),
		refusal(anyPath(), ir.Filter{Count: &ir.Count{Name: "undeclared_name"}}))
	return h
}

// addressPattern is an IP address instead of a name, with or without a port.
const addressPattern = `([0-9.]+|\[[0-9a-fA-F:.]+\])(:[0-9]+)?`

// meshNames is a pattern of names that can only be meant for the mesh: those without a dot, those in its own domains, and
// <service>.<namespace> of namespaces that are here.
func (tr *Translator) meshNames() string {
	var namespaces []string
	for _, s := range tr.t.Services {
		namespaces = append(namespaces, s.Namespace)
	}
	for _, w := range tr.t.Workloads {
		namespaces = append(namespaces, w.Namespace)
	}
	slices.Sort(namespaces)
	ways := []string{`[^.:\[]*`, `.*\.mesh`, `.*\.svc\.clusterset\.local`}
	if namespaces = slices.Compact(namespaces); len(namespaces) > 0 {
		ways = append(ways, `[^.]*\.(`+strings.Join(namespaces, "|")+`)`)
	}
	return `(` + strings.Join(ways, "|") + `)(:[0-9]*)?`
}
