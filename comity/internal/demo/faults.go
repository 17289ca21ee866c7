package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/comity-mesh/comity/internal/fault"
)

// faults are what is broken in a demo, by the name that a person gives it.
type faults struct {
	busy   sync.Mutex // held while something is broken or mended: one at a time
	mu     sync.Mutex
	broken []string
}

// The names of what can be broken, besides zones and links.
const (
	faultGlobal = "global"
	faultZoneCP = "zone-cp"
	// defaultZoneCP is the zone whose control plane is meant where none is named.
	defaultZoneCP = "onprem"
)

// FaultReport is what Break and Fix have done.
type FaultReport struct {
	What    []string `json:"what"`
	Did     []string `json:"did"` // a sentence for each thing done
	Broken  []string `json:"broken"`
	Seconds float64  `json:"seconds"`
}

// target is one thing that can be broken.
type target struct {
	name  string
	rank  int // mended in this order: what others need first
	cut   func() string
	mend  func(context.Context) error
	after string // what was done to mend it
}

// Broken lists what is broken now.
func (d *Demo) Broken() []string {
	d.faults.mu.Lock()
	defer d.faults.mu.Unlock()
	return append([]string{}, d.faults.broken...)
}

// isBroken reports whether the thing, or the zone that it is part of, is broken.
func (d *Demo) isBroken(name string) bool {
	broken := d.Broken()
	if zone, ok := strings.CutPrefix(name, faultZoneCP+"/"); ok && slices.Contains(broken, zone) {
		return true
	}
	return slices.Contains(broken, name)
}

func (d *Demo) noteBroken(name string, is bool) {
	d.faults.mu.Lock()
	defer d.faults.mu.Unlock()
	d.faults.broken = slices.DeleteFunc(d.faults.broken, func(b string) bool {
		// Who kills a zone has killed its control plane.
		return b == name || b == faultZoneCP+"/"+name
	})
	if is {
		d.faults.broken = append(d.faults.broken, name)
	}
	slices.Sort(d.faults.broken)
}

// Break breaks a zone, a link ("aws-east:gcp-west"), "global" or "zone-cp" (of a zone: "zone-cp/onprem"). It
// says what it does while it does it.
func (d *Demo) Break(_ context.Context, what string, say func(string)) (FaultReport, error) {
	d.faults.busy.Lock()
	defer d.faults.busy.Unlock()
	begin := time.Now()
	t, err := d.target(what)
	if err != nil {
		return FaultReport{}, err
	}
	if d.isBroken(t.name) {
		return FaultReport{}, &fault.Error{Code: "DEMO-BROKEN", What: t.name + " is broken already", Try: "comity demo" + DirFlag(d.opts.Dir) + " fix " + t.name, Exit: fault.ExitConflict}
	}
	did := t.cut()
	d.noteBroken(t.name, true)
	say(did)
	return FaultReport{What: []string{t.name}, Did: []string{did}, Broken: d.Broken(), Seconds: time.Since(begin).Seconds()}, nil
}

// Fix mends what was broken, or everything if what is empty, and waits until it is healthy.
func (d *Demo) Fix(ctx context.Context, what string, say func(string)) (FaultReport, error) {
	d.faults.busy.Lock()
	defer d.faults.busy.Unlock()
	begin := time.Now()
	names := d.Broken()
	if what != "" {
		names = []string{what}
	}
	var targets []target
	for _, name := range names {
		t, err := d.target(name)
		if err != nil {
			return FaultReport{}, err
		}
		if !slices.Contains(d.Broken(), t.name) {
			return FaultReport{}, &fault.Error{Code: "DEMO-NOT-BROKEN", What: t.name + " is not broken", Cause: "broken is: " + listing(d.Broken()), Try: "comity demo" + DirFlag(d.opts.Dir) + " status", Exit: fault.ExitConflict}
		}
		targets = append(targets, t)
	}
	slices.SortStableFunc(targets, func(a, b target) int { return a.rank - b.rank })
	r := FaultReport{What: []string{}, Did: []string{}}
	for _, t := range targets {
		at := time.Now()
		if err := t.mend(ctx); err != nil {
			return r, &fault.Error{Code: "DEMO-FIX", What: t.name + " does not come back", Err: err, Try: "look into " + d.path("logs") + "; comity demo" + DirFlag(d.opts.Dir) + " fix tries again"}
		}
		d.noteBroken(t.name, false)
		did := fmt.Sprintf("%s; healthy after %.1f s", t.after, time.Since(at).Seconds())
		say(did)
		r.What, r.Did = append(r.What, t.name), append(r.Did, did)
	}
	r.Broken, r.Seconds = d.Broken(), time.Since(begin).Seconds()
	return r, nil
}

