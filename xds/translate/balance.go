package translate

import (
	"strings"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// balance says how endpoints are chosen. Turns without a slow start are what a cluster does anyway.
func balance(c *ir.Cluster, l *policy.LoadBalancer) {
	if l == nil {
		return
	}
	b := &ir.Balance{Algorithm: algorithm(l.Algorithm)}
	if c.Protocol != ir.Bytes {
		for _, h := range l.Hash {
			b.Hash = append(b.Hash, hashOn(h))
		}
	}
	if s := l.SlowStart; s != nil {
		window, aggression, least := s.Settings()
		b.SlowStart = &ir.SlowStart{Window: millis(window), Aggression: aggression, MinWeightPercent: least}
	}
	if b.Algorithm != ir.RoundRobin || b.SlowStart != nil {
		c.Balance = b
	}
}

func algorithm(a policy.Algorithm) ir.Algorithm {
	switch a {
	case policy.LeastRequest:
		return ir.LeastRequest
	case policy.Random:
		return ir.Random
	case policy.RingHash:
		return ir.RingHash
	case policy.Maglev:
		return ir.Maglev
	case policy.ReportedLoad:
		return ir.ReportedLoad
	case policy.RoundRobin:
	}
	return ir.RoundRobin
}

func hashOn(h policy.HashOn) ir.HashOn {
	out := ir.HashOn{Header: strings.ToLower(h.Header), Query: h.Query, ForwardedFor: h.ClientAddress}
	if h.Cookie != nil {
		out.Cookie = cookieOf(*h.Cookie)
	}
	return out
}
