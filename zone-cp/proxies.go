package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery/vm"
)

// WorkloadPath is a workload of a path. Exported because huma reads embedded parameters of exported types only.
type WorkloadPath struct {
	Namespace string `path:"namespace" maxLength:"63"`
	Name      string `path:"name" maxLength:"253"`
}

// IngressPath is an ingress or egress of a path.
type IngressPath struct {
	Name string `path:"name" maxLength:"253"`
}

// proxyOrder is something that is ordered about one proxy.
type proxyOrder[In, Out any] struct {
	verb    string
	do      func(context.Context, mesh.ProxyID, In) (Out, error)
	summary string
}

// proxyRoutes adds what is ordered about one workload, ingress or egress:
//
//	POST /api/v1/namespaces/{namespace}/workloads/{name}/drain     client.ProxyDrainRequest -> 200 client.ProxyDrain, or 409 client.CapacityProblem
//	GET  /api/v1/namespaces/{namespace}/workloads/{name}/drain     client.ProxyDrain
//	POST /api/v1/namespaces/{namespace}/workloads/{name}/undrain   client.ProxyDrainRequest, not heeded -> 200 client.ProxyDrain
//	POST /api/v1/namespaces/{namespace}/workloads/{name}/revoke    {} -> 200 client.ProxyRevocation
//	POST /api/v1/ingresses/{name}/drain, undrain, revoke           the same of an ingress
//	POST /api/v1/egresses/{name}/drain, undrain, revoke            and of an egress
func (z *zone) proxyRoutes(h huma.API, authz api.Authorizer) {
	orderable(z, h, authz, proxyOrder[client.ProxyDrainRequest, client.ProxyDrain]{"drain", z.drainProxy, "Have everybody leave the %s, unless it would be missed"})
	orderable(z, h, authz, proxyOrder[client.ProxyDrainRequest, client.ProxyDrain]{"undrain", z.undrainProxy, "Take the %s back into use"})
	orderable(z, h, authz, proxyOrder[struct{}, client.ProxyRevocation]{"revoke", z.revokeProxy, "End the registration of the %s"})
	huma.Register(h, huma.Operation{
		OperationID: "describe-workload-drain", Method: http.MethodGet, Path: "/api/v1/namespaces/{namespace}/workloads/{name}/drain",
		Summary: "How many proxies have let go of a drained workload", Tags: []string{"Zone"},
	}, func(ctx context.Context, in *struct{ WorkloadPath }) (*struct{ Body client.ProxyDrain }, error) {
		out, err := z.drainOf(mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: in.Namespace, Name: in.Name})
		return &struct{ Body client.ProxyDrain }{out}, z.problem(ctx, err)
	})
}

// drainOf reports how far the drain of a workload is.
func (z *zone) drainOf(p mesh.ProxyID) (client.ProxyDrain, error) {
	list := z.table.Picture().Workloads
	i := slices.IndexFunc(list, func(w topology.Workload) bool { return w.ProxyID() == p })
	if i < 0 {
		return client.ProxyDrain{}, unknownProxy(p)
	}
	out := client.ProxyDrain{Proxy: p, Draining: list[i].Draining}
	if out.Draining {
		out.Acked, out.Total, out.Done = z.publisher.Withdrawn(p)
	}
	return out, nil
}

// orderable adds an order for workloads, for ingresses and for egresses.
func orderable[In, Out any](z *zone, h huma.API, authz api.Authorizer, o proxyOrder[In, Out]) {
	op := func(kind, path string) huma.Operation {
		return huma.Operation{
			OperationID: o.verb + "-" + kind, Method: http.MethodPost, Path: "/api/v1/" + path + "/" + o.verb,
			Summary: fmt.Sprintf(o.summary, kind), Tags: []string{"Zone"}, MaxBodyBytes: maxBody,
		}
	}
	carryOut := func(ctx context.Context, p mesh.ProxyID, in In) (*struct{ Body Out }, error) {
		if err := authz.Require(ctx, api.RoleAdmin); err != nil {
			return nil, err
		}
		out, err := o.do(ctx, p, in)
		if err == nil {
			who, _ := authz.Principal(ctx)
			z.log.InfoContext(ctx, "ordered about a proxy", "order", o.verb, telemetry.KeyProxy, p.String(), "actor", who.Actor())
		}
		return &struct{ Body Out }{out}, z.problem(ctx, err)
	}
	huma.Register(h, op("workload", "namespaces/{namespace}/workloads/{name}"), func(ctx context.Context, in *struct {
		WorkloadPath
		Body In
	}) (*struct{ Body Out }, error) {
		return carryOut(ctx, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: in.Namespace, Name: in.Name}, in.Body)
	})
	for role, plural := range map[mesh.Role]string{mesh.RoleIngress: "ingresses", mesh.RoleEgress: "egresses"} {
		huma.Register(h, op(string(role), plural+"/{name}"), func(ctx context.Context, in *struct {
			IngressPath
			Body In
		}) (*struct{ Body Out }, error) {
			return carryOut(ctx, mesh.ProxyID{Role: role, Name: in.Name}, in.Body)
		})
	}
}

