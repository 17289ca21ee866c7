package envoy

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/internal/signals"
)

// decisions are what proxies tell Prometheus of what policies decided, as "policy action mode".
func (w *world) decisions(t *testing.T, proxies ...string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, name := range proxies {
		for _, m := range scrape(t, w.exporter(t, name, ""))[signals.Authorization].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out[strings.Join([]string{labels[signals.Policy], labels[signals.Action], labels[signals.Mode]}, " ")] += int(m.GetCounter().GetValue())
		}
	}
	return out
}

// TestDecisions: one metric counts what each policy decided, would have decided or noted, of requests and of connections.
func TestDecisions(t *testing.T) {
	w := newWorld(t)
	w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: no-delete}
spec: {mode: Shadow, action: Deny, rules: [{to: [{methods: [DELETE], ports: [80]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: watch-all}
spec: {action: Audit}
---
kind: AuthorizationPolicy
metadata: {name: watch-web}
spec: {action: Audit, rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: no-put}
spec: {action: Deny, rules: [{to: [{methods: [PUT], ports: [80]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: no-bytes}
spec: {targetRef: {kind: Service, name: pay, sectionName: raw}, mode: Shadow, action: Deny}
`)
	for method, status := range map[string]int{"GET": 200, "DELETE": 200, "PUT": 403} {
		if r := w.call(t, call{method: method}); r.status != status {
			t.Errorf("%s: %d", method, r.status)
		}
	}
	c, _, err := w.dialTCP(t, "web", "pay")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	want := map[string]int{
		"global/shop/everybody-may allow enforce": 3, "global/shop/everybody-may allow shadow": 1, "global/shop/no-put deny enforce": 1,
		"global/shop/no-put deny shadow": 1, "global/shop/no-delete deny shadow": 1, "global/shop/no-bytes deny shadow": 1,
		"global/shop/watch-all audit enforce": 4, "global/shop/watch-web audit enforce": 4,
	}
	eventually(t, "count", func() error {
		if got := w.decisions(t, "echo-1", "echo-2", "pay-1"); !maps.Equal(got, want) {
			return fmt.Errorf("%v, not %v", got, want)
		}
		return nil
	})
	w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: no-web}
spec: {targetRef: {kind: Service, name: pay, sectionName: raw}, action: Deny}
`)
	if _, app, err := w.dialTCP(t, "web", "pay"); err == nil {
		t.Errorf("greeted by %s", app)
	}
	eventually(t, "count what is denied on a TCP port", func() error {
		if got := w.decisions(t, "pay-1")["global/shop/no-web deny enforce"]; got == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
}
