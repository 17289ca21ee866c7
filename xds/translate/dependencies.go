package translate

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// outboundFor is what a sidecar knows of others: everything that its scope knows, or what its workload calls, where a policy says
// that.
func (tr *Translator) outboundFor(w *topology.Workload, parts ...*ir.Proxy) *ir.Proxy {
	d, ok := tr.t.Dependencies(w)
	switch {
	case ok:
		return tr.outboundTo(w, d, parts...)
	case w.Spec.OutboundPort == 0:
		return tr.bare()
	}
	return tr.outboundOf(tr.t.Scope(w))
}

// outboundTo is the part of everything that a sidecar can come to: the hosts of the services that its workload calls, and the clusters
// that are named by these or by anything else that it has (parts): routes that lead elsewhere, upstreams, who is asked to authorise or told
// of requests. Sidecars that need the same share it.
func (tr *Translator) outboundTo(w *topology.Workload, d topology.Dependencies, parts ...*ir.Proxy) *ir.Proxy {
	all := tr.bare()
	out := ir.Proxy{Secrets: all.Secrets}
	scope := policy.Clients{}
	if w.Spec.OutboundPort != 0 {
		scope = tr.t.Scope(w)
		out.Routes = []ir.RouteTable{tr.routesTo(scope, d)}
		tr.patch(&out)
	}
	known := make(map[string]bool, len(all.Clusters))
	for _, c := range all.Clusters {
		known[c.Name] = false
	}
	note(reflect.ValueOf(out.Routes), known)
	for _, p := range parts {
		note(reflect.ValueOf(*p), known)
	}
	key := fmt.Sprint(scope, w.Spec.OutboundPort != 0, d.Services, d.By)
	for _, c := range all.Clusters {
		if known[c.Name] {
			out.Clusters = append(out.Clusters, c)
			key += " " + c.Name
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if same := tr.bounded[key]; same != nil {
		return same
	}
	for _, e := range all.Endpoints {
		if known[e.Cluster] {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	tr.bounded[key] = &out
	return &out
}

// routesTo are the outbound routes of those who call some services and no others.
func (tr *Translator) routesTo(scope policy.Clients, d topology.Dependencies) ir.RouteTable {
	var services []*topology.Service
	for _, n := range d.Services {
		s, _ := tr.t.Service(n)
		services = append(services, s)
	}
	hosts, sources := tr.meshHosts(scope, services)
	return tr.outboundTable(scope, hosts, slices.Concat(sources, d.By), ir.Reply{
		Status: http.StatusNotFound, Code: "NOT-A-DEPENDENCY", Title: "The workload does not say that it calls this",
		Detail: "The host of the request is of no service among the dependencies of the workload, which are all that its sidecar knows.",
		Try:    "Add the service to the dependencies of " + PolicyName(d.By[0]) + " (TrafficPolicy).",
	})
}

// note marks which of the known strings are anywhere in a value. What a proxy has that is called like a cluster may be a reference
// to it: too much does no harm, and a reference that is forgotten does.
func note(v reflect.Value, known map[string]bool) {
	switch v.Kind() {
	case reflect.String:
		if _, ok := known[v.String()]; ok {
			known[v.String()] = true
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			note(v.Elem(), known)
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			note(f, known)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			note(v.Index(i), known)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			note(it.Key(), known)
			note(it.Value(), known)
		}
	}
}
