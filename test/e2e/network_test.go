package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
)

// requireNetwork has tests that need namespaces fail instead of skipping.
const requireNetwork = "COMITY_E2E_NETWORK"

// network is a router between hosts, each of them a network namespace with an address of its own: sites are
// 10.<site>.0.0/16, hosts 10.<site>.<number>.2. What the router forwards can be cut, one way or both, and then the packets
// vanish as in a broken network: nobody is told, neither by a reset nor by ICMP.
type network struct {
	t      testing.TB
	router *host
	hosts  int
}

// host is a network namespace. Its loopback is its own. A nil host is this machine's loopback.
type host struct {
	ip    string
	calls chan func()
	path  string // of the namespace
	ports int
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	give := t.Skipf
	if os.Getenv(requireNetwork) == "require" {
		give = t.Fatalf
	}
	if os.Geteuid() != 0 {
		give("hosts of their own are network namespaces, which only root can make; this is user %d", os.Geteuid())
	}
	if _, err := exec.LookPath("ip"); err != nil {
		give("network namespaces are set up with ip: %v (Debian: apt-get install iproute2)", err)
	}
	router, err := newHost(t, "")
	if errors.Is(err, unix.EPERM) {
		give("root may not make network namespaces here (CAP_SYS_ADMIN, CAP_NET_ADMIN): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, router: router}
	router.do(func() { err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// newHost makes a namespace. It is that of one thread, on which do runs its calls; it goes with the thread and
// the processes in it.
func newHost(t testing.TB, ip string) (*host, error) {
	h := &host{ip: ip, calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range h.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(h.calls)
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	t.Cleanup(func() { close(h.calls) })
	return h, h.run("link set lo up")
}

// do runs f in the namespace: sockets that it makes itself, and processes that it starts, are there.
func (h *host) do(f func()) {
	if h == nil {
		f()
		return
	}
	done := make(chan struct{})
	h.calls <- func() { defer close(done); f() }
	<-done
}

// run runs an ip command in the namespace.
func (h *host) run(command string) error {
	var out []byte
	var err error
	h.do(func() { out, err = exec.Command("ip", strings.Fields(command)...).CombinedOutput() })
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, out)
	}
	return nil
}

// host adds one to a site.
func (n *network) host(site int) *host {
	n.t.Helper()
	n.hosts++
	subnet := fmt.Sprintf("10.%d.%d", site, n.hosts)
	h, err := newHost(n.t, subnet+".2")
	if err != nil {
		n.t.Fatal(err)
	}
	port := fmt.Sprintf("port%d", n.hosts)
	for _, step := range []struct {
		on      *host
		command string
	}{
		{n.router, "link add " + port + " type veth peer name eth0 netns " + h.path},
		{n.router, "addr add " + subnet + ".1/24 dev " + port},
		{n.router, "link set " + port + " up"},
		{h, "addr add " + h.ip + "/24 dev eth0"},
		{h, "link set eth0 up"},
		{h, "route add default via " + subnet + ".1"},
	} {
		if err := step.on.run(step.command); err != nil {
			n.t.Fatal(err)
		}
	}
	return h
}

func site(number int) string { return fmt.Sprintf("10.%d.0.0/16", number) }

// cut makes packets from one prefix to another vanish.
func (n *network) cut(from, to string) {
	n.t.Helper()
	if err := n.router.run("rule add pref 10 from " + from + " to " + to + " blackhole"); err != nil {
		n.t.Fatal(err)
	}
}

// part cuts both ways.
func (n *network) part(a, b string) {
	n.t.Helper()
	n.cut(a, b)
	n.cut(b, a)
}

// heal ends all cuts.
func (n *network) heal() {
	n.t.Helper()
	for n.router.run("rule del pref 10") == nil { // fails when there is none
	}
}

// listen listens on the host's address.
func (h *host) listen(t testing.TB) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	h.do(func() { l, err = net.Listen("tcp", net.JoinHostPort(h.address(), "0")) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// address is how other hosts reach it.
func (h *host) address() string {
	if h == nil {
		return "127.0.0.1"
	}
	return h.ip
}

// free is a port that nobody uses there.
func (h *host) free(t testing.TB) int {
	if h == nil {
		return int(freeporttest.Port(t))
	}
	h.ports++
	return 20000 + h.ports
}

// somewhere is an address with a free port.
func (h *host) somewhere(t testing.TB) string {
	return net.JoinHostPort(h.address(), strconv.Itoa(h.free(t)))
}

// dial connects from the host. It holds up all other calls of the host, so it is for what is near.
func (h *host) dial(ctx context.Context, address string) (net.Conn, error) {
	var c net.Conn
	var err error
	h.do(func() { c, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address) })
	return c, err
}

// forward makes a port of the host's loopback reachable on ours, and returns where.
func (h *host) forward(t testing.TB, port int) string {
	t.Helper()
	to := fmt.Sprintf("127.0.0.1:%d", port)
	if h == nil {
		return to
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer near.Close()
				far, err := h.dial(context.Background(), to)
				if err != nil {
					return
				}
				defer far.Close()
				back := make(chan struct{})
				go func() { defer close(back); _, _ = io.Copy(near, far); _ = near.Close() }() // until either end closes
				_, _ = io.Copy(far, near)
				_ = far.Close()
				<-back
			})
		}
	})
	return l.Addr().String()
}

// TestNetwork holds the network itself to what it promises.
func TestNetwork(t *testing.T) {
	n := newNetwork(t)
	a, b, c := n.host(1), n.host(2), n.host(2)
	greet := func(h *host) string {
		l := h.listen(t)
		t.Cleanup(func() { _ = l.Close() })
		go func() { // ends with Close
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, "hello")
				_ = conn.Close()
			}
		}()
		return l.Addr().String()
	}
	atB, atC := greet(b), greet(c)
	reaches := func(h *host, address string) error {
		conn, err := h.dial(t.Context(), address)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, err = io.ReadFull(conn, make([]byte, 5))
		return err
	}
	silent := func(what string, err error) {
		t.Helper()
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			t.Errorf("%s: %v, not a timeout", what, err)
		}
	}
	// A first packet may be lost while links come up, and what is sent again comes after the dial has given up.
	meets := func(h *host, address string) {
		t.Helper()
		await(t, h.ip+" reaches "+address, func() error { return reaches(h, address) })
	}
	meets(a, atB)
	meets(b, atC)
	meets(c, atB)
	if err := reaches(nil, atB); err == nil {
		t.Error("a host is reached from outside of the network")
	}
	n.part(site(1), site(2))
	silent("both ways cut", reaches(a, atB))
	meets(b, atC)
	n.heal()
	n.cut(b.ip, site(1))
	silent("answers cut", reaches(a, atB))
	meets(a, atC)
	n.heal()
	meets(a, atB)
}
