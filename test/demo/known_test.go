package demo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWhatIsKnown: what the CLI says of a live mesh is so. A service that may not call another is named for that, and not who passes its errors on; of a
// zone that is dead nothing is said to be well, and no service is blamed for it.
func TestWhatIsKnown(t *testing.T) {
	d := start(t)
	ask := func(args ...string) string {
		cmd := comity(t.Context(), args...)
		cmd.Env = append(os.Environ(), "COMITY_CONFIG="+filepath.Join(d.dir, "comity.yaml"))
		out, _ := cmd.CombinedOutput()                        // check ends with 7 where it finds something
		return strings.Join(strings.Fields(string(out)), " ") // columns are as wide as their widest word
	}
	says := func(what string, words []string, args ...string) {
		t.Helper()
		out := ""
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("comity %s said at last:\n%s", strings.Join(args, " "), out)
			}
		})
		await(t, time.Minute, what, func() bool {
			out = ask(args...)
			for _, w := range words {
				if !strings.Contains(out, w) {
					return false
				}
			}
			return true
		})
	}
	file := filepath.Join(t.TempDir(), "deny.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: not-cart, namespace: shop}
spec: {targetRef: {kind: Service, name: pay}, action: Deny, rules: [{from: [{namespaces: [shop], serviceAccounts: [cart, webb]}]}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := ask("apply", "-f", file); !strings.Contains(out, `no service account "webb" is known in namespace shop of any zone; did you mean "web"?`) {
		t.Errorf("a typo is taken without a word: %s", out)
	}
	says("the missing permission to be found", []string{"✗ failing/shop/cart", "because of refused/shop/pay", "· failing/shop/web", "because of failing/shop/cart"}, "check", "--short")
	ask("delete", "authorizationpolicy/not-cart", "-n", "shop", "--wait")

	d.order(t, "break", "onprem")
	unknown := "Unknown (zone onprem not heard of for"
	says("proxies to be unknown", []string{"shop/pay-o1 " + unknown, "shop/ledger-o1 " + unknown}, "get", "proxies")
	says("workloads to be unknown", []string{unknown}, "get", "workloads")
	says("policies to be unknown there", []string{"Programmed; zone onprem not heard of for"}, "get", "authorizationpolicies")
	says("the zone to be named", []string{"✗ away/onprem", "· failover/shop/ledger/FailedOver", "because of away/onprem"}, "check", "--short")
	if out := ask("get", "proxies"); !strings.Contains(out, "shop/cart-g1 Healthy") {
		t.Errorf("others are as well as they were: %s", out)
	}
}
