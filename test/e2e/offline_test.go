package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

const mailHost = "mail.shop.svc.clusterset.local:8080"

// link is how a zone stands to another, by its own word.
func (z *zone) link(to string) (mesh.LinkStatus, error) {
	o, err := z.Overview(ctxOf(z.t))
	if err != nil {
		return mesh.LinkStatus{}, err
	}
	for _, l := range o.Links {
		if l.To == to {
			return l, nil
		}
	}
	return mesh.LinkStatus{}, fmt.Errorf("%s knows nothing of its way to %s", z.name, to)
}

// sees awaits a state of the way to another zone, and says how long that took.
func (z *zone) sees(to, what string, holds func(mesh.LinkStatus) bool) time.Duration {
	z.t.Helper()
	began := time.Now()
	await(z.t, z.name+" and "+to+" are "+what, func() error {
		l, err := z.link(to)
		if err == nil && !holds(l) {
			err = fmt.Errorf("%+v", l)
		}
		return err
	})
	return time.Since(began)
}

func current(l mesh.LinkStatus) bool { return l.Probed && l.Reachable && l.Current && l.RTTMillis > 0 }

// TestWithoutGlobal: global is gone, its store too; zones go on telling each other, new and dead workloads, new and
// withdrawn exports, capacity; control planes and a whole zone restart; and when global is back, only what it lacks is
// sent, and nothing comes back that was deleted.
func TestWithoutGlobal(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(payService(app(t, "pay")) + "---" + exportPay + "---" + allowAll)
	east.joins(global, "shop")
	west.joins(global, "shop")
	east.ingress("in1")
	gate := west.ingress("in1")
	pay := west.workload("pay")
	web := east.workload("web")
	web.answers(payHost, 200)
	east.sees("west", "in touch", current)
	west.sees("east", "in touch", current)
	if l, err := east.link("west"); err != nil || !l.TrustUntil.IsZero() {
		t.Errorf("with global: %+v, %v", l, err)
	}

	global.kill()
	data, away := filepath.Join(global.dir, "data"), filepath.Join(global.dir, "away")
	if err := os.Rename(data, away); err != nil {
		t.Fatal(err)
	}
	east.sees("west", "in touch without global", func(l mesh.LinkStatus) bool {
		return current(l) && time.Until(l.TrustUntil) > 23*time.Hour
	})

	took := func(what string, f func()) {
		t.Helper()
		began := time.Now()
		f()
		t.Logf("figures: without global, %s: %s", what, time.Since(began).Round(time.Millisecond))
	}
	// A service that is scaled to zero leaves the other zone's endpoints.
	pay.stop(syscall.SIGTERM)
	east.capacity("pay", 0)
	web.answers(payHost, 503)
	pay = west.workload("pay", map[string]any{"capacity": 3})
	took("another one with another capacity serves the other zone", func() {
		east.capacity("pay", 3)
		web.answers(payHost, 200)
	})

	// A new service, and a new caller.
	west.workload("mail")
	mail := strings.ReplaceAll(payService(app(t, "mail"))+"---"+exportPay+"---"+allowAll, "pay", "mail")
	took("a new export, from apply to the other zone's first answer", func() {
		west.apply(mail)
		web.answers(mailHost, 200)
	})
	took("a new workload, from nothing to its first answer across zones", func() {
		east.workload("web2").answers(payHost, 403)
	})

	// The other zone's control plane dies: what is held grows old, and says so; it comes back, and goes on.
	west.kill()
	east.sees("west", "in touch no more", func(l mesh.LinkStatus) bool { return l.Reachable && !l.Current && time.Since(l.HeardAt) < within })
	web.answers(payHost, 200)
	west.run()
	east.sees("west", "in touch again", current)
	exports, _ := policy.Lookup("serviceexports")
	services, _ := policy.Lookup("services")
	if _, err := west.Delete(ctxOf(t), exports, "shop", "mail"); err != nil {
		t.Fatal(err)
	}
	web.answers(mailHost, 404)

	// All processes of the zone die at once.
	west.kill()
	for _, p := range []*proxy{gate, pay.proxy} {
		p.kill()
	}
	took("a whole zone killed, seen by the other", func() {
		east.sees("west", "apart", func(l mesh.LinkStatus) bool { return !l.Reachable && l.Reason != "" })
	})
	west.run()
	took("all of it started again, from the start of its proxies to the first answer", func() {
		gate.begin()
		pay.begin()
		web.answers(payHost, 200)
	})
	east.sees("west", "in touch again", current)
	// And the caller's.
	east.kill()
	east.run()
	web.answers(payHost, 200)
	web.answers(mailHost, 404)
	east.sees("west", "in touch again", current)

	if err := os.Rename(away, data); err != nil {
		t.Fatal(err)
	}
	restarted := time.Now()
	global.run()
	for _, z := range []*zone{east, west} {
		await(t, z.name+" is back", func() error {
			if s := zoneStatus(t, global, z.name); !s.Connected || s.ConnectedSince.Before(restarted) {
				return errors.New("it is not connected")
			}
			return nil
		})
	}
	if l := east.sees("west", "trusted for as long as global is there", func(l mesh.LinkStatus) bool { return l.TrustUntil.IsZero() }); l > within {
		t.Error(l)
	}
	// What west applied meanwhile goes up; nothing that global had before goes down again.
	await(t, "global knows what west applied meanwhile", func() error {
		_, err := global.Get(ctxOf(t), services, "shop", "mail", "west")
		return err
	})
	for _, z := range []*zone{east, west} {
		s := zoneStatus(t, global, z.name)
		t.Logf("figures: global is back: %s was sent %d bytes of configuration", z.name, s.SentBytes)
		if s.SentBytes != 0 {
			t.Errorf("%s was sent %d bytes again", z.name, s.SentBytes)
		}
	}
	web.answers(payHost, 200)
	web.answers(mailHost, 404)
	east.capacity("pay", 3)
	followed(t, global, global.apply(strings.Replace(allowAll, "serviceAccounts: [web]", "serviceAccounts: [web, w]", 1)))
}

