package envoy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAdmission: who may connect to a port of bytes is decided before the application hears of it, and log and counters say by whom, with
// a server that speaks first.
func TestAdmission(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(t.TempDir(), "access.log")
	config := fmt.Sprintf("kind: MeshConfig\nmetadata: {name: default}\nspec: {accessLog: {path: %s}}\n---", log)
	w.apply(t, config)
	pay := w.sidecar(t, "pay-1")
	listeners := func() int {
		return pay.stat(t, "listener_manager.listener_in_place_updated") + pay.stat(t, "listener_manager.listener_modified")
	}
	changed := listeners()
	live, app, err := w.dialTCP(t, "web", "pay")
	if err != nil || app != "pay-1" {
		t.Fatalf("everybody may call: %q, %v", app, err)
	}

	var lines []map[string]any // that must be in the log; Envoy writes it every 10 s
	const web = "spiffe://one.example/ns/shop/sa/web"
	deny := func(name, mode, rules string) string {
		return fmt.Sprintf("\nkind: AuthorizationPolicy\nmetadata: {name: %s}\nspec: {targetRef: {kind: Service, name: pay, sectionName: raw}, action: Deny, mode: %s, rules: %s}\n", name, mode, rules)
	}
	for _, c := range []struct {
		name, yaml string
		refused    bool
		counters   []string
		logged     map[string]any
	}{
		{
			name: "a denial names its rule", refused: true,
			yaml:     deny("not-web", "Enforce", `[{from: [{namespaces: [shop], serviceAccounts: [web]}]}]`),
			counters: []string{"comity.authorization.policy.global/shop/not-web.decision.denied"},
			logged:   map[string]any{"decision": "denied", "policy": "global/shop/not-web", "caller": web, "upstream": nil},
		},
		{
			name: "a prefix is denied", refused: true,
			yaml:     deny("not-shop", "Enforce", `[{from: [{identities: ["spiffe://one.example/ns/shop/"]}]}]`),
			counters: []string{"comity.authorization.policy.global/shop/not-shop.decision.denied"},
			logged:   map[string]any{"decision": "denied", "policy": "global/shop/not-shop"},
		},
		{
			name: "what looks at requests denies all of them", refused: true,
			yaml:     deny("no-post", "Enforce", `[{to: [{methods: [POST]}]}]`),
			counters: []string{"comity.authorization.policy.global/shop/no-post.decision.denied"},
			logged:   map[string]any{"decision": "denied", "policy": "global/shop/no-post"},
		},
		{
			name: "others are denied",
			yaml: deny("not-guest", "Enforce", `[{from: [{namespaces: [shop], serviceAccounts: [guest]}]}]`),
			counters: []string{
				"comity.authorization.policy.global/shop/everybody-may.decision.allowed",
			},
			logged: map[string]any{"decision": "allowed", "policy": "global/shop/everybody-may", "caller": web},
		},
		{
			name: "shadow changes nothing and says what would be",
			yaml: deny("would-deny", "Shadow", `[{from: [{zones: [one]}]}]`),
			counters: []string{
				"comity.authorization.policy.global/shop/everybody-may.decision.allowed",
				"comity.authorization_shadow.policy.global/shop/would-deny.decision.denied",
			},
			logged: map[string]any{"decision": "allowed", "shadow": "denied", "shadowPolicy": "global/shop/would-deny"},
		},
		{
			name: "audits note, each of them",
			yaml: `
kind: AuthorizationPolicy
metadata: {name: watch-all}
spec: {action: Audit}
---
kind: AuthorizationPolicy
metadata: {name: watch-web}
spec: {targetRef: {kind: Service, name: pay}, action: Audit, rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: watch-zone-two}
spec: {action: Audit, rules: [{from: [{zones: [two]}]}]}
`,
			counters: []string{"comity.authorization_audit.policies.global/shop/watch-all,global/shop/watch-web,"},
			logged:   map[string]any{"decision": "allowed", "audit": "global/shop/watch-all"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.apply(t, config+c.yaml)
			before := map[string]int{}
			for _, name := range c.counters {
				before[name] = pay.stat(t, name)
			}
			heard := w.apps["pay-1"].connections.Load()
			conn, app, err := w.dialTCP(t, "web", "pay")
			switch {
			case c.refused && (err == nil || app != ""):
				t.Errorf("it was greeted: %q, %v", app, err)
			case !c.refused && app != "pay-1":
				t.Errorf("it was refused: %q, %v", app, err)
			case c.refused && w.apps["pay-1"].connections.Load() != heard:
				t.Error("the application heard of it")
			}
			_ = conn.Close()
			eventually(t, "count it", func() error {
				for _, name := range c.counters {
					if got := pay.stat(t, name); got != before[name]+1 {
						return fmt.Errorf("%s is %d, not one more than %d", name, got, before[name])
					}
				}
				return nil
			})
			c.logged["reporter"] = "server"
			lines = append(lines, c.logged)
		})
	}
	_ = live.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(live, "still here"); err != nil {
		t.Error(err)
	}
	if s, err := readLine(live); err != nil || s != "still here\n" {
		t.Errorf("a policy cut a live connection: %q, %v", s, err)
	}
	if n := listeners(); n != changed {
		t.Error("a policy changed a listener")
	}
	eventually(t, "log them", func() error {
		var missing []error
		for _, fields := range lines {
			missing = append(missing, logged(log, fields))
		}
		return errors.Join(missing...)
	})
}

// logged looks for a line of an access log with the fields.
func logged(file string, fields map[string]any) error {
	out, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		var got map[string]any
		if json.Unmarshal([]byte(line), &got) != nil {
			continue
		}
		same := true
		for k, v := range fields {
			same = same && got[k] == v
		}
		if same {
			return nil
		}
	}
	return fmt.Errorf("no line with %v in\n%s", fields, out)
}
