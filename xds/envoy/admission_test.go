package envoy

import (
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// TestManyCallers: no expression is longer than Envoy reads, and each caller is in one, however many there are.
func TestManyCallers(t *testing.T) {
	var callers []ir.Caller
	for i := range 5_000 {
		callers = append(callers, ir.Caller{
			Identity:  ir.Pattern(fmt.Sprintf("spiffe://one.example/ns/%s/sa/caller-%d", strings.Repeat("n", 60), i)),
			Decisions: []ir.Decision{{Policy: "global/shop/many", Allow: true}},
		})
	}
	callers = append(callers, ir.Caller{Identity: "spiffe://one.example/ns/long/sa/" + ir.Pattern(strings.Repeat("x", 2000)), Decisions: []ir.Decision{{Policy: "global/shop/many", Allow: true}}})
	b := &messages{}
	admission := ir.Admission{Name: "a", To: &ir.HostPort{Address: "::1", Port: 7070}, Authorization: ir.Authorization{Callers: callers}, Audits: []ir.Audit{{Policy: "global/shop/watch", Callers: callers}}}
	m, err := admissionMessage(b, admission)
	if err != nil {
		t.Fatal(err)
	}
	built, err := m.(*corev3.TypedExtensionConfig).GetTypedConfig().UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	for _, v := range built.(*setstatev3.Config).GetOnDownstreamTlsHandshake() {
		text := v.GetFormatString().GetTextFormatSource().GetInlineString()
		for expression := range strings.SplitSeq(text, "%CEL(") {
			if len(expression) > 100_000 {
				t.Errorf("%s: an expression of %d characters", v.GetObjectKey(), len(expression))
			}
			said[v.GetObjectKey()] += strings.Count(expression, "/sa/caller-")
		}
	}
	for _, key := range []string{policyState, decisionState, auditState, auditsState} {
		if said[key] != 5_000 {
			t.Errorf("%s is said of %d callers", key, said[key])
		}
	}
}

// TestTooManyCallers: what a port has to say of callers is bounded in bytes, whatever they are called; what is more is not sent.
func TestTooManyCallers(t *testing.T) {
	admission := func(n int) ir.Proxy {
		var callers []ir.Caller
		for i := range n {
			callers = append(callers, ir.Caller{
				Identity:  ir.Pattern(fmt.Sprintf("spiffe://one.example/ns/shop/sa/%s-%d", strings.Repeat("x", 1500), i)),
				Decisions: []ir.Decision{{Policy: "global/shop/many", Allow: true}},
			})
		}
		return ir.Proxy{Admissions: []ir.Admission{{Name: "a", To: &ir.HostPort{Address: "::1", Port: 7070}, Audits: []ir.Audit{{Policy: "global/shop/watch", Callers: callers}}}}}
	}
	for n, most := range map[int]int{1_000: 0, 2_000: 1} {
		c := NewCache()
		list, err := c.Build(admission(n))
		if err != nil {
			t.Fatal(err)
		}
		bad := c.Validate(list)
		if len(bad) != most || most > 0 && !strings.Contains(bad[0].Err.Error(), "at most 4194304") {
			t.Errorf("%d callers: %v", n, bad)
		}
	}
}
