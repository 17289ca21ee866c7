package topology

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

type listenerKey struct {
	gateway mesh.Key
	name    gatewayv1.SectionName
}

// listenerWord is what the ingresses say of a listener.
type listenerWord struct {
	served  bool             // by one at least
	refused []mesh.Condition // by others, or with something missing
}

func (w *listenerWord) refuse(kind gatewayv1.ListenerConditionType, reason gatewayv1.ListenerConditionReason, message string) {
	w.refused = append(w.refused, mesh.Condition{Type: string(kind), Status: "False", Reason: string(reason), Message: message})
}

func (e *edge) word(gw gateway, l gatewayv1.Listener) *listenerWord {
	k := listenerKey{gw.res.Key, l.Name}
	if e.said[k] == nil {
		e.said[k] = &listenerWord{}
	}
	return e.said[k]
}

// checkSecrets says which secrets of a listener the ingress does not have, or has expired.
func (e *edge) checkSecrets(gw gateway, l gatewayv1.Listener) {
	if l.TLS == nil {
		return
	}
	check := func(prefix string, n SecretName, reason gatewayv1.ListenerConditionReason) {
		why := e.ingress.Secrets[prefix+n.String()]
		if why == "" {
			return
		}
		e.word(gw, l).refuse(gatewayv1.ListenerConditionResolvedRefs, reason, fmt.Sprintf("secret %s at ingress %s: %s", n, e.ingress.Name, why))
		e.b.issue(gw.res.Key, "listener %s: secret %s at ingress %s: %s (%s)", l.Name, n, e.ingress.Name, why, reason)
	}
	names, _ := e.b.t.certificates(gw, l)
	for _, n := range names {
		check(CertificatePrefix, n, gatewayv1.ListenerReasonInvalidCertificateRef)
	}
	if c := gw.clients(l.Port); c != nil && len(l.TLS.CertificateRefs) > 0 {
		check(AuthorityPrefix, c.Authorities, gatewayv1.ListenerReasonInvalidCACertificateRef)
	}
}

// listenerStatuses joins what the ingresses say. A listener that one of them serves is programmed.
func listenerStatuses(gateways []gateway, routes []policy.Route, streams []streamRoute, said map[listenerKey]*listenerWord) map[mesh.Key][]mesh.ListenerStatus {
	out := map[mesh.Key][]mesh.ListenerStatus{}
	for _, gw := range gateways {
		for _, l := range gw.spec.Listeners {
			w := said[listenerKey{gw.res.Key, l.Name}]
			if w == nil {
				w = &listenerWord{}
			}
			s := mesh.ListenerStatus{Name: string(l.Name), SupportedKinds: supportedKinds(l), AttachedRoutes: attachedTo(taken{gw, l}, routes, streams)}
			accepted := condition(gatewayv1.ListenerConditionAccepted, gatewayv1.ListenerReasonAccepted)
			resolved := condition(gatewayv1.ListenerConditionResolvedRefs, gatewayv1.ListenerReasonResolvedRefs)
			programmed := condition(gatewayv1.ListenerConditionProgrammed, gatewayv1.ListenerReasonProgrammed)
			if !w.served {
				programmed.Status, programmed.Reason = "False", string(gatewayv1.ListenerReasonPending)
			}
			var conflicted []mesh.Condition
			for _, r := range w.refused {
				switch gatewayv1.ListenerConditionType(r.Type) {
				case gatewayv1.ListenerConditionResolvedRefs:
					resolved = joined(resolved, r)
					if !w.served {
						programmed.Reason = string(gatewayv1.ListenerReasonInvalid)
					}
				case gatewayv1.ListenerConditionConflicted:
					r.Status = "True"
					conflicted = []mesh.Condition{r}
					if !w.served {
						programmed.Reason = string(gatewayv1.ListenerReasonInvalid)
					}
				default:
					if !w.served {
						accepted = joined(accepted, r)
						programmed.Reason = string(gatewayv1.ListenerReasonInvalid)
					}
				}
			}
			s.Conditions = append([]mesh.Condition{accepted, resolved, programmed}, conflicted...)
			out[gw.res.Key] = append(out[gw.res.Key], s)
		}
	}
	return out
}

// condition is one that is as it should be.
func condition[T, R ~string](kind T, reason R) mesh.Condition {
	return mesh.Condition{Type: string(kind), Status: "True", Reason: string(reason)}
}

// joined is the condition with what else is said against it.
func joined(c, against mesh.Condition) mesh.Condition {
	if c.Status == "False" && !strings.Contains(c.Message, against.Message) {
		against.Message = c.Message + "; " + against.Message
	}
	return against
}

// attachedTo counts the routes that a listener takes.
func attachedTo(x taken, routes []policy.Route, streams []streamRoute) int {
	own, n := policy.ListenerHost(x.l), 0
	for _, r := range routes {
		if x.takes(r.Resource, r.Spec.ParentRefs) && len(policy.CommonHosts(own, r.Spec.Hostnames)) > 0 {
			n++
		}
	}
	for _, s := range streams {
		if x.takes(s.res, s.parents) && len(policy.CommonHosts(own, s.hosts)) > 0 {
			n++
		}
	}
	return n
}
