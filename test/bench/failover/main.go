// Command failover measures what the callers of a service notice when the zone that serves it dies, and when the way
// to that zone becomes a black hole: failed requests, the longest, and how long until all of them are answered from
// elsewhere, and from home again. It runs the demo with its real Envoys and sends an open-loop load of GETs through one of
// its sidecars: a request counts from when it was due, so one that waits for another is late, and none is left out.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/internal/openloop"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flag.StringVar(&c.bin, "bin", "bin", "folder with the programs")
	flag.IntVar(&c.runs, "runs", 3, "runs of each fault")
	flag.Float64Var(&c.rate, "rate", 200, "requests a second")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench failover:", err)
		os.Exit(1)
	}
}

type config struct {
	bin    string
	runs   int
	rate   float64
	limits bool
}

// The demo's ledger is at onprem as long as it can be, at aws-east otherwise; a cart of gcp-west asks for it.
const (
	asker   = "cart-g1"
	service = "ledger.shop.svc.clusterset.local"
	home    = "onprem"
	standby = "aws-east"
)

// faults are what is broken, in the words of `comity demo break`.
var faults = []struct{ what, name, text string }{
	{home, "death", "kill -9 of all processes of a zone"},
	{"gcp-west:" + home, "blackhole", "the way to a zone becomes a black hole"},
}

const (
	// steadyFor is how long all requests must be answered by the right zone, and quickly, to count as settled.
	steadyFor = 500 * time.Millisecond
	// quick is what a request may take on a settled way; three times the usual p99 if that is more.
	quick = 100 * time.Millisecond
	// patience is how long settling may take before the bench gives up.
	patience = 2 * time.Minute
)

func (c config) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "comity-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report := rig.NewReport(out, "failover", fmt.Sprintf("the demo on one machine, 16 real Envoys; %g GETs a second, open loop, of %s through the sidecar of %s", c.rate, service, asker))
	d, err := c.up(ctx, filepath.Join(dir, "demo"))
	if err != nil {
		return err
	}
	defer d.down()
	for _, f := range faults {
		for run := range c.runs {
			report.Note("%s, run %d; load average %s", f.text, run+1, rig.Load())
			if err := d.measure(ctx, report, f.name, f.what, run+1); err != nil {
				return fmt.Errorf("%s, run %d: %w", f.text, run+1, err)
			}
		}
	}
	if c.limits {
		return report.Err()
	}
	return nil
}

// demo is a running demo.
type demo struct {
	config
	dir      string
	cmd      *exec.Cmd
	outbound string // of the asker's sidecar
	http     *http.Client
}

func (c config) up(ctx context.Context, dir string) (*demo, error) {
	cmd, _, err := rig.Demo(ctx, c.bin, dir)
	if err != nil {
		return nil, err
	}
	d := &demo{config: c, dir: dir, cmd: cmd, http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	var info struct {
		Outbound string `json:"outbound"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "info", asker+".json"))
	if err == nil {
		err = json.Unmarshal(text, &info)
	}
	if err != nil || info.Outbound == "" {
		d.down()
		return nil, fmt.Errorf("the sidecar of %s: %w", asker, err)
	}
	d.outbound = info.Outbound
	return d, nil
}

func (d *demo) down() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

// order gives the demo an order.
func (d *demo) order(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(d.bin, "comity"), append([]string{"demo", "--dir", d.dir}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("comity demo %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// ask asks once, and says which zone has answered.
func (d *demo) ask(ctx context.Context, _ int) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.outbound+"/balance", nil)
	if err != nil {
		return "", err
	}
	req.Host = service
	res, err := d.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", err
	}
	var answer struct {
		Trail []struct {
			Zone string `json:"zone"`
		} `json:"trail"`
	}
	if res.StatusCode != http.StatusOK || json.Unmarshal(text, &answer) != nil || len(answer.Trail) == 0 {
		return "", fmt.Errorf("answered %d: %.100s", res.StatusCode, text)
	}
	return answer.Trail[0].Zone, nil
}

// measure breaks and mends once, under load.
func (d *demo) measure(ctx context.Context, report *rig.Report, name, what string, run int) error {
	load := openloop.Start(ctx, d.rate, d.ask)
	stopped := false
	defer func() {
		if !stopped {
			load.Stop()
		}
	}()
	since, err := settle(ctx, load, time.Now(), home, quick)
	if err != nil {
		return err
	}
	limit := max(quick, 3*load.SoFar().Since(since).Percentile(99))
	broken := time.Now()
	if err := d.order(ctx, "break", what); err != nil {
		return err
	}
	away, err := settle(ctx, load, broken, standby, limit)
	if err != nil {
		return err
	}
	if err := d.order(ctx, "fix", what); err != nil {
		return err
	}
	mended := time.Now()
	back, err := settle(ctx, load, mended, home, limit)
	if err != nil {
		return err
	}
	stopped = true
	all := load.Stop()
	failed := all.Failed()
	key := fmt.Sprintf("failover-%s-%d", name, run)
	report.Limit(key+"-failed", fmt.Sprintf("failed requests of %d", len(all)), float64(len(failed)), "requests", 0)
	report.Figure(key+"-longest", "longest request", all.Longest().Seconds()*1000, "ms")
	report.Figure(key+"-settled", fmt.Sprintf("all answered by %s within %d ms, after", standby, limit.Milliseconds()), away.Sub(broken).Seconds()*1000, "ms")
	report.Figure(key+"-back", fmt.Sprintf("all answered by %s again, after it was mended", home), back.Sub(mended).Seconds()*1000, "ms")
	if len(failed) > 0 {
		report.Note("the first failure: %v", failed[0].Err)
	}
	return nil
}

// settle waits until since t or a later time, which it returns, the zone has answered everything, and quickly.
func settle(ctx context.Context, load *openloop.Load, t time.Time, zone string, limit time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		since, ok := load.SoFar().SteadyFrom(t, steadyFor, func(q openloop.Request) bool {
			return q.Err == nil && q.By == zone && q.Took < limit
		})
		if ok {
			return since, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			last := load.SoFar()
			last = last.Since(time.Now().Add(-2 * time.Second))
			return time.Time{}, errors.Join(ctx.Err(), fmt.Errorf("%s does not answer everything within %s; of the last: %v, longest %s, %d failed", zone, limit, last.By(), last.Longest(), len(last.Failed())))
		}
	}
}
