package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

const exportPay = `
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: pay, namespace: shop}
`

// Two zones joined by a global: requests cross, permissions arrive, and nobody needs global for what
// goes on.
func TestTwoZones(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	port := app(t, "pay")
	global.apply(payService(port) + "---" + exportPay)
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	west.workload("pay")
	web := east.workload("web")
	web.answers(payHost, 403) // it crosses, and is refused there: deny by default

	began := time.Now()
	revision := global.apply(allowAll)
	body := web.answers(payHost, 200)
	t.Logf("permission from global in force across zones after %s", time.Since(began))
	if want := "URI=" + east.trustDomain.WorkloadID("shop", "web"); !strings.Contains(body, want) {
		t.Fatalf("the server saw %q, not %s", body, want)
	}
	followed(t, global, revision)

	// A change is known to be everywhere as soon as it is.
	var took []time.Duration
	for i := range 10 {
		began := time.Now()
		followed(t, global, global.apply(strings.Replace(allowAll, "serviceAccounts: [web]", fmt.Sprintf("serviceAccounts: [web, w%d]", i), 1)))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("apply to the word of the last Envoy: median %s, worst %s", took[5], took[9])

	// Without global everything goes on, new workloads too.
	global.kill()
	west.apply(strings.ReplaceAll(allowAll, "web", "web2"))
	web2 := east.workload("web2")
	web2.answers(payHost, 200)
	restarted := time.Now()
	global.run()
	await(t, "both zones are back", func() error {
		for _, z := range []*zone{east, west} {
			if s := zoneStatus(t, global, z.name); !s.Connected || s.ConnectedSince.Before(restarted) {
				return fmt.Errorf("%s is not connected", z.name)
			}
		}
		return nil
	})
	for _, z := range []*zone{east, west} {
		if s := zoneStatus(t, global, z.name); s.SentBytes != 0 {
			t.Errorf("%s was sent %d bytes again", z.name, s.SentBytes)
		}
	}

	// A zone that dies and comes back knows the other from its own disk.
	global.kill()
	east.kill()
	if status, _, err := web.call(payHost); err != nil || status != 200 {
		t.Fatalf("without control planes: %d, %v", status, err)
	}
	east.run()
	web.answers(payHost, 200)
	east.workload("web3").answers(payHost, 403)
}

// followed waits until a revision has reached every proxy that it concerns.
func followed(t *testing.T, at *controlPlane, revision mesh.Revision) {
	t.Helper()
	var last client.Progress
	if err := at.Follow(ctxOf(t), revision, func(p client.Progress) bool { last = p; return p.Done }); err != nil {
		t.Fatalf("follow revision %d: %v (last %+v)", revision, err, last)
	}
	if last.Total == 0 || last.Acked != last.Total {
		t.Fatalf("revision %d concerned no Envoy, or not all took it: %+v", revision, last)
	}
}

func zoneStatus(t *testing.T, global *controlPlane, name string) client.ZoneObjectStatus {
	t.Helper()
	var o struct {
		Status client.ZoneObjectStatus `json:"status"`
	}
	if err := global.Fetch(ctxOf(t), "/zones/"+name, &o); err != nil {
		t.Fatal(err)
	}
	return o.Status
}
