package dataplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/comity-mesh/comity/internal/fault"
)

// reservation holds ports for Envoy from the moment they are chosen: bound, not listening, and with
// SO_REUSEPORT, with which Envoy's listeners bind too. The kernel gives connections to listening
// sockets only, and the ports to nobody else. Nobody but another agent, that is, which shares as well: so that two of them don't
// hold one port, each has a name of the port first.
type reservation struct {
	held  []int
	names []net.Listener
}

const (
	lowestPick   = 20000
	pickAttempts = 200
)

// pick chooses a free port of the address below the range from which the kernel serves outgoing
// connections, so that none of those takes it meanwhile.
func (r *reservation) pick(ctx context.Context, address string) (uint16, error) {
	top := ephemeralStart()
	var errs error
	for range pickAttempts {
		port := lowestPick + rand.IntN(top-lowestPick) //nolint:gosec // not a secret
		hostPort := net.JoinHostPort(address, strconv.Itoa(port))
		// First without sharing, which fails if anybody has it, then for keeps.
		free, err := (&net.ListenConfig{}).Listen(ctx, "tcp", hostPort)
		if err != nil {
			errs = err
			continue
		}
		if err := free.Close(); err != nil {
			return 0, fmt.Errorf("choose a port: %w", err)
		}
		if err := r.hold(hostPort, address, port); err != nil {
			errs = err
			continue
		}
		return uint16(port), nil //nolint:gosec // below 65536
	}
	return 0, &fault.Error{
		Code: "PORT", What: "no free port was found on " + address, Err: errs,
		Try: "name the ports in the configuration, and check that the address is this machine's", Docs: "docs/configuration.md",
	}
}

// hold binds without listening. The net package can only listen, so the socket is made by hand.
func (r *reservation) hold(hostPort, address string, port int) error {
	ip := net.ParseIP(address)
	if ip == nil {
		return fmt.Errorf("%q is not an IP address", address)
	}
	// An abstract socket (unix(7)) ends with its process, whatever becomes of that.
	name, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@comity/port/" + hostPort})
	if err != nil {
		return fmt.Errorf("reserve %s: another agent has it: %w", hostPort, err)
	}
	r.names = append(r.names, name)
	family := unix.AF_INET6
	var sa unix.Sockaddr
	if v4 := ip.To4(); v4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte(v4)}
	} else {
		sa = &unix.SockaddrInet6{Port: port, Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reserve %s: %w", hostPort, err)
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fd, sa)); err != nil {
		return errors.Join(fmt.Errorf("reserve %s: %w", hostPort, err), unix.Close(fd))
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
	for _, n := range r.names {
		errs = append(errs, n.Close())
	}
	r.held, r.names = nil, nil
	return errors.Join(errs...)
}

// ephemeralStart is where the kernel's range for outgoing connections begins, at most.
func ephemeralStart() int {
	const usual = 32768
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	low, err := strconv.Atoi(strings.Fields(string(raw) + " x")[0])
	if err != nil || low < lowestPick+1000 || low > 65000 {
		return usual
	}
	return low
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
