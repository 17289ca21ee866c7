package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/comity-mesh/comity/internal/openloop"
)

const (
	// loadRate is in requests a second.
	loadRate = 200
	// steadyFor is how long everything must go well before it counts as steady.
	steadyFor = 500 * time.Millisecond
	// quick is what a request may take on a steady way, at least: machines of two cores pause.
	quick = 100 * time.Millisecond
	// patience is how long a traffic may take to settle before the step fails. What it took is printed.
	patience = 60 * time.Second
)

// load is an open-loop load of GETs that a cart makes of the ledger, through its sidecar.
type load struct {
	*openloop.Load
	from  string        // workload
	limit time.Duration // slower than this is not steady
}

// startLoad begins it and returns when the zone answers everything.
func (d *Demo) startLoad(ctx context.Context, workload, zone string) (*load, error) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	l := &load{from: workload, limit: quick, Load: openloop.Start(ctx, loadRate, func(ctx context.Context, _ int) (string, error) {
		code, text, err := d.viaSidecar(ctx, c, workload, http.MethodGet, ledgerAnywhere, "/balance", "")
		if err != nil {
			return "", err
		}
		var o Order
		if code != http.StatusOK || json.Unmarshal([]byte(text), &o) != nil || len(o.Trail) == 0 {
			return "", fmt.Errorf("answered %d: %s", code, text)
		}
		return o.Trail[0].Zone, nil
	})}
	since, err := l.settle(ctx, time.Now(), zone)
	if err != nil {
		l.Stop()
		return nil, err
	}
	if p99 := l.SoFar().Since(since).Percentile(99); 3*p99 > quick {
		l.limit = 3 * p99 // a machine that has other things to do
	}
	return l, nil
}

// settle waits until, since some time at or after t, the zone has answered everything, and quickly; it returns that time.
func (l *load) settle(ctx context.Context, t time.Time, zone string) (since time.Time, err error) {
	err = poll(ctx, patience, func() (ok bool, _ error) {
		since, ok = l.SoFar().SteadyFrom(t, steadyFor, func(q openloop.Request) bool {
			return q.Err == nil && q.By == zone && q.Took < l.limit
		})
		return ok, nil
	})
	if err != nil {
		return since, fmt.Errorf("not all requests are answered by %s within %.0f ms: %w (of the last second: %s)", zone, ms(l.limit), err, summary(l.SoFar().Since(time.Now().Add(-time.Second))))
	}
	return since, nil
}

// verdict ends the load and says what became of it; a failed request is an error.
func (l *load) verdict() (string, error) {
	all := l.Stop()
	fact := fmt.Sprintf("%d GETs of %s, %d a second: %s", len(all), l.from, loadRate, summary(all))
	if failed := all.Failed(); len(failed) > 0 {
		return fact, fmt.Errorf("%d requests failed, the first with: %w", len(failed), failed[0].Err)
	}
	return fact, nil
}

func summary(r openloop.Record) string {
	var by []string
	for _, zone := range sortedKeys(r.By()) {
		by = append(by, fmt.Sprintf("%d by %s", r.By()[zone], zone))
	}
	return fmt.Sprintf("%d failed, longest %.0f ms, p50 %.1f ms, p99 %.1f ms; answered %s", len(r.Failed()), ms(r.Longest()), ms(r.Percentile(50)), ms(r.Percentile(99)), strings.Join(by, ", "))
}

// underLoad plays a scene while a workload asks for balances, which home answers at first, and at the end demands that no
// request failed. The scene's facts come before those of the load.
func (d *Demo) underLoad(ctx context.Context, workload string, scene func(l *load) ([]string, error)) ([]string, error) {
	l, err := d.startLoad(ctx, workload, home)
	if err != nil {
		return nil, err
	}
	facts, err := scene(l)
	fact, lost := l.verdict()
	return append(facts, fact), errors.Join(err, lost)
}
