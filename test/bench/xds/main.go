// Command xds measures what one zone control plane spends on its proxies: fake delta-ADS clients over real
// gRPC, in a process of their own, against the zone's server and against go-control-plane's LinearCache
// with the same resources, one after the other in turns. It prints one JSON line per figure, and fails if
// a limit is not kept.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/comity-mesh/comity/test/bench/internal/rig"
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
	server, err := rig.Build(dir, "github.com/comity-mesh/comity/zone-cp/internal/ads/benchserver")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(map[string]any{
		"conditions": "xds", "cores": runtime.NumCPU(), "load": rig.Load(), "go": runtime.Version(),
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
			f.Values[kind] = rig.At(v, 50)
		}
		if f.Values["linear"] > 0 {
			f.Ratio = f.Values["comity"] / f.Values["linear"]
		}
		if err := enc.Encode(f); err != nil {
			return err
		}
		// Two figures have no limit. With a changed cluster the peer sends no endpoints, without which Envoy waits for
		// 15 s. After a reconnect neither sends anything that matters: it is gRPC's cost.
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
func quiet(server *rig.Child, n int64) (usage, error) {
	var last usage
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for same := 0; ; {
		var u usage
		if err := server.Ask("usage", &u); err != nil {
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
	server, err := rig.Start(binary, "-kind", kind, "-clusters", fmt.Sprint(c.clusters))
	if err != nil {
		return err
	}
	defer server.Stop()
	var hello struct {
		Address string `json:"address"`
	}
	if err := server.Read(&hello); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	clients, err := rig.Start(self, "-role", "clients", "-address", hello.Address, "-clients", fmt.Sprint(c.clients), "-clusters", fmt.Sprint(c.clusters))
	if err != nil {
		return err
	}
	defer clients.Stop()
	n := float64(c.clients)
	var idle usage
	if err := server.Ask("collect", &idle); err != nil {
		return err
	}
	before, err := quiet(server, 0)
	if err != nil {
		return err
	}
	step := func(change, order string, requests int) (usage, traffic, error) {
		var u usage
		var tr traffic
		if err := clients.Ask("mark", &tr); err != nil {
			return u, tr, err
		}
		if change != "" {
			if err := server.Ask("change "+change, &u); err != nil {
				return u, tr, err
			}
		}
		if err := clients.Ask(order, &tr); err != nil {
			return u, tr, err
		}
		if tr.Error != "" {
			return u, tr, errors.New(tr.Error)
		}
		u, err := quiet(server, before.Received+int64(requests*c.clients))
		if err != nil {
			return u, tr, err
		}
		return u, tr, clients.Ask("bytes", &tr)
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
	if err := server.Ask("collect", &u); err != nil {
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
