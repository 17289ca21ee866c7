// Package freeport finds TCP ports of this machine for programs that must be told theirs before they listen. Of all who ask here, in
// whatever process, no two have one port at a time: Envoys would share it, and the kernel deal each other's connections to them.
package freeport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

const (
	lowest   = 20000
	attempts = 200
)

// Find returns a port of an IP address on which nobody listens and that nobody else has claimed. It is the caller's until it closes
// the claim, or its process ends. Errors: the address is not this machine's, or no port was found in 200 tries.
func Find(ctx context.Context, address string) (port uint16, claim io.Closer, err error) {
	top := ephemeralStart()
	for range attempts {
		port := lowest + rand.IntN(top-lowest) //nolint:gosec // not a secret
		hostPort := net.JoinHostPort(address, strconv.Itoa(port))
		name, failed := Claim(hostPort)
		if failed != nil {
			err = failed
			continue
		}
		l, failed := (&net.ListenConfig{}).Listen(ctx, "tcp", hostPort)
		if failed == nil {
			failed = l.Close()
		}
		if failed != nil {
			err = errors.Join(failed, name.Close())
			continue
		}
		return uint16(port), name, nil //nolint:gosec // below 65536
	}
	return 0, nil, fmt.Errorf("%d ports of %s were tried: %w", attempts, address, err)
}

// Claim makes "host:port" the caller's among those who ask here; whether somebody listens there, it does not say. Error: it is
// somebody else's.
func Claim(hostPort string) (io.Closer, error) {
	// An abstract socket (unix(7)) ends with its process, whatever becomes of that.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: "@comity/port/" + hostPort})
	if err != nil {
		return nil, fmt.Errorf("claim %s: somebody has it: %w", hostPort, err)
	}
	return l, nil
}

// ephemeralStart is where the range begins from which the kernel serves outgoing connections, at most: one of them could take a
// port before its owner listens.
func ephemeralStart() int {
	const usual = 32768
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	low, err := strconv.Atoi(strings.Fields(string(raw) + " x")[0])
	if err != nil || low < lowest+1000 || low > 65000 {
		return usual
	}
	return low
}