// what names a proxy for people.
func what(p mesh.ProxyID) string {
	if p.Role != mesh.RoleSidecar {
		return string(p.Role) + " " + p.Name
	}
	return "workload " + p.Namespace + "/" + p.Name
}

func unknownProxy(p mesh.ProxyID) error {
	return &fault.Error{Code: api.CodeNotFound, What: "there is no " + what(p) + " here", Try: "comity get proxies", Exit: fault.ExitNotFound}
}

func (z *zone) drainProxy(ctx context.Context, p mesh.ProxyID, in client.ProxyDrainRequest) (client.ProxyDrain, error) {
	picture := z.table.Picture()
	out := client.ProxyDrain{Proxy: p, Draining: true}
	switch p.Role {
	case mesh.RoleIngress:
		others := slices.ContainsFunc(picture.Ingresses, func(i discovery.Ingress) bool { return i.Name != p.Name && i.Ready })
		known := slices.ContainsFunc(picture.Ingresses, func(i discovery.Ingress) bool { return i.Name == p.Name })
		if known && !others {
			return out, &fault.Error{Code: api.CodeConflict, What: what(p) + " is the last way into the zone", Exit: fault.ExitConflict,
				Try: "start another ingress first, or drain the zone: comity zone drain " + z.Zone}
		}
	case mesh.RoleEgress:
		others := slices.ContainsFunc(picture.Egresses, func(e topology.EgressProxy) bool { return e.Name != p.Name && e.Ready })
		known := slices.ContainsFunc(picture.Egresses, func(e topology.EgressProxy) bool { return e.Name == p.Name })
		if known && !others {
			return out, &fault.Error{Code: api.CodeConflict, What: what(p) + " is the last way out of the zone", Exit: fault.ExitConflict, Try: "start another egress first"}
		}
	case mesh.RoleSidecar:
		i := slices.IndexFunc(picture.Workloads, func(w topology.Workload) bool { return w.ProxyID() == p })
		if i < 0 {
			break // which setDraining says
		}
		missing, served, err := z.missedWithout(ctx, picture.Workloads[i], picture.Workloads)
		if err != nil {
			return out, err
		}
		if len(missing) > 0 && !in.Force && !picture.Workloads[i].Draining {
			return out, api.CapacityProblem(what(p), missing)
		}
		out.Services = served
	}
	return out, z.setDraining(p, true)
}

func (z *zone) undrainProxy(_ context.Context, p mesh.ProxyID, _ client.ProxyDrainRequest) (client.ProxyDrain, error) {
	return client.ProxyDrain{Proxy: p}, z.setDraining(p, false)
}

func (z *zone) setDraining(p mesh.ProxyID, draining bool) error {
	err := z.table.Drain(p, draining)
	if errors.Is(err, vm.ErrUnknown) {
		return unknownProxy(p)
	}
	return err
}

