package envoy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestExitZones: what lets only another zone in is reached through that zone's egress, who decides there by the caller's identity; and
// through the next zone that is named where that one can't be used.
func TestExitZones(t *testing.T) {
	ca := newPublicCA(t)
	w := newWorld(t)
	partner := startOutsider(t, "partner", w.host(), 0, ca.issue(t, "api.partner.example"))
	raw := tcpApp(t)
	w.names.set("api.partner.example", partner.host)
	w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Kind == mesh.KindAuthorizationPolicy })
	localPort := w.port()
	for i := range w.zones[0].Workloads {
		if wl := &w.zones[0].Workloads[i]; wl.Name == "web" {
			wl.Spec.Upstreams = append(wl.Spec.Upstreams, policy.Upstream{Kind: mesh.KindExternalService, Service: "feed", Port: 5672, LocalPort: localPort})
		}
	}
	w.zones[0].Egresses = []topology.EgressProxy{w.egress("near")}
	w.zones[1].Egresses = []topology.EgressProxy{w.egress("far-1"), w.egress("far-2")}
	services := func(zones string) string {
		return fmt.Sprintf(`
kind: MeshConfig
metadata: {name: default}
spec: {explainRefusals: true}
---
kind: ExternalService
metadata: {name: partner}
spec:
  hosts: [api.partner.example]
  ports: [{name: web, port: 80, targetPort: %d, protocol: http, tls: {ca: {pem: %s}}}]
  exit: {zones: %[3]s}
---
kind: ExternalService
metadata: {name: feed}
spec: {hosts: [feed.example], ports: [{port: 5672, targetPort: %[4]d, protocol: tcp}], endpoints: [{address: 127.0.0.1}], exit: {zones: %[3]s}}
`, partner.port, quoted(ca.pem()), zones, raw)
	}
	may := exitRule("web-may-partner", "partner", "Allow", "web", ", to: [{methods: [GET]}]") + exitRule("web-may-feed", "feed", "Allow", "web", "")
	const host = "api.partner.example"
	// leavesBy waits until requests leave by one of the proxies, and counts none as failed on the way.
	leavesBy := func(t *testing.T, proxies ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("leave by %v", proxies), func() error {
			r, err := w.try(t, call{to: host})
			if err != nil {
				return err
			}
			if r.status != http.StatusOK {
				return fmt.Errorf("%d %s", r.status, r.body)
			}
			partner.mu.Lock()
			last := partner.from[len(partner.from)-1]
			partner.mu.Unlock()
			if who := w.ownerOf(t, last); !slices.Contains(proxies, who) {
				return fmt.Errorf("it left by %q", who)
			}
			return nil
		})
	}
	far := []string{"egress~~far-1", "egress~~far-2"}

	w.apply(t, services("[two, one]")+may)
	leavesBy(t, far...)
	if line, err := readLine(dial(t, local(localPort))); err != nil || line != "secret banner\n" {
		t.Errorf("%q %v", line, err)
	}

	t.Run("who may is decided there", func(t *testing.T) {
		asked := len(partner.callers())
		for _, c := range []call{{to: host, method: http.MethodDelete}, {from: "echo-1", to: host}} {
			if err := (want{status: http.StatusForbidden, body: []string{translate.DefaultDenyName, "spiffe://one.example/ns/shop/sa/"}}).check(w.call(t, c)); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
		w.apply(t, services("[two, one]")+may+exitRule("web-not-feed", "feed", "Deny", "web", ""))
		if line, err := readLine(dial(t, local(localPort))); err == nil {
			t.Errorf("denied, but: %q", line)
		}
		denied := 0
		for _, name := range []string{"far-1", "far-2"} {
			denied += w.sidecar(t, name).stat(t, "comity.authorization.policy.global/shop/web-not-feed.decision.denied")
		}
		if denied != 1 || len(partner.callers()) != asked {
			t.Errorf("%d denials are counted, %d requests arrived", denied, len(partner.callers())-asked)
		}
	})

	t.Run("for the hosts that are declared", func(t *testing.T) {
		web, other := w.zones[0].authority.issue(t, "/ns/shop/sa/web"), w.zones[0].authority.issue(t, "/ns/shop/sa/echo-1")
		egress := w.zones[1].Egresses[0]
		at, name := fmt.Sprintf("%s:%d", egress.BindAddress, egress.BindPorts[0]), mesh.ServicePort{Zone: "two", Namespace: "shop", Service: "partner", Port: 80}.EgressSNI("one")
		asked := len(partner.callers())
		for _, c := range []struct {
			cert   certificate
			host   string
			status int
			says   string
		}{
			{&web, host, http.StatusOK, ""}, {&web, host + ":80", http.StatusOK, ""}, {&web, "API.partner.example", http.StatusOK, ""},
			{&web, "other.example", http.StatusMisdirectedRequest, "HOST-NOT-DECLARED"}, {&web, "169.254.169.254", http.StatusMisdirectedRequest, "HOST-NOT-DECLARED"},
			{&other, "other.example", http.StatusForbidden, translate.DefaultDenyName},
		} {
			conn, err := handshake(t, at, name, c.cert)
			if err != nil {
				t.Fatal(err)
			}
			a, err := overTo(t, only(t, conn), "https://"+c.host+"/")
			if err != nil || a.status != c.status || !strings.Contains(a.body, c.says) {
				t.Errorf("%s: %d %s, %v", c.host, a.status, a.body, err)
			}
		}
		if n := len(partner.callers()) - asked; n != 3 {
			t.Errorf("%d requests arrived", n)
		}
	})

	t.Run("only those whom the zone names answer for it", func(t *testing.T) {
		// As if an ingress of the zone led to somebody else.
		w.told = []mesh.Egress{{Name: "far-3", Ready: true}}
		w.apply(t, services("[two]")+may)
		if r := w.call(t, call{to: host}); r.status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", r.status, r.body)
		}
		w.told = nil
		w.apply(t, services("[two, one]")+may)
		leavesBy(t, far...)
	})

	issue := func(t *testing.T) string {
		t.Helper()
		_, issues := w.topologies()
		for _, i := range issues[0] {
			if i.Key.Kind == mesh.KindExternalService && i.Key.Name == "partner" {
				return i.Message
			}
		}
		return ""
	}
	says := func(t *testing.T, part string) {
		t.Helper()
		if got := issue(t); part == "" && got != "" || !strings.Contains(got, part) {
			t.Errorf("its status says %q, not %q", got, part)
		}
	}
	zone := func(name, spec string) {
		for i := range w.base {
			if r := &w.base[i]; r.Kind == mesh.KindZone && r.Name == name {
				r.Spec = json.RawMessage(spec)
			}
		}
	}

	t.Run("an egress dies", func(t *testing.T) {
		says(t, "")
		w.sidecar(t, "far-1").kill()
		leavesBy(t, "egress~~far-2")
		failed := 0
		for range 50 {
			if r := w.call(t, call{to: host}); r.status != http.StatusOK {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("%d of 50 requests failed after that", failed)
		}
	})
	t.Run("the zone is drained", func(t *testing.T) {
		zone("two", `{"namespaces":["*"],"drain":{}}`)
		w.zones[1].Egresses = w.zones[1].Egresses[1:] // the lease of the dead one ends
		w.apply(t, services("[two, one]")+may)
		says(t, "zone two: it is being drained")
		leavesBy(t, "egress~~near")
		zone("two", `{"namespaces":["*"]}`)
		w.apply(t, services("[two, one]")+may)
		leavesBy(t, "egress~~far-2")
	})
	t.Run("none of the zone is ready", func(t *testing.T) {
		w.zones[1].Egresses[0].Ready = false
		w.apply(t, services("[two, one]")+may)
		says(t, "zone two: none of its egresses is ready")
		leavesBy(t, "egress~~near")
		w.zones[1].Egresses[0].Ready = true
		w.apply(t, services("[two, one]")+may)
		leavesBy(t, "egress~~far-2")
	})
	t.Run("all of the zone die", func(t *testing.T) {
		w.sidecar(t, "far-2").kill()
		leavesBy(t, "egress~~near")
	})
	t.Run("the zone has none", func(t *testing.T) {
		w.zones[1].Egresses = nil
		w.apply(t, services("[two]")+may)
		says(t, "zone two: it says of no egress")
		if err := (want{status: http.StatusServiceUnavailable}).check(w.call(t, call{to: host})); err != nil {
			t.Error(err)
		}
	})
	t.Run("the zone is revoked", func(t *testing.T) {
		w.zones[1].Egresses = []topology.EgressProxy{w.egress("far-4")}
		w.apply(t, services("[two, one]")+may)
		leavesBy(t, "egress~~far-4")
		zone("two", `{"namespaces":["*"],"revoked":{"reason":"stolen"}}`)
		w.apply(t, services("[two, one]")+may)
		says(t, "zone two: it is not believed here")
		leavesBy(t, "egress~~near")
	})
}
