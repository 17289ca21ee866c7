// Package sever ends live connections of an Envoy to addresses that are not to be spoken with any more. Envoy
// itself ends what it was called by when a filter chain goes; of what it calls, nothing in its configuration ends a
// request or a connection that is under way, and a revoked zone must not go on answering.
//
// The agent is Envoy's parent and of the same user, so the kernel lets it take a copy of a socket out of Envoy
// (pidfd_getfd, Linux 5.6) and shut it down; Envoy sees a connection that its peer has closed. Where that is
// forbidden, as by a container's seccomp profile, the error says so.
package sever

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Connections shuts down every TCP connection of a process to one of the addresses, and returns how many there
// were. What ends by itself meanwhile is not counted. An error leaves the others ended.
func Connections(pid int, to map[netip.AddrPort]struct{}) (int, error) {
	inodes := map[uint64]struct{}{}
	for _, table := range []string{"tcp", "tcp6"} {
		if err := matching(fmt.Sprintf("/proc/%d/net/%s", pid, table), to, inodes); err != nil {
			return 0, err
		}
	}
	if len(inodes) == 0 {
		return 0, nil
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	descriptors, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list the descriptors of process %d: %w", pid, err)
	}
	ended := 0
	var errs []error
	for _, d := range descriptors {
		link, err := os.Readlink(filepath.Join(dir, d.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		inode, ok := socketInode(link)
		if _, wanted := inodes[inode]; !ok || !wanted {
			continue
		}
		fd, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		done, err := shutdown(process, fd, inode)
		errs = append(errs, err)
		if done {
			ended++
		}
	}
	return ended, errors.Join(errs...)
}

// matching adds the inodes of the sockets of a table that are connected to one of the addresses.
func matching(table string, to map[netip.AddrPort]struct{}, inodes map[uint64]struct{}) error {
	f, err := os.Open(table)
	if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(table, "6") {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return fmt.Errorf("read the connections: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local remote state queues timer retransmissions uid timeout inode ...
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		remote, err := parseAddr(fields[2])
		if err != nil {
			continue // the header
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if _, wanted := to[remote]; err == nil && wanted && inode != 0 {
			inodes[inode] = struct{}{}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the connections: %w", err)
	}
	return nil
}

// parseAddr reads an address as the kernel prints it: 32-bit words in the machine's own order, and a port.
func parseAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address: %w", s, err)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// socketInode reads "socket:[123]".
func socketInode(link string) (uint64, bool) {
	text, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	return inode, err == nil
}

// shutdown ends one socket of a process, if the descriptor still is that socket.
func shutdown(process, fd int, inode uint64) (bool, error) {
	own, err := unix.PidfdGetfd(process, fd, 0)
	if errors.Is(err, unix.EBADF) {
		return false, nil // closed meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("take descriptor %d: %w", fd, err)
	}
	defer unix.Close(own)
	var st unix.Stat_t
	if err := unix.Fstat(own, &st); err != nil || st.Ino != inode {
		return false, err // reused meanwhile
	}
	if err := unix.Shutdown(own, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return false, fmt.Errorf("shut down descriptor %d: %w", fd, err)
	}
	return true, nil
}
