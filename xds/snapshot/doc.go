// Package snapshot keeps what proxies shall have, as views of shared resources, and decides what each
// delta-ADS stream is to be sent next. Proxies that need the same configuration share a view; a view is a
// sequence of immutable generations; a resource is encoded once and shared by all views and streams.
//
// Stream is a pure state machine (no goroutine, no clock, no I/O): requests and generations go in,
// responses come out. The server around it is zone-cp/internal/ads.
package snapshot
