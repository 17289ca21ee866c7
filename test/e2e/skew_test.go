package e2e

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
)

// Zones whose clocks are up to five minutes off global's join, and are believed: control planes, agents and Envoys of a
// zone are 4 minutes ahead of the others, those of another 4 minutes behind. Certificates that the one makes are not
// valid yet, or expire early, by the clocks of those who must accept them.
func TestClockSkew(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skipf("the clock of a program is skewed in machine code for amd64, this is %s", runtime.GOARCH)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "skew"), "./skew").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	global := startGlobal(t)
	port := app(t, "pay")
	global.apply(payService(port) + "---" + exportPay + "---" + strings.ReplaceAll(allowAll, "[web]", "[pay]"))
	zones := map[string]*workload{}
	for name, skew := range map[string]time.Duration{"right": 0, "ahead": 4 * time.Minute, "behind": -4 * time.Minute} {
		z := newZone(t, nil, name)
		z.skew = skew
		z.run()
		z.joins(global, "shop")
		z.ingress("in1")
		zones[name] = z.workload("pay")
	}
	for _, other := range []string{"ahead", "behind"} {
		zones["right"].answers("pay.shop."+other+".mesh:8080", 200)
		zones[other].answers("pay.shop.right.mesh:8080", 200)
	}

	for name, w := range zones {
		near(t, "zone-cp of "+name, w.zone.skew, http.DefaultClient, "http://"+w.zone.api+"/healthz")
		near(t, "Envoy in "+name, w.zone.skew, w.http, "http://nobody.shop.svc.clusterset.local:8080/") // it answers itself
	}

	// Their own words about themselves are as far off, and no older for it.
	for name := range zones {
		if s := zoneStatus(t, global, name); !s.Connected {
			t.Errorf("%s is not connected: %+v", name, s)
		}
	}

	lost := newZone(t, nil, "lost")
	lost.skew = 10 * time.Minute
	lost.run()
	global.apply("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: lost}\nspec: {namespaces: [shop]}\n")
	token, err := global.CreateJoinToken(ctxOf(t), "lost", client.JoinTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lost.Join(ctxOf(t), client.JoinRequest{Token: token.Token}); err == nil {
		t.Error("a zone 10 minutes ahead joined")
	} else if !strings.Contains(err.Error(), "in the future") {
		t.Errorf("a zone 10 minutes ahead is not told why it can't join: %v", err)
	}
}

// near checks that who answers has a clock that is off by skew.
func near(t *testing.T, who string, skew time.Duration, c *http.Client, url string) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	at, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		t.Fatalf("%s: %v", who, err)
	}
	if off := time.Until(at); (off - skew).Abs() > 10*time.Second {
		t.Errorf("the clock of %s is off by %s, not %s", who, off, skew)
	}
}
