package demo

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestWire speaks TLS through the wire to a server that echoes, from two zones, and cuts the way of one.
func TestWire(t *testing.T) {
	cert, err := rogueCertificate("spiffe://zone-b.demo.example/ns/shop/sa/echo")
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := door.Addr().String()
	if err := door.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWire()
	t.Cleanup(w.closeAll)
	if err := w.open(t.Context(), "zone-b", []lane{{advertised: at, behind: server.Addr().String()}}); err != nil {
		t.Fatal(err)
	}
	dial := func(from string) net.Conn {
		t.Helper()
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return tls.Client(c, &tls.Config{ServerName: from + ".8080.echo.shop.zone-b.mesh", InsecureSkipVerify: true}) //nolint:gosec // what is under test carries TLS and ends none
	}
	exchange := func(c net.Conn, limit time.Duration) error {
		_ = c.SetDeadline(time.Now().Add(limit))
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	const long, short = 10 * time.Second, 200 * time.Millisecond
	a, c := dial("zone-a"), dial("zone-c")
	for name, conn := range map[string]net.Conn{"zone-a": a, "zone-c": c} {
		if err := exchange(conn, long); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}

	cut := linkOf("zone-b", "zone-a")
	w.sever(cut)
	_ = a.SetDeadline(time.Now().Add(long))
	if _, err := io.WriteString(a, "during"); err != nil {
		t.Fatal(err)
	}
	if err := exchange(dial("zone-a"), short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new connection over the cut link: %v, want silence", err)
	}
	if err := exchange(c, long); err != nil {
		t.Errorf("zone-c, whose way is whole: %v", err)
	}
	w.mend(cut)
	if _, err := io.ReadFull(a, make([]byte, len("during"))); err != nil {
		t.Errorf("what was under way does not arrive: %v", err)
	}

	w.close("zone-b")
	if err := exchange(a, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to a killed zone: %v, want a reset", err)
	}
	if _, err := net.DialTimeout("tcp", at, long); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a new connection to a killed zone: %v, want a refusal", err)
	}
}

// TestServerName: whatever a caller says first reaches the ingress unchanged.
func TestServerName(t *testing.T) {
	for _, said := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", ""} {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.WriteString(theirs, said); _ = theirs.Close() }()
		name, read := serverName(t.Context(), ours)
		rest, err := io.ReadAll(ours)
		if got := string(read) + string(rest); name != "" || got != said || err != nil {
			t.Errorf("said %q: name %q, read %q, %v", said, name, got, err)
		}
	}
}