// missedWithout lists the services of a workload that what is left, here and in the other zones that this one reaches,
// could not carry without it, and all services that it serves.
func (z *zone) missedWithout(ctx context.Context, gone topology.Workload, all []topology.Workload) (missing []client.Shortage, served []string, err error) {
	services, err := z.selecting(ctx, gone)
	if err != nil {
		return nil, nil, err
	}
	elsewhere, err := z.failoverOf(ctx)
	if err != nil {
		return nil, nil, err
	}
	policies, err := z.failoverPolicies(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, svc := range services {
		served = append(served, svc.Namespace+"/"+svc.Name)
		var whole, ready uint64
		for _, w := range all {
			if w.Namespace != svc.Namespace || w.Draining || !selects(svc.Selector, w.Labels) {
				continue
			}
			c := failover.Hundredths(w.Capacity())
			whole += c
			if w.Healthy && w.ProxyID() != gone.ProxyID() {
				ready += c
			}
		}
		m := client.Shortage{Namespace: svc.Namespace, Service: svc.Name, Zones: []client.CapacityOfZone{
			{Zone: z.Zone, Ready: float64(ready) / 100, Whole: float64(whole) / 100},
		}}
		for _, t := range elsewhere[svc.Namespace+"/"+svc.Name] {
			if t.Zone == z.Zone {
				continue
			}
			one := client.CapacityOfZone{Zone: t.Zone, Ready: t.Ready, Whole: t.Whole}
			whole += failover.Hundredths(t.Whole)
			if t.Reachable {
				ready += failover.Hundredths(t.Ready)
			} else {
				one.Excluded = "it can't be reached"
			}
			m.Zones = append(m.Zones, one)
		}
		var spec policy.FailoverPolicy
		if won, _ := policy.FailoverFor(policies, policy.ServiceRef{Namespace: svc.Namespace, Name: svc.Name}); won != nil {
			spec = *won.Spec
		}
		m.Threshold = *spec.WithDefaults().Threshold
		if ready*100 < whole*uint64(m.Threshold) {
			m.Needed, m.Available = float64(whole*uint64(m.Threshold))/10_000, float64(ready)/100
			missing = append(missing, m)
		}
	}
	return missing, served, nil
}

// service is a Service with what is asked of it here.
type service struct {
	mesh.Key
	Selector map[string]string
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return len(selector) > 0
}

// selecting lists the services that a workload serves; the zone's own take the place of global's of the same name.
func (z *zone) selecting(ctx context.Context, w topology.Workload) ([]service, error) {
	byName := map[string]service{}
	err := z.each(ctx, store.Query{Kind: mesh.KindService, Namespace: w.Namespace}, func(r mesh.Resource) {
		spec, err := policy.DecodeAs[policy.Service](r)
		if _, own := byName[r.Name]; err == nil && (r.Origin != mesh.OriginGlobal || !own) {
			byName[r.Name] = service{r.Key, spec.Selector}
		}
	})
	var out []service
	for _, s := range byName {
		if selects(s.Selector, w.Labels) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b service) int { return a.Compare(b.Key) })
	return out, err
}

func (z *zone) failoverPolicies(ctx context.Context) ([]policy.Failover, error) {
	var out []policy.Failover
	err := z.each(ctx, store.Query{Kind: mesh.KindFailoverPolicy}, func(r mesh.Resource) {
		if spec, err := policy.DecodeAs[policy.FailoverPolicy](r); err == nil && (r.Origin != mesh.OriginGlobal || r.InScope(z.Zone)) {
			out = append(out, policy.Failover{Resource: r, Spec: spec})
		}
	})
	return out, err
}

// each visits every resource of a query.
func (z *zone) each(ctx context.Context, q store.Query, visit func(mesh.Resource)) error {
	q.Limit = 1000
	for {
		page, err := z.store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range page.Items {
			visit(r)
		}
		if q.Continue = page.Continue; q.Continue == "" {
			return nil
		}
	}
}

// failoverOf is what this zone knows of the zones that have a service, by namespace/name.
func (z *zone) failoverOf(ctx context.Context) (map[string][]mesh.FailoverTarget, error) {
	recs, _, err := z.store.ListRecords(ctx, federation.BucketFailover+"/"+z.Zone, "")
	if err != nil {
		return nil, err
	}
	out := make(map[string][]mesh.FailoverTarget, len(recs))
	for _, r := range recs {
		var f mesh.FailoverStatus
		if json.Unmarshal(r.Value, &f) == nil {
			out[f.Namespace+"/"+f.Service] = f.Targets
		}
	}
	return out, nil
}

// revokeProxy ends a proxy's registration: its streams end, it leaves the endpoints, and neither its certificate nor
// the token that it came with brings it back.
func (z *zone) revokeProxy(ctx context.Context, p mesh.ProxyID, _ struct{}) (client.ProxyRevocation, error) {
	in, enrolled, err := z.ca.Enrolled(ctx, p)
	if err != nil {
		return client.ProxyRevocation{}, err
	}
	if !enrolled {
		return client.ProxyRevocation{}, unknownProxy(p)
	}
	out := client.ProxyRevocation{Proxy: p, Identity: in.ID, Token: in.TokenID, CertificateUntil: z.ca.CertifiedUntil(p)}
	switch err := z.ca.RevokeToken(ctx, in.TokenID); {
	case errors.Is(err, store.ErrNotFound):
		out.Token = ""
	case err != nil:
		return out, err
	}
	if err := z.ca.RemoveInstance(ctx, p); err != nil {
		return out, err
	}
	z.table.Expel(p)
	return out, nil
}