func listing(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// target finds what a person means.
func (d *Demo) target(what string) (target, error) {
	if what == faultGlobal {
		return target{name: what, rank: 1, cut: d.killGlobal, mend: d.reviveGlobal, after: "started global again"}, nil
	}
	if a, b, ok := strings.Cut(what, ":"); ok && a != b && d.zoneIndex(a) >= 0 && d.zoneIndex(b) >= 0 {
		l := linkOf(a, b)
		return target{
			name: l.String(), rank: 0,
			cut: func() string {
				d.wire.sever(l)
				return fmt.Sprintf("cut the way between %s and %s: their connections stay open and nothing passes either way; no process was touched", l.a, l.b)
			},
			mend:  func(context.Context) error { d.wire.mend(l); return nil },
			after: "joined " + l.a + " and " + l.b + " again",
		}, nil
	}
	zone, onlyCP := strings.CutPrefix(what, faultZoneCP+"/")
	if what == faultZoneCP {
		zone, onlyCP = defaultZoneCP, true
	}
	i := d.zoneIndex(zone)
	switch {
	case i < 0:
		return target{}, &fault.Error{Code: "CLI-USAGE", What: fmt.Sprintf("%q is nothing that can be broken here", what),
			Try: "name one of: " + strings.Join(d.Breakable(), ", "), Exit: fault.ExitUsage}
	case onlyCP:
		return target{
			name: faultZoneCP + "/" + zone, rank: 2,
			cut:   func() string { return "killed -9: " + listing(d.procs.kill(zone)) },
			mend:  func(ctx context.Context) error { return d.reviveZoneCP(ctx, i) },
			after: "started the control plane of " + zone + " again",
		}, nil
	default:
		return target{
			name: zone, rank: 2,
			cut:   func() string { return d.killZone(d.zones[i]) },
			mend:  func(ctx context.Context) error { return d.reviveZone(ctx, i) },
			after: "started all of " + zone + " again",
		}, nil
	}
}

// Breakable lists what can be broken.
func (d *Demo) Breakable() []string {
	var zones []string
	for _, z := range d.zones {
		zones = append(zones, z.name)
	}
	return breakable(zones)
}

func breakable(zones []string) []string {
	var links, planes []string
	for i, z := range zones {
		planes = append(planes, faultZoneCP+"/"+z)
		for _, other := range zones[i+1:] {
			links = append(links, linkOf(z, other).String())
		}
	}
	return slices.Concat(zones, links, []string{faultGlobal}, planes)
}

func (d *Demo) zoneIndex(name string) int {
	return slices.IndexFunc(d.zones, func(z zonePlan) bool { return z.name == name })
}

func (d *Demo) killGlobal() string {
	return "killed -9: " + listing(d.procs.kill("global", processPostgres))
}

// reviveGlobal returns when all zones that live have come back to global.
func (d *Demo) reviveGlobal(ctx context.Context) error {
	begin := time.Now()
	if err := d.revivePostgres(ctx); err != nil {
		return err
	}
	if err := d.procs.restart("global"); err != nil {
		return err
	}
	if err := d.awaitReady(ctx, "global", "http://"+addr(globalHost(d.net), portAPI)+"/readyz"); err != nil {
		return err
	}
	d.noteBroken(faultGlobal, false)
	for _, z := range d.zones {
		if d.isBroken(faultZoneCP + "/" + z.name) {
			continue
		}
		if err := d.awaitSession(ctx, z.name, begin); err != nil {
			return err
		}
	}
	return nil
}

// killZone kills all that runs in a zone at once. Envoys die with their agents: the kernel sees to it.
func (d *Demo) killZone(z zonePlan) string {
	killed := d.procs.kill(z.processes()...)
	d.wire.close(z.name)
	return fmt.Sprintf("killed -9: %s, and the Envoys of the sidecars and ingresses among them", listing(killed))
}

func (d *Demo) reviveZoneCP(ctx context.Context, i int) error {
	begin, zone := time.Now(), d.zones[i].name
	if err := d.procs.restart(zone); err != nil {
		return err
	}
	if err := d.awaitReady(ctx, zone, "http://"+addr(zoneHost(d.net, i), portAPI)+"/readyz"); err != nil {
		return err
	}
	return d.awaitZone(ctx, d.zones[i], begin)
}

func (d *Demo) reviveZone(ctx context.Context, i int) error {
	begin, z := time.Now(), d.zones[i]
	if err := d.procs.restart(z.name); err != nil {
		return err
	}
	if err := d.awaitReady(ctx, z.name, "http://"+addr(zoneHost(d.net, i), portAPI)+"/readyz"); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return d.openZone(gctx, i, z, func(ctx context.Context, k int) error { return d.revive(ctx, z.ingress(k)) })
	})
	for _, w := range z.workloads {
		if d.procs.get(w.name) == nil {
			continue // not started yet
		}
		revive := func() error { return d.revive(gctx, w.name) }
		app := func() error { return d.procs.restart(w.application()) }
		if w.app == "shopper" {
			// A customer comes when the door is open.
			g.Go(func() error { return errors.Join(revive(), app()) })
			continue
		}
		g.Go(revive)
		g.Go(app)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return d.awaitZone(ctx, z, begin)
}

