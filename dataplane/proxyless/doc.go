// Package proxyless is what an agent has instead of an Envoy beside a gRPC client that speaks xDS itself: files with
// its certificate, its key and the roots of every trust domain, the bootstrap that names them, and a socket
// behind which is the zone's xDS server.
//
// The client needs no credentials for the socket: it belongs to the agent's user alone, as the files do. What passes
// through is not looked at; the zone knows by the agent's certificate whose configuration it is.
package proxyless
