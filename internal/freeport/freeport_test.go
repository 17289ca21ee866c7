package freeport_test

import (
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/comity-mesh/comity/internal/freeport"
)

// TestFind: whoever asks at the same time gets a port of their own, on which they can listen.
func TestFind(t *testing.T) {
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := map[uint16]bool{}
	for range 20 {
		all.Go(func() {
			for range 20 {
				port, claim, err := freeport.Find(t.Context(), "127.0.0.1")
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { _ = claim.Close() })
				l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
				if err != nil {
					t.Error(err)
					return
				}
				_ = l.Close()
				mu.Lock()
				if seen[port] {
					t.Errorf("port %d was given twice", port)
				}
				seen[port] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// TestClaim: one has it, until that one gives it back.
func TestClaim(t *testing.T) {
	port, claim, err := freeport.Find(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	if _, err := freeport.Claim(at); err == nil {
		t.Errorf("%s has two owners", at)
	}
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := freeport.Claim(at)
	if err != nil {
		t.Fatalf("a port that was given back: %v", err)
	}
	_ = again.Close()
}

// TestFindElsewhere: an address of another machine has no port for us.
func TestFindElsewhere(t *testing.T) {
	if port, _, err := freeport.Find(t.Context(), "192.0.2.1"); err == nil {
		t.Errorf("port %d of another machine", port)
	}
}
