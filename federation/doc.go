// Package federation is the protocol between a zone control plane and global as pure state machines:
// no I/O, no clock, no goroutine in them. ZoneSession and GlobalSession are told what happened (a
// frame came, the local log moved on, a batch was applied) and answer with frames to send (Next) and
// Effects to carry out (Effects). A session lives as long as one stream; what survives it is the
// cursors, the heads of statements and the position in the status book, which its owner keeps in a
// store.
//
// Both ends run the same two halves: a sender of the local change log (global's resources down, the
// zone's own up) and a receiver of the other's. Everything that waits for a slow reader is coalesced
// by key, so memory is bounded by what there is, never by how often it changed.
//
// Link carries a session out over a Stream and a Host. It is the only part with goroutines.
package federation
