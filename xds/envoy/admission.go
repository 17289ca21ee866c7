package envoy

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	statslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/xds/ir"
)

// What an admission finds out of a connection, for its access log and the counters. Envoy's own authorization of connections is no
// help here: it acts on the first byte of the client, and many servers speak first.
const (
	callerState       = "comity.caller"
	decisionState     = "comity.decision"
	policyState       = "comity.policy"
	shadowState       = "comity.shadow"
	shadowPolicyState = "comity.shadow_policy"
	auditState        = "comity.audit"  // the first policy that notes the connection
	auditsState       = "comity.audits" // all of them, each with a comma after it

	allowed, denied = "allowed", "denied"

	// destinationState says where a cluster leads that has no endpoints of its own. Without it such a cluster leads nowhere.
	destinationState = "envoy.network.transport_socket.original_dst_address"

	// callerID is the first URI of the certificate: the one by whose trust domain it was verified.
	callerID = "connection.uri_san_peer_certificate"

	// statsLog counts what other logs write.
	statsLog = "envoy.access_loggers.stats"

	// maxExpression bounds one expression in characters; Envoy reads no longer ones than 100,000.
	maxExpression = 60_000
	// maxAdmission bounds all expressions of an admission, in bytes: Envoy keeps them compiled, and evaluates them for every connection.
	// 5,000 callers who are decided about and noted take 2 MiB.
	maxAdmission = 4 << 20
	// maxDecisionCounters bounds what the policies that came and went leave behind.
	maxDecisionCounters = 4096
)

// admissionMessage is a filter that notes who decided what in the state of a connection. What is said later overwrites what was said
// before, so it goes from all callers to single ones. An expression that fails yields "-", which lets nobody in.
func admissionMessage(b *messages, a ir.Admission) (proto.Message, error) {
	s := &states{relayed: a.To == nil}
	s.text(callerState, "%DOWNSTREAM_PEER_URI_SAN%")
	if v := a.Visitors; v != nil {
		s.visits(*v, a.Audits)
	} else {
		s.decide(a.Authorization.Callers, policyState, decisionState)
		if len(a.Authorization.Shadow) > 0 {
			s.decide(a.Authorization.Shadow, shadowPolicyState, shadowState)
		}
		s.note(a.Audits)
	}
	if a.To == nil {
		s.text(sourceState, "%DOWNSTREAM_REMOTE_ADDRESS%")
		s.values[len(s.values)-1].FactoryKey = sourceState
	} else {
		to := net.JoinHostPort(a.To.Address, strconv.Itoa(int(a.To.Port)))
		s.ask(destinationState, `filter_state["`+decisionState+`"] == b"`+allowed+`"`, to)
		s.values[len(s.values)-1].FactoryKey = destinationState
	}
	if s.bytes > maxAdmission {
		b.invalid = append(b.invalid, fmt.Errorf("the policies about %s name callers in %d bytes; at most %d are possible: name namespaces, or fewer", a.Name, s.bytes, maxAdmission))
	}
	return b.extension(a.Name, &setstatev3.Config{OnDownstreamTlsHandshake: s.values}), b.err
}

// states are said of a connection in their order.
type states struct {
	values []*filterstatev3.FilterStateValue
	bytes  int // of what they are made from
	// relayed ones go with the connection to the listener to which it is led inside of the Envoy.
	relayed bool
}

func (s *states) text(key, format string) {
	s.bytes += len(key) + len(format)
	shared := filterstatev3.FilterStateValue_NONE
	if s.relayed {
		shared = filterstatev3.FilterStateValue_ONCE
	}
	s.values = append(s.values, &filterstatev3.FilterStateValue{
		SharedWithUpstream: shared,
		Key:                &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:         "envoy.string",
		Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: format},
			}},
		}},
		SkipIfEmpty: true,
	})
}

// ask says a value where a condition is met, and leaves what was said before where it is not.
func (s *states) ask(key, condition, value string) {
	s.text(key, chosen(condition, value))
}

// chosen formats a value, or nothing where a condition is not met.
func chosen(condition, value string) string {
	return "%CEL(" + condition + " ? " + quoted(value) + ` : "")%`
}

