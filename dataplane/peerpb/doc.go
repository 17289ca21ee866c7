// Package peerpb is the generated form of peer.proto, the protocol between the ingresses of two zones.
// Regenerate it with `make generate`.
package peerpb