// revive starts a sidecar or an ingress again and waits for its Envoy.
func (d *Demo) revive(ctx context.Context, proc string) error {
	if err := d.forgetInfo(proc); err != nil {
		return err
	}
	if err := d.procs.restart(proc); err != nil {
		return err
	}
	return d.awaitInfo(ctx, proc)
}

// awaitZone waits until all proxies of a zone that run are connected and healthy, and the zone has come to global, if
// that is there, after begin.
func (d *Demo) awaitZone(ctx context.Context, z zonePlan, begin time.Time) error {
	want := map[string]bool{}
	for k := range z.ingresses {
		want[fmt.Sprintf("in%d", k+1)] = true
	}
	for _, w := range z.workloads {
		if pr := d.procs.get(w.name); pr != nil && !pr.ended() {
			want[w.name] = true
		}
	}
	missing := ""
	err := poll(ctx, 60*time.Second, func() (bool, error) {
		all, err := d.atZone[z.name].Proxies(ctx, z.name)
		if err != nil {
			missing = err.Error()
			return false, nil
		}
		left := len(want)
		for _, p := range all {
			if want[p.Proxy.Name] && p.Connected && p.Healthy {
				left--
			}
		}
		missing = fmt.Sprintf("%d of its %d proxies are not connected and healthy", left, len(want))
		return left <= 0, nil
	})
	if err != nil {
		return fmt.Errorf("zone %s: %s: %w", z.name, missing, err)
	}
	if d.isBroken(faultGlobal) {
		return nil
	}
	return d.awaitSession(ctx, z.name, begin)
}

// awaitSession waits until a zone has a session with global that began after begin.
func (d *Demo) awaitSession(ctx context.Context, zone string, begin time.Time) error {
	last := errors.New("global has not heard from it")
	err := poll(ctx, 60*time.Second, func() (bool, error) {
		all, err := d.zoneStatuses(ctx)
		if err != nil {
			last = err
			return false, nil
		}
		z := all[zone]
		return z.Connected && z.ConnectedSince.After(begin), nil
	})
	if err != nil {
		return fmt.Errorf("zone %s comes back to global: %w: %w", zone, last, err)
	}
	return nil
}
