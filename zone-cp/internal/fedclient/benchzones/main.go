// Command benchzones is many zones in one process, for test/bench/federation: each with the federation client, the
// store, the authority, the statements and the reports of a real zone, and without proxies. It takes orders on
// standard input, one a line, and answers each with a line of JSON.
//
//	join DIR EXPORTS PROXIES   then a line of JSON, [{"zone", "token"}]: joins them all and waits until each has
//	                           what global has; each says that it exports so many services, and reports so many proxies
//	expect REVISION            waits until every zone holds global's revision in its store
//	move ADDRESS               ends all sessions, and begins them anew at another address of global
//	usage                      what the process uses
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/comity-mesh/comity/mesh"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "benchzones:", err)
		os.Exit(1)
	}
}

// answer is what every order is answered with.
type answer struct {
	Error string `json:"error,omitempty"`
	// Held is when the last zone had what was expected in its store, in Unix nanoseconds.
	Held int64 `json:"held,omitempty"`
	// Zones that are connected.
	Connected int     `json:"connected"`
	CPUMicros float64 `json:"cpuMicros"`
}

// invitation lets a zone join.
type invitation struct {
	Zone  string `json:"zone"`
	Token string `json:"token"`
}

const patience = time.Minute

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	var f fleet
	defer f.close()
	enc, lines := json.NewEncoder(out), bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		a, err := f.obey(ctx, words, lines)
		if err != nil {
			a.Error = err.Error()
		}
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return err
		}
		a.CPUMicros = float64(u.Utime.Nano()+u.Stime.Nano()) / 1000
		a.Connected = f.connected()
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

// fleet is all zones.
type fleet struct{ zones []*zone }

func (f *fleet) obey(ctx context.Context, words []string, lines *bufio.Scanner) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	number := func(i int) int {
		if i >= len(words) {
			return 0
		}
		n, _ := strconv.Atoi(words[i])
		return n
	}
	switch {
	case len(words) == 4 && words[0] == "join":
		var list []invitation
		if !lines.Scan() {
			return answer{}, io.ErrUnexpectedEOF
		}
		if err := json.Unmarshal(lines.Bytes(), &list); err != nil {
			return answer{}, err
		}
		return answer{}, f.join(ctx, words[1], list, number(2), number(3))
	case len(words) == 2 && words[0] == "expect":
		at, err := f.expect(ctx, mesh.Revision(number(1))) //nolint:gosec // the bench's own number
		return answer{Held: at.UnixNano()}, err
	case len(words) == 2 && words[0] == "move":
		return answer{}, f.move(ctx, words[1])
	case len(words) == 1 && words[0] == "usage":
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("what is %q", words)
}

func (f *fleet) join(ctx context.Context, dir string, list []invitation, exports, proxies int) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, inv := range list {
		group.Go(func() error {
			z, err := open(ctx, dir, inv.Zone, exports, proxies)
			if err != nil {
				return fmt.Errorf("%s: %w", inv.Zone, err)
			}
			mu.Lock()
			f.zones = append(f.zones, z)
			mu.Unlock()
			if _, err := z.client("").Join(ctx, inv.Token); err != nil {
				return fmt.Errorf("%s: %w", inv.Zone, err)
			}
			z.begin("")
			_, err = z.fed.Synced(ctx)
			return err
		})
	}
	return group.Wait()
}

// expect returns when the last zone had the revision.
func (f *fleet) expect(ctx context.Context, revision mesh.Revision) (time.Time, error) {
	var last time.Time
	for _, z := range f.zones {
		at, err := z.held.wait(ctx, revision)
		if err != nil {
			return last, fmt.Errorf("%s: %w", z.name, err)
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}

func (f *fleet) move(ctx context.Context, address string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, z := range f.zones {
		group.Go(func() error {
			z.end()
			z.begin(address)
			_, err := z.fed.Synced(ctx)
			return err
		})
	}
	return group.Wait()
}

func (f *fleet) connected() int {
	n := 0
	for _, z := range f.zones {
		if z.fed != nil && z.fed.State().Connected {
			n++
		}
	}
	return n
}

func (f *fleet) close() {
	for _, z := range f.zones {
		z.close()
	}
}
