// Package stack keeps the stacks of goroutines small that live long and are many.
package stack

// Apart runs f on a stack of its own, and waits for it. Go halves a stack only where less than a quarter of it is in use, so
// one deep call (JSON, SQL, TLS) makes that of a stream's goroutine 16 KiB for as long as its proxy stays.
func Apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}
