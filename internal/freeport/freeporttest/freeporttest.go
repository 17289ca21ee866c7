// Package freeporttest gives ports to tests, which hold them until they end.
package freeporttest

import (
	"testing"

	"github.com/comity-mesh/comity/internal/freeport"
)

// Port is a port of 127.0.0.1 that nobody else is given before the test and what it has started have ended. Whoever is to listen
// there is started afterwards: what a test begins last ends first.
func Port(t testing.TB) uint16 {
	t.Helper()
	port, claim, err := freeport.Find(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = claim.Close() })
	return port
}
