package policy_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachedPolicies draws TrafficPolicies of every level, with blocks that tell who said them.
func attachedPolicies(rt *rapid.T) []policy.Attached[policy.TrafficPolicy] {
	targets := []*policy.TargetRef{
		nil, {Kind: "Service", Name: "cart"}, {Kind: "Service", Name: "cart", SectionName: "http"}, {Kind: "Service", Name: "other"},
		{Kind: "HTTPRoute", Name: "cart"}, {Kind: "HTTPRoute", Name: "cart", SectionName: "pay"},
	}
	n := rapid.IntRange(1, 8).Draw(rt, "policies")
	out := make([]policy.Attached[policy.TrafficPolicy], n)
	for i := range out {
		number := uint32(i)
		spec := &policy.TrafficPolicy{}
		spec.TargetRef = rapid.SampledFrom(targets).Draw(rt, "target")
		spec.Enforced = rapid.Bool().Draw(rt, "enforced")
		if rapid.Bool().Draw(rt, "retry") {
			spec.Retry = &policy.Retry{Attempts: &number}
		}
		if rapid.Bool().Draw(rt, "breaker") {
			spec.CircuitBreaker = &policy.CircuitBreaker{MaxRequests: &number}
		}
		out[i].Spec = spec
		out[i].Resource.Key = mesh.Key{
			Origin: rapid.SampledFrom([]mesh.Origin{mesh.OriginGlobal, "east"}).Draw(rt, "origin"), Kind: mesh.KindTrafficPolicy,
			Namespace: rapid.SampledFrom([]string{"shop", policy.SystemNamespace, "bank"}).Draw(rt, "namespace"), Name: string(rune('a' + i)),
		}
		out[i].Resource.Created = mesh.Revision(rapid.IntRange(1, 3).Draw(rt, "created"))
	}
	return out
}

// TestMergeOrderPlaysNoPart: in whatever order policies arrive, the same is said by the same.
func TestMergeOrderPlaysNoPart(t *testing.T) {
	subject := policy.Subject{
		Service: policy.ServiceRef{Namespace: "shop", Name: "cart", Port: 80}, PortName: "http",
		Route: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "cart"}, Rule: "pay",
	}
	rapid.Check(t, func(rt *rapid.T) {
		policies := attachedPolicies(rt)
		want := policy.Merge(policies, subject)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		shuffled := slices.Clone(policies)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got := policy.Merge(shuffled, subject)
		for what, diff := range map[string]string{
			"spec": cmp.Diff(want.Spec, got.Spec), "sources": cmp.Diff(want.Sources, got.Sources), "overridden": cmp.Diff(want.Overridden, got.Overridden),
			"who said retry": cmp.Diff(want.By("Retry"), got.By("Retry")), "who said circuitBreaker": cmp.Diff(want.By("CircuitBreaker"), got.By("CircuitBreaker")),
		} {
			if diff != "" {
				rt.Fatalf("%s (-in order +shuffled):\n%s", what, diff)
			}
		}
	})
}
