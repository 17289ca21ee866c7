// Command xds measures what one zone control plane spends on its proxies: fake delta-ADS clients over real
// gRPC, in a process of their own, against the zone's server and against go-control-plane's LinearCache
// with the same resources, one after the other in turns. It prints one JSON line per figure, and fails if
// a limit is not kept.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	var c config
	flag.StringVar(&c.role, "role", "", "internal: clients")
	flag.StringVar(&c.address, "address", "", "internal: of the server")
	flag.IntVar(&c.clients, "clients", 2000, "clients")
	flag.IntVar(&c.clusters, "clusters", 100, "clusters of each client")
	flag.IntVar(&c.changes, "changes", 10, "changes of each type in a turn")
	flag.IntVar(&c.turns, "turns", 3, "turns of each server")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	var err error
	if c.role == "clients" {
		err = runClients(c, os.Stdin, os.Stdout)
	} else {
		err = c.run(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "xds bench:", err)
		os.Exit(1)
	}
}

type config struct {
	role, address                     string
	clients, clusters, changes, turns int
	limits                            bool
}

// Limits: CPU beside the peer's, and memory of the control plane per proxy.
const (
	maxCPURatio = 0.6
	maxRSSKiB   = 80
)

// figure is one line of output.
type figure struct {
	Name   string               `json:"name"`
	Unit   string               `json:"unit"`
	Values map[string]float64   `json:"values"` // median of the turns, by server
	Ratio  float64              `json:"ratio,omitempty"`
	All    map[string][]float64 `json:"all"`
}

