package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

const allowAll = `
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-calls-pay, namespace: shop}
spec:
  targetRef: {kind: Service, name: pay}
  action: Allow
  rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]
`

func payService(port int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{port: 8080, targetPort: %d, appProtocol: http}]}
`, port)
}

const payHost = "pay.shop.svc.clusterset.local:8080"

// A zone that has never heard of a global serves its own workloads, from its disk too.
func TestAZoneAlone(t *testing.T) {
	z := startZone(t, "alone")
	port := app(t, "pay")
	z.apply(payService(port))
	z.workload("pay")
	web := z.workload("web")
	web.answers(payHost, 403) // deny by default
	z.apply(allowAll)
	body := web.answers(payHost, 200)
	if want := "URI=" + z.trustDomain.WorkloadID("shop", "web"); !strings.Contains(body, want) {
		t.Fatalf("the server saw %q, not %s", body, want)
	}

	z.kill() // the Envoys go on with what they have
	if status, _, err := web.call(payHost); err != nil || status != 200 {
		t.Fatalf("without the control plane: %d, %v", status, err)
	}
	z.run()
	web.answers(payHost, 200)
	other := z.workload("web2") // a new workload is admitted after the restart
	other.answers(payHost, 403)
}

// A workload whose machine dies is shown UNHEALTHY, then missed, then forgotten; one that comes back under the same
// name is the same.
func TestDeadWorkload(t *testing.T) {
	z := startZone(t, "mortal", map[string]any{"lease": "4s", "forgetAfter": "3s"})
	port := app(t, "pay")
	z.apply(payService(port) + "---" + allowAll)
	pay := z.workload("pay")
	web := z.workload("web")
	web.answers(payHost, 200)
	status := func() (mesh.ProxyStatus, error) {
		list, err := z.Proxies(ctxOf(t), z.name)
		if err != nil {
			return mesh.ProxyStatus{}, err
		}
		i := slices.IndexFunc(list, func(s mesh.ProxyStatus) bool { return s.Proxy.Name == "pay" })
		if i < 0 {
			return mesh.ProxyStatus{}, errors.New("it is not listed")
		}
		return list[i], nil
	}
	await(t, "pay is healthy", func() error {
		s, err := status()
		if err == nil && (!s.Healthy || !s.Connected) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	pay.kill()
	await(t, "pay is unhealthy", func() error {
		s, err := status()
		if err == nil && s.Healthy {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	await(t, "pay is missed: its lease ran out and it did not leave", func() error {
		s, err := status()
		if err == nil && !strings.HasPrefix(s.LastError, "lost") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	await(t, "pay is forgotten", func() error {
		if s, err := status(); err == nil {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	web.answers(payHost, 503)
	z.workload("pay")
	web.answers(payHost, 200)
}
