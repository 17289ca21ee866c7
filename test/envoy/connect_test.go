package envoy

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// takes fails unless an answer of a status takes so long by the caller's clock, give or take a tenth. A busy machine makes answers later and
// none sooner, so that the quickest of a few counts.
func (w *world) takes(t *testing.T, c call, status int, time time.Duration) {
	t.Helper()
	for again := 9; ; again-- {
		r := w.call(t, c)
		if r.status != status || r.took < time*9/10 {
			t.Fatalf("%d after %s, want %d after %s: %s", r.status, r.took, status, time, r.body)
		}
		if r.took < time*11/10 {
			return
		}
		if again == 0 {
			t.Fatalf("%d after %s at the soonest, want %s: %s", r.status, r.took, time, r.body)
		}
	}
}

// TestTrafficConnectTimeout: who can't be connected to within the time is given up: one that takes no connections, and one that takes them
// and says nothing.
func TestTrafficConnectTimeout(t *testing.T) {
	w := newWorld(t)
	// Endpoints that answer nothing are taken out; here each request is to meet one.
	const times = `kind: TrafficPolicy
metadata: {name: %[1]s}
spec: {targetRef: {kind: Service, name: %[1]s}, timeouts: {connect: %[2]s}, retry: {attempts: 0}, outlier: {localFailures: 100}}
`
	w.apply(t, fmt.Sprintf(times, "echo-v1", "600ms")+"---\n"+fmt.Sprintf(times, "echo-v2", "1200ms"))
	for _, name := range []string{"echo-1", "echo-2"} {
		spec := w.spec(t, name).Spec
		w.sidecar(t, name).kill()
		if name == "echo-1" {
			deaf(t, spec.Address, spec.InboundPort)
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(spec.Address, strconv.Itoa(int(spec.InboundPort))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	for _, c := range []struct {
		service string
		after   time.Duration
	}{{"echo-v1", 600 * time.Millisecond}, {"echo-v2", 1200 * time.Millisecond}} {
		w.takes(t, call{to: c.service + ".shop"}, http.StatusServiceUnavailable, c.after)
		if n := w.sidecar(t, "web").stat(t, "cluster."+c.service+".shop:80.upstream_cx_connect_timeout"); n == 0 {
			t.Errorf("%s: it is not counted", c.service)
		}
	}
}

// deaf binds an address and lets nobody in: the queue of connections is full, and the kernel drops what comes.
func deaf(t *testing.T, address string, port uint16) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte(net.ParseIP(address).To4())}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(address, strconv.Itoa(int(port))), 500*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}
