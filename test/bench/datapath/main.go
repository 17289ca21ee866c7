// Command datapath measures what a request costs on its way: CPU of each proxy, for a fixed number of requests. A pair of sidecars as
// users get them is held against a pair of Envoys that somebody wrote by hand with nothing in it that isn't needed, against one that was
// asked by hand for what ours does without being asked, against nginx, and against no proxy at all; then each feature against the same pair without it. Everything has its turn in every round, in random
// order, and every comparison is made within a round. It fails if a limit is not kept.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flag.StringVar(&c.role, "role", "", "internal: load or app")
	flag.StringVar(&c.bin, "bin", "bin", "folder with the programs")
	flag.StringVar(&c.docs, "docs", "", "folder of docs whose tables are written anew")
	flag.IntVar(&c.rounds, "rounds", 20, "rounds of the comparison of pairs; 0: none")
	flag.IntVar(&c.requests, "requests", 2500, "requests of a slice")
	flag.IntVar(&c.warm, "warm", 300, "requests before each slice")
	flag.IntVar(&c.rate, "rate", 1000, "requests a second for latencies, for a second")
	flag.IntVar(&c.pacedRounds, "paced-rounds", 3, "rounds at that rate")
	flag.IntVar(&c.featureRounds, "feature-rounds", 16, "rounds of the features; 0: none")
	flag.IntVar(&c.featureRequests, "feature-requests", 1500, "requests of a feature's slice")
	flag.StringVar(&c.modes, "modes", "", "modes to compare, separated by commas; default: all")
	flag.StringVar(&c.only, "only", "", "features whose names begin so, separated by commas")
	flag.DurationVar(&c.budget, "budget", 8*time.Minute, "time for all of it: on a machine that is too busy there are fewer rounds")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	var err error
	switch c.role {
	case "load":
		runtime.GOMAXPROCS(1)
		err = load.Generate(os.Stdin, os.Stdout)
	case "app":
		runtime.GOMAXPROCS(1)
		err = load.ServeApp(os.Stdin, os.Stdout)
	default:
		err = c.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench datapath:", err)
		os.Exit(1)
	}
}

type config struct {
	role, bin, docs, modes, only   string
	rounds, requests, warm         int
	rate, pacedRounds              int
	featureRounds, featureRequests int
	budget                         time.Duration
	limits                         bool
}

// The comparison and its latencies end when so much of the budget is gone, and the features get the rest.
const (
	compareUntil = 0.5
	paceUntil    = 0.62
)

// maxRatio is how much more CPU of a request a hop of ours may take than one that is written by hand.
const maxRatio = 1.05

// bench is all that is measured.
type bench struct {
	config
	report    *rig.Report
	generator *rig.Child
	app       load.App
	mesh      *ours
	values    values
	// contestants by name, with their ways by mode.
	contestants map[string]map[string]way
	stops       []func()
	began       time.Time
	repeated    int // slices that failed and were done again
	// conditions of the run, for tables: the date and the load before it.
	conditions string
}

func (c config) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "cbench") // short: sockets' paths have little room
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{config: c, contestants: map[string]map[string]way{}, began: time.Now(), conditions: time.Now().UTC().Format(time.DateOnly) + ", load " + strings.Fields(rig.Load())[0], report: rig.NewReport(out, "datapath", fmt.Sprintf(
		"mTLS with P-256 and TLS 1.3 over loopback, one worker a proxy, 64 requests at a time, answers of %d bytes; %d rounds of %d requests", load.Body, c.rounds, c.requests))}
	defer b.stop()
	if err := b.start(ctx, dir); err != nil {
		return err
	}
	tables := map[string]string{}
	if c.rounds > 0 {
		all, err := b.compare(ctx)
		if err != nil {
			return err
		}
		b.reportModes(all)
		tables["datapath"] = b.modesTable(all)
	}
	if c.featureRounds > 0 {
		costs, err := b.measureFeatures(ctx)
		if err != nil {
			return err
		}
		b.reportFeatures(costs)
		maps.Copy(tables, b.costsTables(costs))
	}
	for _, name := range sortedKeys(tables) {
		fmt.Fprintf(out, "\n%s\n\n%s", name, tables[name])
	}
	if c.docs != "" {
		if err := writeDocs(c.docs, tables); err != nil {
			return err
		}
	}
	if c.limits {
		return b.report.Err()
	}
	return nil
}

// spent says that so much of the budget is gone.
func (b *bench) spent(share float64) bool {
	return time.Since(b.began).Seconds() > share*b.budget.Seconds()
}

func (b *bench) stop() {
	for _, stop := range slices.Backward(b.stops) {
		stop()
	}
}

func (b *bench) start(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	app, err := rig.Start(self, "-role", "app")
	if err != nil {
		return err
	}
	b.stops = append(b.stops, app.Stop)
	if err := app.Read(&b.app); err != nil {
		return err
	}
	if b.generator, err = rig.Start(self, "-role", "load"); err != nil {
		return err
	}
	b.stops = append(b.stops, b.generator.Stop)
	if b.mesh, err = startOurs(ctx, b.bin, dir, b.app); err != nil {
		return err
	}
	b.stops = append(b.stops, b.mesh.stop)
	if b.values, err = newValues(b.app, dir); err != nil {
		return err
	}
	for name, last := range map[string]string{oursA: "a", oursB: "b"} {
		if b.contestants[name], err = b.mesh.ways(last); err != nil {
			return err
		}
	}
	b.contestants[straight] = directWays(b.app)
	if b.rounds == 0 {
		return nil
	}
	client, server, err := makeKeys(dir)
	if err != nil {
		return err
	}
	for name, do := range map[string]wants{leanA: lean(), leanB: lean(), alike: same(server.peer)} {
		p, err := startPair(ctx, dir, name, b.app, client, server, do)
		if err != nil {
			return err
		}
		b.stops = append(b.stops, p.stop)
		if name == alike {
			delete(p.ways, "tcp") // what it is asked for there is done once a connection
		} else {
			p.ways[middleMode] = b.mesh.handWritten(name)
		}
		b.contestants[name] = p.ways
	}
	p, missing, err := startNginx(ctx, dir, b.app, client, server)
	if err != nil {
		return err
	}
	if p == nil {
		b.report.Note("without nginx: %s", missing)
		return nil
	}
	b.stops = append(b.stops, p.stop)
	b.contestants[nginx] = p.ways
	return nil
}

// load gives the generator an order; r may be nil.
func (b *bench) load(o load.Order, r *load.Result) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if r == nil {
		r = &load.Result{}
	}
	if err := b.generator.Ask(strings.TrimSpace(string(text)), r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}
