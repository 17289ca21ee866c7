package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// proxiesWord names what get and describe show like a kind, though nobody applies it: Envoys, as their zones see
// them.
const proxiesWord = "proxies"

// isProxies reports whether an argument means proxies: "proxies", "proxy", or either with "/NAME".
func isProxies(arg string) bool {
	word, _, _ := strings.Cut(arg, "/")
	return word == proxiesWord || word == "proxy"
}

// proxiesOf asks for the proxies that the arguments and flags select. A name is that of a workload or an ingress,
// with or without what stands before it in the column PROXY; the origin of a proxy is its zone. single says that
// exactly one name was given.
func (r *remote) proxiesOf(ctx context.Context, args []string, sel selection) (list []mesh.ProxyStatus, single bool, err error) {
	var names []string
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			_, name, _ := strings.Cut(a, "/")
			if !isProxies(a) || name == "" {
				return nil, false, usage("%q is not proxy/NAME", a)
			}
			names = append(names, name)
		}
	} else {
		names = args[1:]
	}
	list, err = r.Proxies(ctx, sel.origin)
	if err != nil {
		return nil, false, err
	}
	known := knownProxies(list)
	list = filterProxies(list, names, sel.namespaceFilter())
	for _, name := range names {
		if !slices.ContainsFunc(list, func(p mesh.ProxyStatus) bool { return isNamed(p, name) }) {
			return nil, false, missing("proxy", name, known, "comity get proxies")
		}
	}
	return list, len(names) == 1 && len(list) == 1, nil
}

// filterProxies leaves those of the names, all if there are none, in the namespace, if one is said.
func filterProxies(list []mesh.ProxyStatus, names []string, namespace string) []mesh.ProxyStatus {
	return slices.DeleteFunc(list, func(p mesh.ProxyStatus) bool {
		return namespace != "" && p.Proxy.Namespace != namespace ||
			len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return isNamed(p, name) })
	})
}

// knownProxies are the names by which proxies may be called.
func knownProxies(list []mesh.ProxyStatus) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Proxy.Name, proxyName(p.Proxy))
	}
	return out
}

func isNamed(p mesh.ProxyStatus, name string) bool {
	return name == p.Proxy.Name || name == proxyName(p.Proxy) || name == p.Proxy.String()
}

// proxyName is a proxy in the column PROXY: a sidecar by its workload, a gateway by its role.
func proxyName(p mesh.ProxyID) string {
	if p.Namespace != "" {
		return p.Namespace + "/" + p.Name
	}
	return string(p.Role) + "/" + p.Name
}

func (s *shell) getProxies(ctx context.Context, r *remote, args []string, sel selection, headers bool) error {
	list, single, err := r.proxiesOf(ctx, args, sel)
	if err != nil {
		return err
	}
	return s.showProxies(list, single, headers)
}

func (s *shell) showProxies(list []mesh.ProxyStatus, single, headers bool) error {
	if done, err := s.writeProxies(list, single); done {
		return err
	}
	t := table{columns: []string{"ZONE", "PROXY", "STATUS", "ACKED", "NACKS", "CERT"}}
	if s.output == formatWide {
		t.columns = append(t.columns, "IDENTITY", "ENVOY")
	}
	t.columns = append(t.columns, "LAST ERROR")
	for _, p := range list {
		row := []string{p.Zone, proxyName(p.Proxy), proxyState(p), ackedBy(p), knownOr(p.Unheard, fmt.Sprint(p.Nacks)), knownOr(p.Unheard, until(p.CertExpires))}
		if s.output == formatWide {
			row = append(row, p.Identity, p.Version, p.LastError)
		} else {
			row = append(row, short(p.LastError))
		}
		t.rows = append(t.rows, row)
	}
	return t.write(s.out, s.output, headers)
}

// ackedBy is the newest revision of its zone's store that a proxy has acknowledged in full. It is not known of one that has
// acknowledged nothing yet, nor of a zone that is away.
func ackedBy(p mesh.ProxyStatus) string {
	if p.Applied == 0 {
		return unknown
	}
	return knownOr(p.Unheard, fmt.Sprint(p.Applied))
}

// writeProxies prints proxies in the formats that are no table; it reports false for the others.
func (s *shell) writeProxies(list []mesh.ProxyStatus, single bool) (bool, error) {
	if s.output == formatName {
		for _, p := range list {
			fmt.Fprintln(s.out, clean("proxy/"+p.Proxy.String()))
		}
		return true, nil
	}
	if single {
		return writeValue(s.out, s.output, list[0])
	}
	return writeValue(s.out, s.output, list)
}

func (s *shell) describeProxies(ctx context.Context, r *remote, args []string, sel selection) error {
	list, single, err := r.proxiesOf(ctx, args, sel)
	if err != nil {
		return err
	}
	if done, err := s.writeProxies(list, single); done {
		return err
	}
	for i, p := range list {
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		describeProxy(fields(s.out), p)
	}
	return nil
}

func describeProxy(field fieldWriter, p mesh.ProxyStatus) {
	field("Name", "%s", p.Proxy.Name)
	if p.Proxy.Namespace != "" {
		field("Namespace", "%s", p.Proxy.Namespace)
	}
	field("Role", "%s", p.Proxy.Role)
	field("Zone", "%s", p.Zone)
	field("Node", "%s", p.Proxy)
	why := notHeard(p.Zone, p.Unheard)
	field("Status", "%s", proxyState(p))
	switch {
	case why != "":
		field("Known", "what follows is what the zone said last, at %s", p.ObservedAt.Local().Format(time.DateTime))
	case p.Connected:
		field("Connected", "for %s", age(p.Since))
	default:
		field("Connected", "no; it goes on with what it has")
	}
	field("Identity", "%s", p.Identity)
	field("Certificate", "ends in %s", until(p.CertExpires))
	field("Envoy", "%s", p.Version)
	if p.Applied == 0 {
		field("Configuration", "nothing acknowledged in full yet, %d refusals in this connection", p.Nacks)
	} else {
		field("Configuration", "revision %d of its zone's store acknowledged in full, %d refusals in this connection", p.Applied, p.Nacks)
	}
	if p.LastError != "" {
		field("Last error", "%s", p.LastError)
	}
	if p.Unsevered != "" {
		field("Unsevered", "connections to a revoked zone go on until they end by themselves: %s", p.Unsevered)
	}
}