func (c config) run(out io.Writer) error {
	dir, err := os.MkdirTemp("", "xdsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server := filepath.Join(dir, "benchserver")
	build := exec.Command("go", "build", "-o", server, "github.com/comity-mesh/comity/zone-cp/internal/ads/benchserver")
	if b, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the server: %w: %s", err, b)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	enc := json.NewEncoder(out)
	if err := enc.Encode(map[string]any{
		"conditions": "xds", "cores": runtime.NumCPU(), "load": strings.TrimSpace(string(load)), "go": runtime.Version(),
		"peer": "go-control-plane v0.14.0 MuxCache of LinearCaches", "clients": c.clients, "clusters": c.clusters, "changes": c.changes,
		"turns": c.turns, "transport": "gRPC over loopback TCP without TLS, one connection a client",
	}); err != nil {
		return err
	}
	all := map[string]map[string][]float64{}
	units := map[string]string{}
	var order []string
	for range c.turns {
		for _, kind := range []string{"comity", "linear"} {
			err := c.turn(server, kind, func(name, unit string, v float64) {
				if all[name] == nil {
					all[name] = map[string][]float64{}
					order = append(order, name)
					units[name] = unit
				}
				all[name][kind] = append(all[name][kind], v)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	var broken []error
	for _, name := range order {
		f := figure{Name: name, Unit: units[name], All: all[name], Values: map[string]float64{}}
		for kind, v := range all[name] {
			f.Values[kind] = median(v)
		}
		if f.Values["linear"] > 0 {
			f.Ratio = f.Values["comity"] / f.Values["linear"]
		}
		if err := enc.Encode(f); err != nil {
			return err
		}
		// Two figures have no limit, because the peer does less than Envoy needs: it sends a changed cluster
		// without its endpoints, and after a reconnect no endpoints at all; Envoy then waits for 15 s.
		lesser := name == "change-cluster-cpu" || name == "reconnect-unchanged-cpu"
		if strings.HasSuffix(name, "-cpu") && !lesser && f.Ratio > maxCPURatio {
			broken = append(broken, fmt.Errorf("%s: %.2f of the peer's CPU, the limit is %.2f", name, f.Ratio, maxCPURatio))
		}
		if name == "rss-per-proxy" && f.Values["comity"] > maxRSSKiB {
			broken = append(broken, fmt.Errorf("%s: %.0f KiB, the limit is %d", name, f.Values["comity"], maxRSSKiB))
		}
	}
	if c.limits {
		return errors.Join(broken...)
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// child is a process that answers each line with one of JSON.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(name string, args ...string) (*child, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd, in, bufio.NewReader(out)}, nil
}

// stop ends the child by ending its input.
func (p *child) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

func (p *child) read(v any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s ended: %w", filepath.Base(p.cmd.Path), err)
	}
	return json.Unmarshal(line, v)
}

func (p *child) ask(order string, v any) error {
	if _, err := fmt.Fprintln(p.in, order); err != nil {
		return err
	}
	return p.read(v)
}

// usage is what the server says of itself.
type usage struct {
	CPUMicros float64 `json:"cpuMicros"`
	RSSKiB    float64 `json:"rssKiB"`
	HeapKiB   float64 `json:"heapKiB"`
	Received  int64   `json:"received"`
}

// traffic is what the clients say.
type traffic struct {
	Bytes int64  `json:"bytes"`
	Error string `json:"error"`
}

// quiet waits until the server has taken at least n requests and spends no more CPU, and returns its usage.
func quiet(server *child, n int64) (usage, error) {
	var last usage
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for same := 0; ; {
		var u usage
		if err := server.ask("usage", &u); err != nil {
			return u, err
		}
		if u.Received >= n && u.Received == last.Received && u.CPUMicros-last.CPUMicros < 2500 {
			if same++; same == 3 {
				return u, nil
			}
		} else {
			same = 0
		}
		last = u
		if time.Now().After(deadline) {
			return u, fmt.Errorf("server took %d requests and is not quiet after two minutes", u.Received)
		}
		<-tick.C
	}
}

func (c config) turn(binary, kind string, report func(name, unit string, v float64)) error {
	server, err := start(binary, "-kind", kind, "-clusters", fmt.Sprint(c.clusters))
	if err != nil {
		return err
	}
	defer server.stop()
	var hello struct {
		Address string `json:"address"`
	}
	if err := server.read(&hello); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	clients, err := start(self, "-role", "clients", "-address", hello.Address, "-clients", fmt.Sprint(c.clients), "-clusters", fmt.Sprint(c.clusters))
	if err != nil {
		return err
	}
	defer clients.stop()
	n := float64(c.clients)
	var idle usage
	if err := server.ask("collect", &idle); err != nil {
		return err
	}
	before, err := quiet(server, 0)
	if err != nil {
		return err
	}
	step := func(change, order string, requests int) (usage, traffic, error) {
		var u usage
		var tr traffic
		if err := clients.ask("mark", &tr); err != nil {
			return u, tr, err
		}
		if change != "" {
			if err := server.ask("change "+change, &u); err != nil {
				return u, tr, err
			}
		}
		if err := clients.ask(order, &tr); err != nil {
			return u, tr, err
		}
		if tr.Error != "" {
			return u, tr, errors.New(tr.Error)
		}
		u, err := quiet(server, before.Received+int64(requests*c.clients))
		if err != nil {
			return u, tr, err
		}
		return u, tr, clients.ask("bytes", &tr)
	}
	// Four subscriptions and four ACKs of each.
	after, tr, err := step("", "connect", 8)
	if err != nil {
		return err
	}
	report("cold-cpu", "us/proxy", (after.CPUMicros-before.CPUMicros)/n)
	report("cold-bytes", "B/proxy", float64(tr.Bytes)/n)
	before = after
	for _, typ := range []string{"endpoints", "route", "cluster", "cluster+endpoints"} {
		first := before
		var sum int64
		for range c.changes {
			expected, _, _ := strings.Cut(typ, "+")
			after, tr, err := step(typ, "expect "+expected, 1)
			if err != nil {
				return fmt.Errorf("change of %s: %w", typ, err)
			}
			sum += tr.Bytes
			before = after
		}
		report("change-"+typ+"-cpu", "us/proxy", (before.CPUMicros-first.CPUMicros)/n/float64(c.changes))
		report("change-"+typ+"-bytes", "B/proxy", float64(sum)/n/float64(c.changes))
	}
	report("rss-per-proxy-uncollected", "KiB", (before.RSSKiB-idle.RSSKiB)/n)
	var u usage
	if err := server.ask("collect", &u); err != nil {
		return err
	}
	report("rss-per-proxy", "KiB", (u.RSSKiB-idle.RSSKiB)/n)
	report("heap-per-proxy", "KiB", (u.HeapKiB-idle.HeapKiB)/n)
	if before, err = quiet(server, 0); err != nil {
		return err
	}
	if after, tr, err = step("", "reconnect", 4); err != nil {
		return err
	}
	report("reconnect-unchanged-cpu", "us/proxy", (after.CPUMicros-before.CPUMicros)/n)
	report("reconnect-unchanged-bytes", "B/proxy", float64(tr.Bytes)/n)
	return nil
}
