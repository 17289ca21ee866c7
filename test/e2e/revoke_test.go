package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
)

// talker serves, under HTTP and TCP, its name over and over until the connection ends.
func talker(t testing.TB, name string) (httpPort, tcpPort int) {
	t.Helper()
	talk := func(w io.Writer, flush func() error) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(w, name+"\n"); err != nil || flush() != nil {
				return
			}
		}
	}
	listen := func() (net.Listener, int) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l, l.Addr().(*net.TCPAddr).Port
	}
	var wg sync.WaitGroup
	web, httpPort := listen()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			return
		}
		talk(w, http.NewResponseController(w).Flush)
	})}
	wg.Go(func() { _ = s.Serve(web) }) // ends with Close
	raw, tcpPort := listen()
	wg.Go(func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				talk(c, func() error { return nil })
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _, _ = raw.Close(), s.Close(); wg.Wait() })
	return httpPort, tcpPort
}

// shop is a zone with an ingress and a workload "all" that serves http-<zone>, tcp-<zone> and shared, and that calls
// those of the others.
type shop struct {
	*zone
	all   *workload
	ports map[string]int // on loopback, by TCP service
}

func openShop(t *testing.T, global *controlPlane, name string, others ...string) *shop {
	t.Helper()
	s := &shop{zone: startZone(t, name), ports: map[string]int{}}
	s.joins(global, "shop")
	web, raw := talker(t, name)
	for svc, port := range map[string]string{
		"http-" + name: fmt.Sprintf("{port: 80, targetPort: %d, appProtocol: http}", web),
		"tcp-" + name:  fmt.Sprintf("{port: 7, targetPort: %d}", raw),
		"shared":       fmt.Sprintf("{port: 7, targetPort: %d}", raw),
	} {
		s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: all}, ports: [%[2]s]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: %[1]s, namespace: shop}
`, svc, port))
	}
	s.ingress("in1")
	var upstreams []map[string]any
	for _, svc := range append(others, "shared") {
		s.ports[svc] = int(freeporttest.Port(t))
		upstreams = append(upstreams, map[string]any{"service": svc, "port": 7, "localPort": s.ports[svc]})
	}
	s.all = s.workload("all", map[string]any{"upstreams": upstreams})
	return s
}

// call is a connection that lives until somebody ends it.
type call struct {
	name  string
	ended chan time.Time
	body  io.Closer
}

func (c *call) alive() bool {
	select {
	case at := <-c.ended:
		c.ended <- at
		return false
	default:
		return true
	}
}

// follow reads from a connection to its end.
func follow(t *testing.T, name string, body io.ReadCloser) *call {
	t.Helper()
	c := &call{name: name, ended: make(chan time.Time, 1), body: body}
	first := make(chan struct{})
	go func() {
		in := bufio.NewScanner(body)
		for n := 0; in.Scan(); n++ {
			if n == 0 {
				close(first)
			}
		}
		c.ended <- time.Now()
	}()
	select {
	case <-first:
	case <-time.After(within):
		t.Fatalf("%s: nothing comes", name)
	}
	t.Cleanup(func() { _ = body.Close() })
	return c
}

func (s *shop) http(t *testing.T, to string) *call {
	t.Helper()
	host := fmt.Sprintf("http-%s.shop.%s.mesh", to, to)
	s.all.answers(host, 200)
	endless := *s.all.http
	endless.Timeout = 0
	r, err := endless.Get("http://" + host + "/talk") //nolint:bodyclose // whoever follows it closes it
	if err != nil {
		t.Fatal(err)
	}
	return follow(t, "HTTP from "+s.name+" to "+to, r.Body)
}

// tcp opens a connection to a service once who answers is wanted.
func (s *shop) tcp(t *testing.T, service, zone string) *call {
	t.Helper()
	var conn net.Conn
	await(t, service+" is answered by "+zone, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.ports[service]))
		if err != nil {
			return err
		}
		who := make([]byte, len(zone))
		if _, err := io.ReadFull(c, who); err != nil || string(who) != zone {
			_ = c.Close()
			return fmt.Errorf("%q answers: %w", who, err)
		}
		conn = c
		return nil
	})
	return follow(t, "TCP from "+s.name+" to "+service+" in "+zone, conn)
}

const revocable = `
apiVersion: mesh.comity.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {defaultAuthorization: Allow}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: FailoverPolicy
metadata: {name: shared, namespace: shop}
spec:
  targetRef: {kind: Service, name: shared}
  tiers: [{name: first, zones: [{zone: west}]}, {name: then, zones: [{zone: north}, {zone: east}]}]
`

// Everything of a revoked zone ends within 5 s, in both directions, HTTP and TCP; the rest notices nothing.
func TestRevocationEndsLiveConnections(t *testing.T) {
	global := startGlobal(t)
	global.apply(revocable)
	east := openShop(t, global, "east", "tcp-west", "tcp-north")
	west := openShop(t, global, "west", "tcp-east", "tcp-north")
	north := openShop(t, global, "north", "tcp-east")

	var doomed, rest []*call
	for _, pair := range []struct {
		from *shop
		to   string
	}{{east, "west"}, {west, "east"}, {west, "north"}} {
		doomed = append(doomed, pair.from.http(t, pair.to), pair.from.tcp(t, "tcp-"+pair.to, pair.to))
	}
	// A service that others have, too: Envoy keeps its listener and cluster.
	doomed = append(doomed, east.tcp(t, "shared", "west"))
	for _, pair := range []struct {
		from *shop
		to   string
	}{{east, "north"}, {north, "east"}} {
		rest = append(rest, pair.from.http(t, pair.to), pair.from.tcp(t, "tcp-"+pair.to, pair.to))
	}

	began := time.Now()
	if _, err := global.RevokeZone(ctxOf(t), "west", client.RevokeRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	limit := time.After(15 * time.Second)
	for _, c := range doomed {
		select {
		case at := <-c.ended:
			t.Logf("%s ended after %s", c.name, at.Sub(began).Round(time.Millisecond))
			if at.Sub(began) > 5*time.Second {
				t.Errorf("%s ended after %s, more than 5 s", c.name, at.Sub(began))
			}
		case <-limit:
			t.Errorf("%s goes on", c.name)
		}
	}
	var rep client.Revocation
	await(t, "the report", func() error {
		var err error
		if rep, err = global.ZoneRevocation(ctxOf(t), "west"); err == nil && !rep.Done {
			err = fmt.Errorf("not done: %+v", rep)
		}
		return err
	})
	for _, z := range rep.Zones {
		t.Logf("%s confirmed %v after %s, %d/%d proxies", z.Zone, z.Confirmed, z.At.Sub(rep.At), z.Acked, z.Total)
		if !z.Confirmed || z.Total == 0 || z.Acked != z.Total {
			t.Errorf("the report says %+v", z)
		}
	}
	for _, c := range rest {
		if !c.alive() {
			t.Errorf("%s ended, too", c.name)
		}
	}
	east.tcp(t, "shared", "north")
	// Nobody calls it any more, and it calls nobody.
	if status, _, err := east.all.call("http-west.shop.west.mesh"); err == nil && status == 200 {
		t.Error("the revoked zone is called")
	}
	if status, _, err := west.all.call("http-east.shop.east.mesh"); err == nil && status == 200 {
		t.Error("the revoked zone calls")
	}
}
