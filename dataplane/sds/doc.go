// Package sds serves Envoy the secrets of its own machine: the certificate with its private key,
// which the agent made and which must never leave the node, and the roots that the zone trusts. It
// speaks the secret discovery service of xDS v3, delta and state of the world, on a Unix socket that
// only the agent's own user (or root) may connect to.
//
// It knows two resources and pushes each on change; it keeps no state per Envoy beyond its streams.
package sds
