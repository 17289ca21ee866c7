package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/openloop"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// rate is the load under which faults happen, in requests a second.
	rate = 200
	// slow is what a request takes only if something is wrong; on a busy machine it is more (load).
	slow = 300 * time.Millisecond
)

// estate is a mesh on a network: in east a caller, in west and north the same service, west being the nearer. Global is a
// site of its own, and in each zone the control plane, the ingress and the workload are hosts.
type estate struct {
	*network
	global *controlPlane
	zones  map[string]*member
	web    *workload
}

// member is a zone with its hosts.
type member struct {
	*zone
	site    string
	ingress *proxy
	entry   *host // of the ingress
	pay     *workload
}

const payPort = 9000

func newEstate(t testing.TB) *estate {
	t.Helper()
	e := &estate{network: newNetwork(t), zones: map[string]*member{}}
	e.global = startGlobalOn(t, e.host(1))
	e.global.apply(payService(payPort) + "---" + exportPay + "---" + allowAll)
	for i, z := range []struct{ name, place string }{
		{"east", "cloud: a, region: r1, "}, {"west", "cloud: a, region: r1, "}, {"north", "cloud: b, region: r2, "},
	} {
		m := &member{site: site(i + 2), zone: startZoneOn(t, e.host(i+2), z.name)}
		m.place = z.place
		m.joins(e.global, "shop")
		m.entry = e.host(i + 2)
		m.ingress = m.ingressOn(m.entry, "in1")
		e.zones[z.name] = m
		at := e.host(i + 2)
		if z.name == "east" {
			e.web = m.workloadOn(at, "web")
			continue
		}
		appOn(t, at, "pay@"+z.name+"@", payPort)
		m.pay = m.workloadOn(at, "pay")
	}
	e.settled(t)
	return e
}

// settled awaits that all is well: west serves.
func (e *estate) settled(t testing.TB) {
	t.Helper()
	good := 0
	await(t, "west serves", func() error {
		by, err := e.ask(t.Context())
		if good++; err == nil && by != "west" {
			err = fmt.Errorf("%q answers", by)
		}
		if err != nil {
			good = 0
			return err
		}
		if good < 50 {
			return errors.New("not for long")
		}
		return nil
	})
}

// ask makes one request and says which zone answered.
func (e *estate) ask(ctx context.Context) (by string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+payHost+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := e.web.http.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.200s", res.Status, text)
	}
	_, rest, _ := strings.Cut(string(text), "@")
	by, _, _ = strings.Cut(rest, "@")
	return by, nil
}

// load is requests that flow.
type load struct {
	*openloop.Load
	slow time.Duration
}

// load begins the requests, awaits that they flow, and sees what they take on this machine when all is well.
func (e *estate) load(t testing.TB) load {
	t.Helper()
	l := load{openloop.Start(t.Context(), rate, func(ctx context.Context, _ int) (string, error) { return e.ask(ctx) }), within}
	since := steady(t, l, time.Now(), "west", 2*time.Second)
	l.slow = max(slow, 3*l.SoFar().Since(since).Longest())
	return l
}

// steady awaits that, for as long as window, all requests are answered by one zone and quickly, and returns since when
// they were.
func steady(t testing.TB, l load, from time.Time, zone string, window time.Duration) time.Time {
	t.Helper()
	var at time.Time
	await(t, zone+" serves", func() error {
		var last openloop.Request
		var ok bool
		at, ok = l.SoFar().SteadyFrom(from, window, func(q openloop.Request) bool {
			good := q.Err == nil && q.By == zone && q.Took < l.slow
			if !good {
				last = q
			}
			return good
		})
		if !ok {
			return fmt.Errorf("the last other request was answered by %q, in %s, with error %q", last.By, last.Took, fmt.Sprint(last.Err))
		}
		return nil
	})
	return at
}

// figures are what a fault did to the requests.
type figures struct {
	requests, failed int
	longest          time.Duration
	settled, back    time.Duration // from the fault, and from its end
}

func (f figures) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%d of %d failed, longest %s, settled in %s, back in %s", f.failed, f.requests, ms(f.longest), ms(f.settled), ms(f.back))
}

// says awaits that the overview of a control plane bears something out.
func says(t testing.TB, at *controlPlane, what string, ok func(client.Overview) bool) {
	t.Helper()
	await(t, at.name+" says: "+what, func() error {
		var o client.Overview
		if err := at.Fetch(ctxOf(t), "/overview", &o); err != nil {
			return err
		}
		if !ok(o) {
			return fmt.Errorf("links %+v, traffic %+v, failover %+v", o.Links, o.Traffic, o.Failover)
		}
		return nil
	})
}

// link is whether a zone reaches another, as it says itself.
func link(from, to string, reachable bool) func(client.Overview) bool {
	return func(o client.Overview) bool {
		return slices.ContainsFunc(o.Links, func(l mesh.LinkStatus) bool {
			return l.Zone == from && l.To == to && l.Probed && l.Reachable == reachable
		})
	}
}

// goes is whether east's requests to pay are said to go to one zone alone.
func goes(zone string) func(client.Overview) bool {
	return func(o client.Overview) bool {
		i := slices.IndexFunc(o.Failover, func(f mesh.FailoverStatus) bool { return f.Zone == "east" && f.Service == "pay" })
		return i >= 0 && slices.ContainsFunc(o.Failover[i].Targets, func(t mesh.FailoverTarget) bool { return t.Zone == zone && t.Share > 0.999 })
	}
}

