// Package handshake is about gRPC connections at their beginning: it counts those that ended before they were let in
// (bytes that are no TLS, peers that were refused, and those that fell silent), and makes gRPC connections of TLS
// sessions that exist already.
package handshake

import (
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
)

// Counted adds to refused every handshake that fails.
func Counted(c credentials.TransportCredentials, refused prometheus.Counter) credentials.TransportCredentials {
	return &counted{c, refused}
}

type counted struct {
	credentials.TransportCredentials
	refused prometheus.Counter
}

func (c *counted) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	n, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		c.refused.Inc()
	}
	return n, info, err
}

func (c *counted) Clone() credentials.TransportCredentials {
	return Counted(c.TransportCredentials.Clone(), c.refused)
}
