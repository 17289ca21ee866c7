package envoy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// wire is what TCP carries to and from ports of this machine's loopback, as whoever listens on the network sees it.
type wire struct {
	mu    sync.Mutex
	bytes map[uint16][]byte   // by port, in the order of packets
	first map[uint16][][]byte // the first packet with a payload of each connection to the port
	begun map[[4]uint16]bool
}

// listenIn begins to record. It skips the test for users who may not see packets (packet(7): CAP_NET_RAW).
func listenIn(t *testing.T, ports ...uint16) *wire {
	t.Helper()
	const ipv4 = unix.ETH_P_IP<<8 | unix.ETH_P_IP>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ipv4&0xffff)
	if errors.Is(err, unix.EPERM) {
		t.Skip("NOT TESTED: that packets between proxies are TLS needs to see them (packet(7), CAP_NET_RAW); run the tests as root, or give them that capability")
	}
	if err != nil {
		t.Fatal(err)
	}
	loopback, err := net.InterfaceByName("lo")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv4 & 0xffff, Ifindex: loopback.Index})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}
	if err != nil {
		t.Fatal(errors.Join(err, unix.Close(fd)))
	}
	w := &wire{bytes: map[uint16][]byte{}, first: map[uint16][][]byte{}, begun: map[[4]uint16]bool{}}
	for _, p := range ports {
		w.bytes[p] = nil
	}
	ended, wake := make(chan struct{}), make([]int, 2)
	if err := unix.Pipe2(wake, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		packet := make([]byte, 1<<17)
		for {
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
			if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) || ready[1].Revents != 0 {
				return
			}
			if n, from, err := unix.Recvfrom(fd, packet, 0); err == nil {
				// On loopback each packet is seen twice, going and coming.
				if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING {
					w.take(packet[:n])
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = unix.Close(wake[1])
		<-ended
		_ = unix.Close(wake[0])
		_ = unix.Close(fd)
	})
	return w
}

// take keeps the payload of an IPv4 packet (RFC 791) of TCP (RFC 9293) from or to a port that is recorded.
func (w *wire) take(p []byte) {
	if len(p) < 20 || p[9] != unix.IPPROTO_TCP {
		return
	}
	tcp := p[int(p[0]&15)*4:]
	if len(tcp) < 20 || len(tcp) < int(tcp[12]>>4)*4 {
		return
	}
	from, to, payload := binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:]), tcp[int(tcp[12]>>4)*4:]
	if len(payload) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, port := range []uint16{from, to} {
		if _, ok := w.bytes[port]; !ok {
			continue
		}
		w.bytes[port] = append(w.bytes[port], payload...)
		connection := [4]uint16{from, to, binary.BigEndian.Uint16(p[14:]), binary.BigEndian.Uint16(p[18:])} // the last bytes of addresses differ here
		if port == to && !w.begun[connection] {
			w.begun[connection] = true
			w.first[port] = append(w.first[port], bytes.Clone(payload))
		}
	}
}

func (w *wire) seen(port uint16) (all []byte, first [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.bytes[port]), append([][]byte(nil), w.first[port]...)
}

// TestOnTheWire: whoever sees the packets between sidecars, and between zones, sees TLS and no word of the applications, which speak
// plaintext and know nothing of it. Servers show one identity, which is a URI.
func TestOnTheWire(t *testing.T) {
	w := newWorld(t)
	echo, pay, gate := w.spec(t, "echo-1").Spec, w.spec(t, "pay-1").Spec, w.zones[1].Ingresses[0]
	between := map[string]uint16{"echo-1's sidecar": echo.InboundPort, "pay-1's sidecar": pay.InboundPort, "the ingress": gate.BindPorts[0]}
	tap := listenIn(t, echo.InboundPort, pay.InboundPort, gate.BindPorts[0], w.ports.http, w.ports.tcp)
	const secret = "sesame-open-the-door"
	for _, to := range []string{"echo-v1.shop", payHost} {
		for range 3 {
			if r := w.call(t, call{to: to, method: "POST", body: secret, header: map[string]string{"x-secret": secret}}); r.echoed.Body != secret {
				t.Fatalf("%d %s", r.status, r.body)
			}
		}
	}
	for _, service := range []string{"echo", "pay"} {
		for range 4 { // to each of two
			c, _, err := w.dialTCP(t, "web", service)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintln(c, secret); err != nil {
				t.Fatal(err)
			}
			if line, err := readLine(c); err != nil || strings.TrimSpace(line) != secret {
				t.Fatalf("%q, %v", line, err)
			}
		}
	}
	// What the tap would see: beside the applications it is plain.
	for _, port := range []uint16{w.ports.http, w.ports.tcp} {
		eventually(t, "the tap hears an application", func() error {
			if all, _ := tap.seen(port); !bytes.Contains(all, []byte(secret)) {
				return fmt.Errorf("of port %d: %d bytes", port, len(all))
			}
			return nil
		})
	}
	for who, port := range between {
		all, first := tap.seen(port)
		if len(first) == 0 || len(all) < 3*len(secret) {
			t.Errorf("%s: the tap heard %d connections and %d bytes", who, len(first), len(all))
		}
		if bytes.Contains(all, []byte(secret)) {
			t.Errorf("%s: what applications say is on the wire", who)
		}
		for _, b := range first { // a record of a handshake (RFC 8446, 5.1)
			if len(b) < 3 || b[0] != 22 || b[1] != 3 {
				t.Errorf("%s: a connection begins with %q", who, b[:min(len(b), 40)])
			}
		}
	}

	me := w.zones[0].authority.issue(t, "/ns/shop/sa/web")
	c, err := handshake(t, net.JoinHostPort(gate.BindAddress, portText(gate.BindPorts[0])), sni("one", 80), &me)
	if err != nil {
		t.Fatal(err)
	}
	leaf := c.ConnectionState().PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://two.example/ns/shop/sa/pay-1" || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		t.Errorf("the server is called %v %v %v", leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
}
