package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/freeport"
)

// reservation holds ports for Envoy from the moment they are chosen: bound, not listening, and with
// SO_REUSEPORT, with which Envoy's listeners bind too. The kernel gives connections to listening
// sockets only, and the ports to nobody else. Nobody but another agent, that is, which shares as well: so that two of them don't
// hold one port, each claims it first.
type reservation struct {
	held   []int
	claims []io.Closer
}

// pickAttempts is how often a port that was free may be somebody else's when it is to be held.
const pickAttempts = 20

// pick chooses a free port of the address.
func (r *reservation) pick(ctx context.Context, address string) (uint16, error) {
	var errs error
	for range pickAttempts {
		port, claim, err := freeport.Find(ctx, address)
		if errs = err; err != nil {
			break
		}
		r.claims = append(r.claims, claim)
		if errs = r.hold(address, port); errs == nil {
			return port, nil
		}
	}
	return 0, &fault.Error{
		Code: "PORT", What: "no free port was found on " + address, Err: errs,
		Try: "name the ports in the configuration, and check that the address is this machine's", Docs: "docs/configuration.md",
	}
}

// hold binds without listening. The net package can only listen, so the socket is made by hand.
func (r *reservation) hold(address string, port uint16) error {
	ip := net.ParseIP(address)
	if ip == nil {
		return fmt.Errorf("%q is not an IP address", address)
	}
	family := unix.AF_INET6
	var sa unix.Sockaddr
	if v4 := ip.To4(); v4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte(v4)}
	} else {
		sa = &unix.SockaddrInet6{Port: int(port), Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reserve port %d of %s: %w", port, address, err)
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fd, sa)); err != nil {
		return errors.Join(fmt.Errorf("reserve port %d of %s: %w", port, address, err), unix.Close(fd))
	}
	r.held = append(r.held, fd)
	return nil
}

// Close gives the ports back.
func (r *reservation) Close() error {
	var errs []error
	for _, fd := range r.held {
		errs = append(errs, unix.Close(fd))
	}
	for _, c := range r.claims {
		errs = append(errs, c.Close())
	}
	r.held, r.claims = nil, nil
	return errors.Join(errs...)
}

// localAddress is the address of this machine from which the zone is reached. Nothing is sent.
func localAddress(ctx context.Context, zone string) (string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", zone)
	if err != nil {
		return "", fmt.Errorf("find this machine's address toward the zone: %w", err)
	}
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, errors.Join(err, c.Close())
}
