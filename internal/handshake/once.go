package handshake

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Window is how many bytes of a call, and of a connection, may be on their way where messages are small. Where it is not fixed gRPC
// looks for one that fits, with a PING after nearly every message that it gets, and its answer: that is two thirds of what is
// written. A larger message comes in pieces.
const Window = 256 << 10

// Once makes a gRPC connection that is exactly the one TLS session: a proof over its exporter is good for every call
// on it, and none is ever made on another. Closing it closes the session, if a call was made.
func Once(c *tls.Conn, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///"+c.RemoteAddr().String(), append(options,
		grpc.WithTransportCredentials(Done{}),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection is gone")
			}
			return c, nil
		}))...)
	if err != nil {
		return nil, fmt.Errorf("gRPC over TLS: %w", err)
	}
	return cc, nil
}

// Done are the transport credentials of connections on which TLS has been agreed already, as when the exporter must
// be known before the first call. They implement credentials.TransportCredentials.
type Done struct{}

// ClientHandshake implements credentials.TransportCredentials.
func (Done) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("a connection of type %T is not TLS", c)
	}
	return c, credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (Done) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a client's")
}

// Info implements credentials.TransportCredentials.
func (Done) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (d Done) Clone() credentials.TransportCredentials { return d }

// OverrideServerName implements credentials.TransportCredentials.
func (Done) OverrideServerName(string) error { return nil }
