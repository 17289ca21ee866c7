package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// The ledger and the till are TCP at one port, which only addresses of their own can tell apart.
const namedServices = `
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec: {selector: {app: ledger}, clusterIP: None, ports: [{port: 5432, targetPort: %d}]}
---
apiVersion: v1
kind: Service
metadata: {name: till, namespace: shop}
spec: {selector: {app: till}, ports: [{port: 5432, targetPort: %d}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: ledger, namespace: shop}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-calls-all, namespace: shop}
spec: {action: Allow, rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}]}]}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: ExternalService
metadata: {name: old, namespace: shop}
spec: {hosts: [old.example.org], ports: [{port: 5432, targetPort: %d, protocol: tcp}]}
`

// resolver asks a workload's sidecar, as its machine's resolver would.
func (w *workload) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		i, err := w.info()
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, i.DNS)
	}}
}

// finds resolves a name to its one address.
func (w *workload) finds(ctx context.Context, name string) (netip.Addr, error) {
	list, err := w.resolver().LookupNetIP(ctx, "ip", name+".")
	if err != nil {
		return netip.Addr{}, err
	}
	if len(list) != 1 {
		return netip.Addr{}, fmt.Errorf("%s is at %v", name, list)
	}
	return list[0].Unmap(), nil
}

// reaches awaits that the answer of a name's port 5432 begins so, and returns where the name is.
func (w *workload) reaches(name, want string) (at netip.Addr) {
	w.zone.t.Helper()
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var err error
		if at, err = w.finds(ctx, name); err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(at.String(), "5432"))
	}}}
	w.http, c = c, w.http
	defer func() { w.http = c }()
	await(w.zone.t, name+" is reached", func() error {
		status, body, err := w.call(name)
		if err == nil && (status != http.StatusOK || body[:min(len(body), len(want))] != want) {
			err = fmt.Errorf("%d: %s", status, body)
		}
		return err
	})
	return at
}

// worldResolver answers for the rest of the world: old.example.org is this machine, and nothing else exists.
func worldResolver(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		switch asked := q.Question[0]; {
		case asked.Name != "old.example.org.":
			m.Rcode = dns.RcodeNameError
		case asked.Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m) // who asked may be gone
	})}
	go func() { _ = s.ActivateAndServe() }() // ends with its port
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// TestNames: an application finds the mesh's services by asking its sidecar, and goes on finding them at the same addresses
// without its zone's control plane, and after restarts of that and of the sidecar.
func TestNames(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(fmt.Sprintf(namedServices, app(t, "ledger"), app(t, "till"), app(t, "old")))
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	west.workload("ledger")
	east.workload("till")
	block := fmt.Sprintf("127.%d.0.0/16", 130+rand.IntN(100))
	web := east.workload("web", map[string]any{"dns": map[string]any{"address": "127.0.0.1:0", "block": block, "upstreams": []string{worldResolver(t)}}})

	places := map[string]netip.Addr{}
	all := func() {
		t.Helper()
		for name, want := range map[string]string{
			"ledger.shop.svc.clusterset.local": "ledger", "ledger.shop.west.mesh": "ledger", "ledger.ledger.shop.west.mesh": "ledger", "till.shop": "till",
		} {
			at := web.reaches(name, want)
			if before, known := places[name]; known && before != at || !netip.MustParsePrefix(block).Contains(at) {
				t.Errorf("%s was at %s and is at %s", name, before, at)
			}
			places[name] = at
		}
	}
	all()
	if n := len(map[netip.Addr]bool{
		places["ledger.shop.svc.clusterset.local"]: true, places["ledger.shop.west.mesh"]: true, places["ledger.ledger.shop.west.mesh"]: true, places["till.shop"]: true,
	}); n != 4 {
		t.Errorf("%d addresses for four names", n)
	}
	for _, unknown := range []string{"nobody.shop.svc.clusterset.local", "till.shop.west.mesh", "www.example.org"} {
		_, err := web.finds(t.Context(), unknown)
		if missing := new(net.DNSError); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("%s: %v", unknown, err)
		}
	}
	// What is declared outside has an address here too, behind which Envoy finds where it really is.
	if at := web.reaches("old.example.org", "old"); !netip.MustParsePrefix(block).Contains(at) {
		t.Errorf("old.example.org is at %s", at)
	}

	east.kill()
	all()
	east.run()
	all()
	web.stop(syscall.SIGTERM)
	web.begin()
	all()
	// What comes later is found too, and what is gone is not.
	global.apply(fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: later, namespace: shop}\nspec: {selector: {app: till}, ports: [{port: 5432, targetPort: %d}]}\n", app(t, "later")))
	web.reaches("later.shop", "later")
	service, _ := policy.Lookup(string(mesh.KindService))
	if _, err := global.Delete(ctxOf(t), service, "shop", "till"); err != nil {
		t.Fatal(err)
	}
	await(t, "till is gone", func() error {
		_, err := web.finds(t.Context(), "till.shop.svc.clusterset.local")
		if missing := new(net.DNSError); errors.As(err, &missing) && missing.IsNotFound {
			return nil
		}
		return errors.Join(errors.New("it is there, or nobody says"), err)
	})
}
