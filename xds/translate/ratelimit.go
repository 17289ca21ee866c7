package translate

import (
	"cmp"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// requestLimits are filters in the order of the policy, those that cost nothing to ask first. They come after authorization, so
// that who may not call uses up nobody's tokens.
func (tr *Translator) requestLimits(l *policy.RateLimit, by mesh.Key) []ir.Filter {
	if l == nil {
		return nil
	}
	var out []ir.Filter
	for _, one := range l.Requests {
		f := &ir.RateLimit{Name: PolicyName(by), Bucket: bucketOf(one.Limit), Counted: counted(one.CountedRequests)}
		if one.Name != "" {
			f.Name += "/" + one.Name
		}
		for _, o := range one.Overrides {
			f.Callers = append(f.Callers, ir.CallerBucket{Identity: o.Caller, Bucket: bucketOf(o.Limit)})
		}
		out = append(out, ir.Filter{RateLimit: f})
	}
	if l.Shared != nil {
		out = append(out, ir.Filter{SharedLimits: tr.sharedLimits(*l.Shared, by)})
	}
	return out
}

func (tr *Translator) sharedLimits(s policy.SharedLimits, by mesh.Key) *ir.SharedLimits {
	f := &ir.SharedLimits{Name: PolicyName(by), Domain: cmp.Or(s.Domain, by.Namespace), Timeout: millis(s.Wait()), FailClosed: s.FailClosed}
	f.Cluster, f.Authority = tr.asked(by.Namespace, s.Service)
	for _, one := range s.Requests {
		f.Limits = append(f.Limits, ir.SharedLimit{Name: one.Name, Counted: counted(one.CountedRequests)})
	}
	return f
}

func counted(c policy.CountedRequests) ir.Counted {
	out := ir.Counted{Match: plainMatch(c.Counted())}
	if e := c.Each; e != nil {
		out.EachCaller, out.EachHeader = e.Caller, strings.ToLower(e.Header)
	}
	return out
}

// connectionLimit is one for all zones that callers come from. It is in the chain, whose connections end when it changes:
// Envoy has no other place for it.
func (in *inbound) connectionLimit(s *topology.Service, p topology.Port) *ir.ConnectionLimit {
	t := in.tr.t.Traffic(s, p, mesh.Key{}, "")
	if t.Spec.RateLimit == nil || t.Spec.RateLimit.Connections == nil {
		return nil
	}
	by := t.By("RateLimit")
	in.sources = append(in.sources, by)
	return &ir.ConnectionLimit{Name: PolicyName(by) + "/" + s.ServiceName.String() + "/" + strconv.Itoa(int(p.Number)), Bucket: bucketOf(t.Spec.RateLimit.Connections.Limit)}
}

func plainMatch(m *gatewayv1.HTTPRouteMatch) *ir.Match {
	if m == nil {
		return nil
	}
	out := matchOf(*m)
	return &out
}

func bucketOf(l policy.Limit) ir.Bucket {
	return ir.Bucket{Size: l.Size(), Fill: l.Count, Interval: millis(l.Interval())}
}