// decide says which policy decides about the caller, and how.
func (s *states) decide(callers []ir.Caller, policyKey, decisionKey string) {
	say := func(condition, policy string, allow bool) {
		how := denied
		if allow {
			how = allowed
		}
		s.ask(policyKey, condition, policy)
		s.ask(decisionKey, condition, how)
	}
	say("true", NoIdentity, false)
	type verdict struct {
		policy string
		allow  bool
	}
	exact, order := map[verdict][]ir.Pattern{}, []verdict{}
	for _, c := range callers { // sorted, so that a prefix comes before what it covers
		v := verdict{c.Decisions[0].Policy, c.Decisions[0].Allow}
		if c.Identity.Prefix() {
			say(isOf([]ir.Pattern{c.Identity}), v.policy, v.allow)
			continue
		}
		if exact[v] == nil {
			order = append(order, v)
		}
		exact[v] = append(exact[v], c.Identity)
	}
	for _, v := range order {
		for _, some := range portions(exact[v]) {
			say(isOf(some), v.policy, v.allow)
		}
	}
	say(malformedCaller(), MalformedIdentity, false)
}

// malformedCaller is met by certificates with more than one URI, which together are longer than the first, and by those whose URI could be
// written in two ways: nobody is recognised by them.
func malformedCaller() string {
	return `!(size(filter_state["` + callerState + `"]) == size(` + callerID + `) && ` + callerID + `.matches(` + quoted("^"+canonicalID+"$") + `))`
}

// note says which audits a connection is about.
func (s *states) note(audits []ir.Audit) {
	var all []string
	for _, a := range audits {
		var of []ir.Pattern
		for _, c := range a.Callers {
			of = append(of, c.Identity)
		}
		for _, some := range portions(of) { // no caller is of two of them
			s.ask(auditState, isOf(some), a.Policy) // the first of the audits comes last
			all = append(all, chosen(isOf(some), a.Policy+","))
		}
	}
	if len(all) > 0 {
		slices.Reverse(all)
		s.text(auditsState, strings.Join(all, ""))
	}
}

// portions divides patterns among expressions of which none is too long.
func portions(patterns []ir.Pattern) [][]ir.Pattern {
	var out [][]ir.Pattern
	room := 0
	for _, p := range patterns {
		long := len(p) + len(callerID) + len(`.startsWith("") || `)
		if room -= long; room < 0 || out == nil {
			out, room = append(out, nil), maxExpression-long
		}
		out[len(out)-1] = append(out[len(out)-1], p)
	}
	return out
}

// isOf is met by the callers of any of the patterns.
func isOf(patterns []ir.Pattern) string {
	var ids, ways []string
	for _, p := range patterns {
		if p.Prefix() {
			ways = append(ways, callerID+".startsWith("+quoted(string(p))+")")
		} else {
			ids = append(ids, quoted(string(p)))
		}
	}
	if len(ids) > 0 {
		ways = append(ways, callerID+" in ["+strings.Join(ids, ", ")+"]")
	}
	return "(" + strings.Join(ways, " || ") + ")"
}

// quoted is a literal of Envoy's expressions.
func quoted(s string) string { return strconv.QuoteToASCII(s) }

// admit has a chain pass on only what its admission lets in. It is told when and where to connect by the filter before it.
func (b *messages) admit(m *tcpproxyv3.TcpProxy, admission string) *listenerv3.Filter {
	m.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	m.MaxEarlyDataBytes = u32(0)
	return &listenerv3.Filter{Name: admission, ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource: fromADS(), TypeUrls: []string{b.any(&setstatev3.Config{}).GetTypeUrl()},
	}}}
}

// countDecisions counts connections when they end, by what was decided about them. Envoy writes "-" for what was not.
func (b *messages) countDecisions() *accesslogv3.AccessLog {
	count := func(name string, tags ...[2]string) *statslogv3.Config_Counter {
		stat := &statslogv3.Config_Stat{Name: name}
		for _, t := range tags {
			stat.Tags = append(stat.Tags, &statslogv3.Config_Tag{Name: t[0], ValueFormat: stateOf(t[1])})
		}
		return &statslogv3.Config_Counter{Stat: stat, ValueFixed: wrapperspb.UInt64(1)}
	}
	return &accesslogv3.AccessLog{Name: statsLog, Filter: connected(true), ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&statslogv3.Config{
		StatsScope: &typev3.Scope{Prefix: "comity", MaxCounters: u32(maxDecisionCounters)},
		Counters: []*statslogv3.Config_Counter{
			count("authorization", [2]string{"policy", policyState}, [2]string{"decision", decisionState}),
			count("authorization_shadow", [2]string{"policy", shadowPolicyState}, [2]string{"decision", shadowState}),
			count("authorization_audit", [2]string{"policies", auditsState}),
		},
	})}}
}

// stateOf formats what was said of a connection.
func stateOf(key string) string { return "%FILTER_STATE(" + key + ":PLAIN)%" }

// chosenCluster leads where the state of a connection says, and nowhere without that.
func chosenCluster(m *clusterv3.Cluster) {
	m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
	m.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
}