// sends is whether east's proxies are said to send some 200 requests a second to a zone, and none to others.
func sends(zone string) func(client.Overview) bool {
	return func(o client.Overview) bool {
		there := false
		for _, f := range o.Traffic {
			if f.Zone != "east" || f.Service != "pay" || f.Requests == 0 {
				continue
			}
			if there = f.To == zone && f.Requests > rate*0.7 && f.Requests < rate*1.3; !there {
				return false
			}
		}
		return there
	}
}

// failover has a fault, after which north is to serve, and its end, after which west is. While it lasts, checks look
// at what is said of it.
func (e *estate) failover(t *testing.T, fault, mend func(), checks ...func()) figures {
	t.Helper()
	l := e.load(t)
	begin := time.Now()
	fault()
	settled := steady(t, l, begin, "north", 3*time.Second).Sub(begin)
	says(t, e.zones["east"].controlPlane, "pay is served by north", goes("north"))
	for _, check := range checks {
		check()
	}
	mended := time.Now()
	mend()
	back := steady(t, l, mended, "west", 3*time.Second).Sub(mended)
	all := l.Stop().Since(begin)
	says(t, e.zones["east"].controlPlane, "pay is served by west", goes("west"))
	f := figures{len(all), len(all.Failed()), all.Longest(), settled, back}
	t.Logf("figures: %s", f)
	if f.failed > 0 {
		t.Errorf("%d of %d requests failed, one with %v", f.failed, f.requests, all.Failed()[0].Err)
	}
	return f
}

// TestFaults breaks the network between zones, and zones, under load.
func TestFaults(t *testing.T) {
	e := newEstate(t)
	east, west := e.zones["east"], e.zones["west"]
	everywhere := []string{site(1), east.site, e.zones["north"].site}

	t.Run("control path cut", func(t *testing.T) {
		l := e.load(t)
		defer e.heal()
		begin := time.Now()
		e.part(west.on.ip, e.global.on.ip)
		await(t, "global knows that west is away", func() error {
			if zoneStatus(t, e.global, "west").Connected {
				return errors.New("west is connected")
			}
			return nil
		})
		known := time.Since(begin)
		steady(t, l, time.Now(), "west", 2*time.Second)
		says(t, east.controlPlane, "it reaches west", link("east", "west", true))
		says(t, east.controlPlane, "pay is served by west", goes("west"))
		says(t, e.global, "east sends to west", sends("west"))
		e.heal()
		healed := time.Now()
		await(t, "west is back", func() error {
			if !zoneStatus(t, e.global, "west").Connected {
				return errors.New("west is not connected")
			}
			return nil
		})
		back := time.Since(healed)
		all := l.Stop().Since(begin)
		t.Logf("figures: %d of %d failed, longest %s, by %v; known to global in %s, back in %s",
			len(all.Failed()), len(all), all.Longest().Round(time.Millisecond), all.By(), known.Round(time.Millisecond), back.Round(time.Millisecond))
		if len(all.Failed()) > 0 || all.By()["west"] != len(all) {
			t.Errorf("%d of %d failed, answered by %v", len(all.Failed()), len(all), all.By())
		}
	})

	t.Run("black hole", func(t *testing.T) {
		e.failover(t, func() {
			for _, s := range everywhere {
				e.part(west.site, s)
			}
		}, e.heal)
	})
	t.Run("nothing comes out of the zone", func(t *testing.T) {
		e.failover(t, func() {
			for _, s := range everywhere {
				e.cut(west.site, s)
			}
		}, e.heal)
	})
	t.Run("nothing comes into the zone", func(t *testing.T) {
		e.failover(t, func() {
			for _, s := range everywhere {
				e.cut(s, west.site)
			}
		}, e.heal)
	})
	t.Run("data path cut", func(t *testing.T) {
		e.failover(t, func() {
			e.part(east.site, west.entry.ip)
			e.part(west.site, east.entry.ip)
		}, e.heal, func() {
			// Everybody else goes on reaching everybody, and says so to global, as do the two.
			says(t, e.global, "east does not reach west", link("east", "west", false))
			says(t, e.global, "west does not reach east", link("west", "east", false))
			says(t, e.global, "north reaches west", link("north", "west", true))
			says(t, e.global, "west reaches north", link("west", "north", true))
			for _, name := range []string{"east", "west", "north"} {
				if s := zoneStatus(t, e.global, name); !s.Connected {
					t.Errorf("%s lost its control path", name)
				}
			}
		})
		says(t, e.global, "east reaches west", link("east", "west", true))
	})
	t.Run("zone killed", func(t *testing.T) {
		e.failover(t, func() {
			for _, p := range []*process{west.process, west.ingress.process, west.pay.process} {
				_ = p.cmd.Process.Signal(syscall.SIGKILL) // all at once
			}
			for _, p := range []*process{west.process, west.ingress.process, west.pay.process} {
				p.stop(syscall.SIGKILL)
			}
		}, func() {
			west.run()
			west.ingress.begin()
			west.pay.begin()
		})
	})
}
