package sever

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain is also the program whose connections are ended: it connects to the addresses that it is given, and says
// over each connection that it is there.
func TestMain(m *testing.M) {
	if addresses := os.Getenv("SEVER_TEST_CONNECT"); addresses != "" {
		for a := range strings.SplitSeq(addresses, ",") {
			c, err := net.Dial("tcp", a)
			if err == nil {
				_, err = io.WriteString(c, "x")
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func listen(t *testing.T, address string) (netip.AddrPort, <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("no %s here: %v", address, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conns := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort(), conns
}

func TestConnections(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(local, func(t *testing.T) {
			doomed, condemned := listen(t, local)
			other, rest := listen(t, local)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("SEVER_TEST_CONNECT=%s,%s,%s", doomed, doomed, other))
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = in.Close()
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			})
			hear := func(c net.Conn) error {
				_, err := io.ReadFull(c, make([]byte, 1))
				return err
			}
			mine := []net.Conn{<-condemned, <-condemned}
			alive := <-rest
			for _, c := range append(mine, alive) {
				if err := hear(c); err != nil {
					t.Fatal(err)
				}
			}
			to := map[netip.AddrPort]struct{}{doomed: {}}
			n, err := Connections(cmd.Process.Pid, to)
			if err != nil || n != 2 {
				t.Fatalf("%d ended, %v", n, err)
			}
			for _, c := range mine {
				if err := hear(c); err == nil {
					t.Error("it goes on")
				}
			}
			if n, err := Connections(cmd.Process.Pid, map[netip.AddrPort]struct{}{other: {}}); err != nil || n != 1 {
				t.Errorf("the other one was gone: %d, %v", n, err)
			}
			if n, err := Connections(os.Getpid(), to); err != nil || n != 0 {
				t.Errorf("%d of this process, which only listens there: %v", n, err)
			}
		})
	}
	if _, err := Connections(1<<22+1, nil); err == nil {
		t.Error("of a process that is none")
	}
}

func TestParseAddr(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80", // mapped
		"B80D01200000000000000000010000FF:01BB": "[2001:db8::ff00:1]:443",
	} {
		if got, err := parseAddr(text); err != nil || got.String() != want {
			t.Errorf("%s is %s, %v; not %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "rem_address", "0100007F", "0100007F:10000", "01:50", "zz00007F:50"} {
		if got, err := parseAddr(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}
