package topology

import (
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// checkProxyless says of routes, policies and extensions what gRPC clients without a proxy don't do of it, where there are such
// clients. Servers do their part for them as for others.
func (b *builder) checkProxyless() {
	if !slices.ContainsFunc(b.t.Workloads, func(w *Workload) bool { return w.Spec.Proxyless }) {
		return
	}
	lacking := map[mesh.Key][]string{}
	note := func(k mesh.Key, what ...string) {
		for _, one := range what {
			if k != (mesh.Key{}) && !slices.Contains(lacking[k], one) {
				lacking[k] = append(lacking[k], one)
			}
		}
	}
	asked := func(s *Service, p Port, route mesh.Key, rule string) {
		m := b.t.Traffic(s, p, route, rule)
		for field, what := range lackingOf(m.Spec) {
			note(m.By(field), what...)
		}
		for _, e := range b.t.Extensions(policy.SideClient, s, p, route, rule) {
			note(e.Resource.Key, "the extension")
		}
	}
	for _, s := range b.t.Services {
		for _, p := range s.Ports {
			if p.Protocol != GRPC && p.Protocol != HTTP2 {
				continue
			}
			asked(s, p, mesh.Key{}, "")
			followed := [][]policy.RouteMatch{p.Routes}
			for to, matches := range b.t.consumed {
				if to.of == (ServicePort{s.ServiceName, p.Number}) {
					followed = append(followed, matches)
				}
			}
			for _, m := range slices.Concat(followed...) {
				asked(s, p, m.Route, m.RuleName)
				note(m.Route, lackingRule(m.Does)...)
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(lacking), mesh.Key.Compare) {
		slices.Sort(lacking[k])
		b.issue(k, "gRPC clients of this zone that have no proxy do without: %s", strings.Join(lacking[k], ", "))
	}
}

// lackingRule are the parts of a rule that no gRPC client knows.
func lackingRule(rule *gatewayv1.HTTPRouteRule) (out []string) {
	for _, f := range rule.Filters {
		out = append(out, "filter "+string(f.Type))
	}
	if rule.SessionPersistence != nil {
		out = append(out, "sessionPersistence")
	}
	if rule.Timeouts != nil && rule.Timeouts.BackendRequest != nil {
		out = append(out, "timeouts.backendRequest")
	}
	for _, ref := range rule.BackendRefs {
		if ref.Kind != nil && *ref.Kind == policy.BackendExternal {
			out = append(out, "ExternalService "+string(ref.Name))
		}
		for _, f := range ref.Filters {
			out = append(out, "filter "+string(f.Type)+" of a backend")
		}
	}
	return out
}

// lackingOf are the parts of a policy that no gRPC client knows, by the field of the spec.
func lackingOf(t policy.TrafficPolicy) map[string][]string {
	out := map[string][]string{}
	note := func(field, what string, is bool) {
		if is {
			out[field] = append(out[field], what)
		}
	}
	if o := t.Timeouts; o != nil {
		note("Timeouts", "timeouts.backendRequest", o.BackendRequest != "")
		note("Timeouts", "timeouts.idle", o.Idle != "")
		note("Timeouts", "timeouts.connect", o.Connect != "")
	}
	if r := t.Retry; r != nil {
		note("Retry", "retry.perTryTimeout", r.PerTryTimeout != "")
		note("Retry", "retry.budget", r.Budget != nil)
		note("Retry", "retry.otherHost", r.OtherHost != nil)
		note("Retry", "retry.otherZoneAfter", r.OtherZoneAfter != nil)
	}
	if c := t.CircuitBreaker; c != nil {
		note("CircuitBreaker", "circuitBreaker but maxRequests", c.MaxConnections != nil || c.MaxPendingRequests != nil || c.MaxRetries != nil)
	}
	if f := t.Fault; f != nil {
		note("Fault", "a fault with a match", f.Match != nil)
		note("Fault", "fault.bandwidth", f.Bandwidth != nil)
	}
	if l := t.LoadBalancer; l != nil {
		note("LoadBalancer", "loadBalancer", l.Algorithm != "" && l.Algorithm != policy.RoundRobin || l.SlowStart != nil)
	}
	note("ConnectionPool", "connectionPool", t.ConnectionPool != nil)
	note("Outlier", "outlier", t.Outlier != nil)
	note("HealthCheck", "healthCheck", t.HealthCheck != nil)
	note("Session", "session", t.Session != nil)
	return out
}