// capacity awaits that the zone counts on so much of the other zone for a service.
func (z *zone) capacity(service string, want float64) {
	z.t.Helper()
	await(z.t, fmt.Sprintf("%s counts on %g of %s", z.name, want, service), func() error {
		list, err := z.Failover(ctxOf(z.t), client.FailoverQuery{Namespace: "shop", Service: service})
		if err != nil {
			return err
		}
		ready := 0.0
		for _, s := range list {
			for _, to := range s.Targets {
				if to.Zone != z.name {
					ready += to.Ready
				}
			}
		}
		if ready != want {
			return fmt.Errorf("it counts on %g: %+v", ready, list)
		}
		return nil
	})
}

// TestTrustLease: without word from global the other zone is believed for as long as the mesh says and no longer; a
// global that comes back with nothing new to say is enough to believe it again.
func TestTrustLease(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(payService(app(t, "pay")) + "---" + exportPay + "---" + allowAll + `---
apiVersion: mesh.comity.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trust: {lease: 1m}} # the shortest there is
`)
	east.joins(global, "shop")
	west.joins(global, "shop")
	east.ingress("in1")
	west.ingress("in1")
	west.workload("pay")
	web := east.workload("web")
	web.answers(payHost, 200)
	east.sees("west", "in touch", current)

	global.kill()
	var left time.Duration
	east.sees("west", "believed for a minute more", func(l mesh.LinkStatus) bool {
		left = time.Until(l.TrustUntil)
		return !l.TrustUntil.IsZero() && left <= time.Minute
	})
	web.answers(payHost, 200)
	<-time.After(left)
	web.answers(payHost, 503)

	global.run()
	web.answers(payHost, 200)
	east.sees("west", "believed for as long as global is there", func(l mesh.LinkStatus) bool { return l.TrustUntil.IsZero() })
}
