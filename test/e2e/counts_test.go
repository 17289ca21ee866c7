package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// The counts are those of proxies: of a revision the distinct ones that it changed, of a resource those that
// run it, as they come and go.
func TestCounts(t *testing.T) {
	global := startGlobal(t)
	east := startZone(t, "east")
	port := app(t, "pay")
	global.apply(payService(port) + "---" + allowAll)
	east.joins(global, "shop")
	counts := func(path string, acked, total int) {
		t.Helper()
		await(t, fmt.Sprintf("%s is at %d/%d", path, acked, total), func() error {
			var o struct {
				Status client.ResourceObjectStatus `json:"status"`
			}
			err := global.Fetch(ctxOf(t), path, &o)
			if s := o.Status; err == nil && (s.Acked != acked || s.Total != total || len(s.Zones) != 1 || s.Zones[0].State != mesh.StateApplied) {
				err = fmt.Errorf("%d/%d, %+v", s.Acked, s.Total, s.Zones)
			}
			return err
		})
	}
	const service, permission = "/namespaces/shop/services/pay", "/namespaces/shop/authorizationpolicies/web-calls-pay"
	counts(permission, 0, 0)
	east.workload("pay")
	web := east.workload("web")
	counts(permission, 1, 1) // both came after it was applied
	counts(service, 2, 2)

	reaches := func(what string, revision mesh.Revision, total int) {
		t.Helper()
		var last client.Progress
		if err := global.Follow(ctxOf(t), revision, func(p client.Progress) bool { last = p; return p.Done }); err != nil {
			t.Fatal(err)
		}
		if last.Acked != total || last.Total != total {
			t.Errorf("%s: %d/%d proxies, want %d/%d: %+v", what, last.Acked, last.Total, total, total, last)
		}
	}
	permit := func(name, account string) string {
		return strings.NewReplacer("web-calls-pay", name, "serviceAccounts: [web]", "serviceAccounts: [web, "+account+"]").Replace(allowAll)
	}
	reaches("a change", global.apply(permit("web-calls-pay", "a")), 1)
	reaches("a batch for one", global.apply(permit("web-calls-pay", "b")+"---"+permit("also", "c")+"---"+permit("too", "d")), 1)
	more := strings.Replace(payService(port), "ports: [", fmt.Sprintf("ports: [{port: 8081, name: more, targetPort: %d, appProtocol: http}, ", port), 1)
	more = strings.Replace(more, "{port: 8080,", "{port: 8080, name: main,", 1)
	reaches("a batch for both", global.apply(more+"---"+permit("also", "e")), 2)
	reaches("a service that both learn of", global.apply(strings.ReplaceAll(payService(port), "pay", "nobody")+"---"+strings.ReplaceAll(permit("x", "y"), "name: pay}", "name: nobody}")), 2)
	counts(permission, 1, 1)
	counts(service, 2, 2)

	kind, _ := policy.Lookup("authorizationpolicies")
	for _, name := range []string{"also", "too"} {
		revision, err := global.Delete(ctxOf(t), kind, "shop", name)
		if err != nil {
			t.Fatal(err)
		}
		reaches("the deletion of "+name, revision, 1)
	}

	web.kill()
	counts(service, 1, 1)
	east.kill()
	restarted := time.Now()
	east.run()
	await(t, "east is back", func() error {
		if s := zoneStatus(t, global, "east"); !s.Connected || s.ConnectedSince.Before(restarted) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	// What global counts may be of before: the zone itself knows who has come back.
	await(t, "pay is back", func() error {
		list, err := east.Proxies(ctxOf(t), east.name)
		if i := slices.IndexFunc(list, func(p mesh.ProxyStatus) bool { return p.Proxy.Name == "pay" }); err == nil && (i < 0 || !list[i].Connected || list[i].Since.Before(restarted)) {
			err = fmt.Errorf("%+v", list)
		}
		return err
	})
	counts(service, 1, 1)
	reaches("a change after a restart", global.apply(permit("web-calls-pay", "f")), 1)
}
