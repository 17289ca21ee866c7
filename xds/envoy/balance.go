package envoy

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	reportedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/client_side_weighted_round_robin/v3"
	commonlbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/comity-mesh/comity/xds/ir"
)

// balance is a load balancing policy that keeps to the weights of localities, which are the shares of zones; with outside, where
// there are none, it would find no endpoint by them.
func (b *messages) balance(l ir.Balance, outside bool) *clusterv3.LoadBalancingPolicy {
	var weighted *commonlbv3.LocalityLbConfig_LocalityWeightedLbConfig
	var locality *commonlbv3.LocalityLbConfig
	if !outside {
		weighted = &commonlbv3.LocalityLbConfig_LocalityWeightedLbConfig{}
		locality = &commonlbv3.LocalityLbConfig{
			LocalityConfigSpecifier: &commonlbv3.LocalityLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: weighted},
		}
	}
	// The hash is the cluster's, not the routes': several routes lead to it, and routes lead to several.
	hash := &commonlbv3.ConsistentHashingLbConfig{HashPolicy: hashPolicies(l.Hash)}
	name, m := "round_robin", proto.Message(&roundrobinv3.RoundRobin{LocalityLbConfig: locality, SlowStartConfig: slowStart(l.SlowStart)})
	switch l.Algorithm {
	case ir.LeastRequest:
		name, m = "least_request", &leastrequestv3.LeastRequest{LocalityLbConfig: locality, SlowStartConfig: slowStart(l.SlowStart)}
	case ir.Random:
		name, m = "random", &randomv3.Random{LocalityLbConfig: locality}
	case ir.RingHash:
		name, m = "ring_hash", &ringhashv3.RingHash{ConsistentHashingLbConfig: hash, LocalityWeightedLbConfig: weighted}
	case ir.Maglev:
		name, m = "maglev", &maglevv3.Maglev{ConsistentHashingLbConfig: hash, LocalityWeightedLbConfig: weighted}
	case ir.ReportedLoad:
		name, m = "client_side_weighted_round_robin", &reportedv3.ClientSideWeightedRoundRobin{
			SlowStartConfig: slowStart(l.SlowStart), BlackoutPeriod: durationpb.New(reportedAfter),
		}
		if !outside {
			// It knows no weights of localities itself: the policy around it does.
			name, m = "wrr_locality", &wrrlocalityv3.WrrLocality{EndpointPickingPolicy: b.balancing(name, m)}
		}
	case ir.RoundRobin:
	}
	return b.balancing(name, m)
}

// reportedAfter is how long an endpoint must have reported its load before it counts: with Envoy's 10 s each change of a
// cluster would mean 10 s of equal shares.
const reportedAfter = time.Second

func (b *messages) balancing(name string, m proto.Message) *clusterv3.LoadBalancingPolicy {
	return &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: b.extension("envoy.load_balancing_policies."+name, m),
	}}}
}

func slowStart(s *ir.SlowStart) *commonlbv3.SlowStartConfig {
	if s == nil {
		return nil
	}
	return &commonlbv3.SlowStartConfig{
		SlowStartWindow: duration(s.Window), MinWeightPercent: percent(s.MinWeightPercent),
		// The runtime key is never set; the message demands one.
		Aggression: &corev3.RuntimeDouble{DefaultValue: s.Aggression, RuntimeKey: "comity.unused"},
	}
}

func hashPolicies(list []ir.HashOn) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	for _, h := range list {
		p := &routev3.RouteAction_HashPolicy{Terminal: true}
		switch {
		case h.Header != "":
			p.PolicySpecifier = headerHash(&routev3.RouteAction_HashPolicy_Header{HeaderName: h.Header})
		case h.Cookie != nil:
			c := &routev3.RouteAction_HashPolicy_Cookie{Name: h.Cookie.Name, Path: h.Cookie.Path, Ttl: cookie(*h.Cookie).Ttl}
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}
		case h.Query != "":
			p.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.Query}}
		case h.ForwardedFor:
			p.PolicySpecifier = headerHash(&routev3.RouteAction_HashPolicy_Header{
				HeaderName: "x-forwarded-for",
				// The proxies behind the first address may differ from request to request.
				RegexRewrite: &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: `^\s*([^,\s]*).*$`}, Substitution: `\1`},
			})
		}
		out = append(out, p)
	}
	return out
}

func headerHash(h *routev3.RouteAction_HashPolicy_Header) *routev3.RouteAction_HashPolicy_Header_ {
	return &routev3.RouteAction_HashPolicy_Header_{Header: h}
}
