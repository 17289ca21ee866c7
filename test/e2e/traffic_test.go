package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/dataplane/lrs"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
)

const ledgerTCP = `
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec: {selector: {app: pay}, ports: [{port: 5432, targetPort: %d, appProtocol: tcp}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: ledger, namespace: shop}
`

// counter reads one counter of a control plane; 0 while there is none.
func (c *controlPlane) counter(name string, labels ...string) (float64, error) {
	text, err := c.page("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+"{")
		if !ok {
			continue
		}
		for _, l := range labels {
			ok = ok && strings.Contains(rest, l)
		}
		if ok {
			return strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		}
	}
	return 0, nil
}

// page is what a control plane serves under a path without asking for a token.
func (c *controlPlane) page(path string) (string, error) {
	r, err := http.Get("http://" + c.api + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, r.Status)
	}
	return string(text), err
}

// What sidecars send is counted by zone and service, to the request: across zones and at home, failures, and the
// connections of TCP; also what is sent while the zone's control plane is away.
func TestTraffic(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError) // which is not tried again
		}
	}))
	t.Cleanup(app.Close)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = echo.Close() })
	go func() { // ends with Close
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	port := func(a net.Addr) int { return a.(*net.TCPAddr).Port }
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(payService(port(app.Listener.Addr())) + "---" + exportPay + "---" + fmt.Sprintf(ledgerTCP, port(echo.Addr())) + "---" + allowAll + "---" +
		strings.NewReplacer("web-calls-pay", "web-calls-ledger", "name: pay}", "name: ledger}").Replace(allowAll))
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	west.workload("pay")
	local := int(freeporttest.Port(t))
	web := east.workload("web", map[string]any{"upstreams": []map[string]any{{"service": "ledger", "namespace": "shop", "port": 5432, "localPort": local}}})
	web.answers(payHost, 200)

	// Counting begins with the first report after a cluster came.
	ask := func(path string, status, n int) {
		t.Helper()
		for range n {
			r, err := web.http.Get("http://" + payHost + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			if r.StatusCode != status {
				t.Fatalf("%s answers %d", path, r.StatusCode)
			}
		}
	}
	talk := func(n int) {
		t.Helper()
		for range n {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(local))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = io.WriteString(c, "hi"); err == nil {
				_, err = io.ReadFull(c, make([]byte, 2))
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
		}
	}
	counted := func(name, to, service string) float64 {
		n, err := east.counter("comity_traffic_"+name+"_total", `from_zone="east"`, `to_zone="`+to+`"`, `service="`+service+`"`)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	await(t, "requests are counted", func() error {
		ask("/", 200, 1)
		talk(1)
		if counted("requests", "west", "pay") == 0 || counted("requests", "west", "ledger") == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	quiet := func() (requests, failures, connections float64) {
		t.Helper()
		var last [3]float64
		since := time.Now()
		await(t, "the counters stand still", func() error {
			now := [3]float64{counted("requests", "west", "pay"), counted("failures", "west", "pay"), counted("requests", "west", "ledger")}
			if now != last {
				last, since = now, time.Now()
			}
			if d := time.Since(since); d < 2*lrs.Interval {
				return fmt.Errorf("for %s", d)
			}
			return nil
		})
		return last[0], last[1], last[2]
	}
	r0, f0, c0 := quiet()
	ask("/", 200, 500)
	ask("/bad", 500, 20)
	talk(15)
	if r, f, c := quiet(); r-r0 != 520 || f-f0 != 20 || c-c0 != 15 {
		t.Errorf("520 requests, 20 failures and 15 connections are counted as %v, %v and %v", r-r0, f-f0, c-c0)
	}

	// While the zone's control plane is away the sidecar keeps count. A new one begins at 0.
	east.kill()
	ask("/", 200, 70)
	east.run()
	if r, _, _ := quiet(); r != 70 {
		t.Errorf("70 requests without the control plane are counted as %v", r)
	}

	// A workload at home takes over, and is counted by its zone.
	east.workload("pay")
	await(t, "requests stay in the zone", func() error {
		ask("/", 200, 1)
		if counted("requests", "east", "pay") == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
}
