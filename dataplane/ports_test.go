package dataplane

import (
	"net"
	"strconv"
	"testing"
)

// TestPortsAreHeldOnce: the sockets of two agents would share a port, and the kernel deal each other's connections to them.
func TestPortsAreHeldOnce(t *testing.T) {
	var first, second reservation
	port, err := first.pick(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	if err := second.hold(at, "127.0.0.1", int(port)); err == nil {
		t.Errorf("%s is held twice", at)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.hold(at, "127.0.0.1", int(port)); err != nil {
		t.Errorf("a port that was given back: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
