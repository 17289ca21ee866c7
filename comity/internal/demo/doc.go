// Package demo runs a whole mesh on the loopback addresses of one machine: global, three joined zones,
// their ingresses and sidecars with real Envoys, and a small shop that sends traffic through them. Nothing
// in it is simulated but the network between the zones (wire), so that it can be cut; and nothing of it outlives it.
package demo
