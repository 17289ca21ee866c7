package dataplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/comity-mesh/comity/internal/handshake"
)

const (
	// dialWithin bounds TCP and TLS together, per address.
	dialWithin = 3 * time.Second
	// silence is how long what was sent may stay unacknowledged.
	silence = 10 * time.Second
	// maxMessage bounds what the zone may send to an agent.
	maxMessage = 1 << 20
)

// dialer connects to the zone at whichever of its addresses answers, the last good one first.
type dialer struct {
	addresses []string
	tls       func() *tls.Config
	last      atomic.Int64
}

// dial makes one TLS connection, verified.
func (d *dialer) dial(ctx context.Context) (*tls.Conn, error) {
	var errs []error
	first := int(d.last.Load())
	for n := range d.addresses {
		i := (first + n) % len(d.addresses)
		c, err := d.one(ctx, d.addresses[i])
		if err == nil {
			d.last.Store(int64(i))
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) one(ctx context.Context, address string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	raw, err := (&net.Dialer{Control: noticeSilence}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("reach the zone: %w", err)
	}
	config := d.tls()
	config.NextProtos = []string{"h2"}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with the zone at %s: %w", address, err), ignoreClosed(raw.Close()))
	}
	return c, nil
}

// noticeSilence has the kernel end a connection whose other side has vanished: the agent reports often
// enough that something is always unacknowledged then. Pings of gRPC would count as abuse at a server
// that does not expect them.
func noticeSilence(_, _ string, c syscall.RawConn) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds())) //nolint:gosec // a descriptor fits
	}); controlErr != nil {
		return controlErr
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// once opens a gRPC connection that is exactly one TLS session: a proof over its exporter is good for
// every call on it, and none is ever made on another.
func (d *dialer) once(ctx context.Context) (*grpc.ClientConn, tls.ConnectionState, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	cc, err := handshake.Once(c, dialOptions()...)
	if err != nil {
		return nil, tls.ConnectionState{}, errors.Join(fmt.Errorf("connect to the zone: %w", err), c.Close())
	}
	return cc, c.ConnectionState(), nil
}

// lasting opens a gRPC connection that reconnects by itself, fast: a zone that comes back is not to
// wait for its agents.
func (d *dialer) lasting() (*grpc.ClientConn, error) {
	cc, err := grpc.NewClient("passthrough:///zone", append(dialOptions(),
		grpc.WithTransportCredentials(handshake.Done{}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.dial(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 3 * time.Second},
			MinConnectTimeout: dialWithin,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("connect to the zone: %w", err)
	}
	return cc, nil
}

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(handshake.Window), grpc.WithStaticConnWindowSize(handshake.Window),
	}
}
