package dataplane

import (
	"net"
	"strconv"
	"testing"

	"github.com/comity-mesh/comity/internal/freeport"
)

// TestPortsAreHeldOnce: the sockets of two agents would share a port, and the kernel deal each other's connections to them. Nobody
// who does not share can have it either.
func TestPortsAreHeldOnce(t *testing.T) {
	var r reservation
	port, err := r.pick(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	if _, err := freeport.Claim(at); err == nil {
		t.Errorf("%s is held, and can be claimed", at)
	}
	if l, err := net.Listen("tcp", at); err == nil {
		_ = l.Close()
		t.Errorf("%s is held, and somebody can listen there", at)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	claim, err := freeport.Claim(at)
	if err != nil {
		t.Fatalf("a port that was given back: %v", err)
	}
	_ = claim.Close()
}
