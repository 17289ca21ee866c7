package fedclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// dialLimit bounds TCP and TLS to one endpoint together.
	dialLimit = 5 * time.Second
	// maxMessage bounds one frame from global; frames are cut at 1 MiB.
	maxMessage = 4 << 20
	// window is how much may be on its way: a zone that was away for long gets megabytes over long ways. It is fixed for
	// handshake.Window's reason.
	window = 4 << 20
)

// dial makes one TLS session with the first endpoint that answers, and a gRPC connection that is
// exactly that session: a proof over its exporter holds for every call on it, and no call is made on
// another.
func dial(ctx context.Context, endpoints []string, config *tls.Config) (*grpc.ClientConn, tls.ConnectionState, error) {
	var errs []error
	for _, e := range endpoints {
		c, err := handshake(ctx, e, config)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cc, err := wrap(c)
		if err != nil {
			return nil, tls.ConnectionState{}, errors.Join(err, c.Close())
		}
		return cc, c.ConnectionState(), nil
	}
	return nil, tls.ConnectionState{}, errors.Join(errs...)
}

func handshake(ctx context.Context, address string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &unreachableError{address, err}
	}
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		// Nothing was exchanged that a failed Close could lose.
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with global at %s: %w", address, err)
	}
	return c, nil
}

// unreachableError: nobody answers at the address, which is nothing to worry about for long.
type unreachableError struct {
	address string
	err     error
}

func (e *unreachableError) Error() string { return "global at " + e.address + ": " + e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

func wrap(c *tls.Conn) (*grpc.ClientConn, error) {
	var used atomic.Bool
	return grpc.NewClient("passthrough:///global",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection to global is gone")
			}
			return c, nil
		}),
		grpc.WithTransportCredentials(established{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
}

// established are the transport credentials of a connection that is TLS already.
type established struct{}

func (established) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("a %T is no TLS connection", c)
	}
	info := credentials.TLSInfo{State: t.ConnectionState()}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return c, info, nil
}

func (established) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for clients")
}

func (established) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (e established) Clone() credentials.TransportCredentials { return e }
func (established) OverrideServerName(string) error           { return nil }
