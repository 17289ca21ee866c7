package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// patch is an Extension that changes the route table of what applications call.
func patch(merge string) string {
	return fmt.Sprintf(`
apiVersion: mesh.comity.dev/v1alpha1
kind: Extension
metadata: {name: by-hand, namespace: comity-system}
spec: {patch: {resource: RouteConfiguration, name: outbound, merge: %s}}
`, merge)
}

const (
	twiceADomain = `{virtual_hosts: [{name: more, domains: ["pay.shop.svc.clusterset.local:8080"], routes: [{match: {prefix: /}, direct_response: {status: 418}}]}]}`
	neverEnds    = `{typed_per_filter_config: {lua: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute, source_code: {inline_string: "while true do end"}}}}`
	addsAHost    = `{virtual_hosts: [{name: more, domains: ["teapot.example"], routes: [{match: {prefix: /}, direct_response: {status: 418}}]}]}`
)

var rejected = regexp.MustCompile(`(?m)^\S*update_rejected: [1-9].*$`)

// TestPatches: who applies a patch at a zone is told what its Envoys say; one that comes from global is tried before it goes out. Neither one that is
// wrong nor one that would keep an Envoy from ever reading on gets to a running Envoy, though the agent that is asked is killed over it.
func TestPatches(t *testing.T) {
	global := startGlobal(t)
	east := startZone(t, "east")
	global.apply(payService(app(t, "pay")) + "---" + allowAll)
	east.joins(global, "shop")
	pay, web := east.workload("pay"), east.workload("web")
	web.answers(payHost, 200)

	extension, _ := policy.Lookup("extensions")
	status := func() (mesh.ResourceStatus, error) {
		var s client.ResourceObjectStatus
		o, err := global.Get(ctxOf(t), extension, policy.SystemNamespace, "by-hand", "")
		if err == nil {
			err = json.Unmarshal(o.Status, &s)
		}
		if err == nil && len(s.Zones) != 1 {
			err = fmt.Errorf("%+v", s)
		}
		if err != nil {
			return mesh.ResourceStatus{}, err
		}
		return s.Zones[0], nil
	}
	refused := func(reason string) {
		t.Helper()
		await(t, "it is refused: "+reason, func() error {
			s, err := status()
			if err == nil && (s.State != mesh.StateRejected || !strings.HasPrefix(s.Message, "risk: ") || len(s.Rejections) == 0 || !strings.Contains(s.Rejections[0].Error, reason)) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
	unharmed := func() {
		t.Helper()
		if code, body, err := web.call(payHost); err != nil || code != 200 {
			t.Errorf("%d, %s, %v", code, body, err)
		}
		for _, name := range []string{"pay", "web"} {
			stats, err := east.Inspect(ctxOf(t), "east", mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: name}, "stats")
			if err != nil {
				t.Fatal(err)
			}
			if bad := rejected.FindString(string(stats)); bad != "" {
				t.Errorf("the Envoy of %s: %s", name, bad)
			}
		}
	}

	for _, dry := range []bool{true, false} {
		_, err := east.Apply(ctxOf(t), []byte(patch(twiceADomain)), client.ApplyOptions{DryRun: dry})
		if err == nil || !strings.Contains(err.Error(), "pay.shop.svc.clusterset.local") || !strings.Contains(err.Error(), "merge") {
			t.Errorf("applied at the zone, dry run %t: %v", dry, err)
		}
	}
	unharmed()

	global.apply(patch(twiceADomain))
	refused("not sent: ")
	unharmed()

	global.applyEverywhere(patch(addsAHost))
	web.answers("teapot.example", 418)

	global.apply(patch(neverEnds))
	await(t, "an Envoy reads it", func() error {
		s, err := status()
		if err == nil && s.Acked != 0 {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	pay.kill()
	pay.begin()
	refused("did not come to an end")
	unharmed()
	web.answers("teapot.example", 418) // the last good one
}
