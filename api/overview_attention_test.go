package api

import (
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// atRest is a mesh that needs nothing, at global.
func atRest(now time.Time) (*client.Overview, facts) {
	o := &client.Overview{About: client.About{Mode: "global"}}
	f := facts{written: map[string]time.Time{}, unconfirmed: map[string][]string{}, leafTTL: 12 * time.Hour}
	for _, name := range []string{"east", "north", "west"} {
		o.Zones = append(o.Zones, client.ZoneOverview{Name: name, Status: mesh.ZoneStatus{
			Joined: true, Connected: true, Wanted: 5, Acked: 5, Proxies: 4, ProxiesConnected: 4, CertificateExpires: now.Add(20 * time.Hour),
		}})
		f.written[name] = now
		for _, to := range []string{"east", "north", "west"} {
			if to != name {
				o.Links = append(o.Links, mesh.LinkStatus{Zone: name, To: to, Probed: true, Reachable: true, TrustUntil: now.Add(24 * time.Hour)})
			}
		}
	}
	o.Failover = []mesh.FailoverStatus{{
		Zone: "east", Namespace: "shop", Service: "pay", State: mesh.FailoverNormal, Since: now,
		Targets: []mesh.FailoverTarget{{Zone: "east", Share: 0.75, Reachable: true}, {Zone: "west", Share: 0.25, Reachable: true}},
	}}
	return o, f
}

func cut(o *client.Overview, to string, from ...string) {
	for i := range o.Links {
		for _, z := range from {
			if l := &o.Links[i]; l.To == to && l.Zone == z {
				l.Reachable, l.Reason = false, "no answer for 750ms"
			}
		}
	}
}

func TestAttention(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	key := mesh.Key{Origin: "global", Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "split"}
	for _, x := range []struct {
		name   string
		change func(o *client.Overview, f *facts)
		// want is "severity id" of everything in order; says is in the first one's text.
		want []string
		says string
		next time.Time // when to look again
	}{
		{name: "nothing", next: now.Add(14 * time.Hour)},
		{name: "a zone that never joined", change: func(o *client.Overview, _ *facts) { o.Zones[0].Status = mesh.ZoneStatus{} },
			want: []string{"info join/east"}, says: "create-join east"},
		{name: "a zone without its control path", change: func(o *client.Overview, _ *facts) {
			o.Zones[0].Status.Connected, o.Zones[0].Status.Wanted = false, 7
		}, want: []string{"warning away/east"}, says: "revision 7 waits"},
		{name: "a zone that is gone", change: func(o *client.Overview, _ *facts) {
			o.Zones[0].Status.Connected = false
			cut(o, "east", "north", "west")
		}, want: []string{"critical away/east"}, says: "north and west cannot reach its ingresses"},
		{name: "what a zone said before it went proves nothing", change: func(o *client.Overview, _ *facts) {
			o.Zones[0].Status.Connected = false
			cut(o, "west", "east")
			o.Failover[0].State = mesh.FailoverNone
		}, want: []string{"warning away/east"}},
		{name: "a zone that only one cannot reach", change: func(o *client.Overview, _ *facts) { cut(o, "west", "east") },
			want: []string{"warning link/west"}, says: "No answer for 750ms"},
		{name: "a zone that nobody reaches", change: func(o *client.Overview, _ *facts) { cut(o, "west", "east", "north") },
			want: []string{"critical link/west"}, says: "by any zone"},
		{name: "behind, for a moment", change: func(o *client.Overview, _ *facts) { o.Zones[2].Status.Wanted = 9 }, next: now.Add(lagAfter)},
		{name: "behind", change: func(o *client.Overview, f *facts) {
			o.Zones[2].Status.Wanted = 9
			f.written["west"] = now.Add(-lagAfter)
		}, want: []string{"warning lag/west"}, says: "5 of 9"},
		{name: "proxies away", change: func(o *client.Overview, _ *facts) { o.Zones[1].Status.ProxiesConnected = 3 },
			want: []string{"warning proxies/north"}, says: "1 of 4 proxies of north is not connected"},
		{name: "a certificate not renewed", change: func(o *client.Overview, _ *facts) { o.Zones[1].Status.CertificateExpires = now.Add(5 * time.Hour) },
			want: []string{"warning certificate/north"}, says: "17:00 UTC", next: now.Add(4 * time.Hour)},
		{name: "a certificate about to end", change: func(o *client.Overview, _ *facts) { o.Zones[1].Status.CertificateExpires = now.Add(time.Minute) },
			want: []string{"critical certificate/north"}},
		{name: "a trust lease near its end", change: func(o *client.Overview, _ *facts) {
			o.Zones[0].Status.Connected = false
			o.Links[0].TrustUntil = now.Add(2 * time.Hour)
		}, want: []string{"warning away/east", "warning trust/east"}, next: now.Add(time.Hour)},
		{name: "a trust lease that ended", change: func(o *client.Overview, _ *facts) {
			o.Zones[0].Status.Connected = false
			o.Links[0].TrustUntil = now
		}, want: []string{"critical trust/east", "warning away/east"}, says: "has stopped trusting"},
		{name: "a drain", change: func(o *client.Overview, f *facts) {
			o.Zones[2].Spec.Drain = &policy.Drain{Reason: "CHG-812"}
			o.Failover[0].State = mesh.FailoverDraining
		}, want: []string{"info drain/west"}, says: "25% of the requests to the services that it offers. CHG-812."},
		{name: "a drain that is done", change: func(o *client.Overview, _ *facts) {
			o.Zones[2].Spec.Drain = &policy.Drain{}
			o.Failover[0].Targets[1].Share = 0
		}, want: []string{"info drain/west"}, says: "west is drained"},
		{name: "a revocation under way", change: func(o *client.Overview, f *facts) {
			o.Zones[2].Spec.Revoked = &policy.Revocation{Reason: "stolen"}
			o.Zones[2].Status.Connected = false
			f.unconfirmed["west"] = []string{"east"}
			cut(o, "west", "east", "north")
		}, want: []string{"critical revoked/west"}, says: "not confirmed by east"},
		{name: "a revocation", change: func(o *client.Overview, _ *facts) { o.Zones[2].Spec.Revoked = &policy.Revocation{} },
			want: []string{"info revoked/west"}, says: "comity delete zone west"},
		{name: "a zone that was revoked, itself", change: func(o *client.Overview, f *facts) {
			o.Mode, o.Zone = "zone", "north"
			o.Zones[1].Spec.Revoked = &policy.Revocation{Reason: "stolen"}
			o.Zones[1].Status.Connected, o.Zones[1].Status.ProxiesConnected = false, 3
			cut(o, "west", "north") // as it does not trust it
			f.leaves = nil
		}, want: []string{"critical refused/global", "warning proxies/north"}, says: "Global has revoked north The zone was revoked. Other zones do not trust what was revoked or removed. It goes on serving its own workloads. Stolen."},
		{name: "a zone that was removed, itself", change: func(o *client.Overview, _ *facts) {
			o.Mode, o.Zone = "zone", "north"
			o.Zones[1].Status.Connected, o.Zones[1].Status.Refused = false, "zone north was removed"
		}, want: []string{"critical refused/global"}, says: "Zone north was removed. Other zones"},
		{name: "services", change: func(o *client.Overview, _ *facts) {
			w := o.Failover[0]
			w.Zone, w.State, w.Reason = "west", mesh.FailoverMoved, "east has 1 of 4 ready"
			o.Failover = append(o.Failover, w)
			w.Zone, w.Since = "north", now.Add(-time.Hour)
			o.Failover = append(o.Failover, w)
			w.Service, w.State = "cart", mesh.FailoverExhausted
			o.Failover = append(o.Failover, w)
			w.Service, w.State = "web", mesh.FailoverHeld
			o.Failover = append(o.Failover, w)
			// What a zone is not offered is no matter, while another has it; what it had, and nobody has any more, is.
			w.Service, w.State = "batch", mesh.FailoverNone
			o.Failover = append(o.Failover, w)
			w.Zone, w.State = "west", mesh.FailoverNormal
			o.Failover = append(o.Failover, w)
			w.Zone, w.State = "north", mesh.FailoverNone
			w.Service, w.Targets = "auth", []mesh.FailoverTarget{{Zone: "east", Whole: 2}}
			o.Failover = append(o.Failover, w)
		}, want: []string{"critical failover/shop/auth/NoBackend", "critical failover/shop/cart/Exhausted", "warning failover/shop/pay/FailedOver", "info failover/shop/web/Held"},
			says: "shop/auth has no backend that is ready anywhere east has 1 of 4 ready. For callers in north."},
		{name: "a service that no zone has any more", change: func(o *client.Overview, _ *facts) {
			o.Failover[0].State, o.Failover[0].Targets = mesh.FailoverNone, nil
		}, want: []string{"critical failover/shop/pay/NoBackend"}, says: "no backend that is ready anywhere"},
		{name: "a service that only a zone has that is away", change: func(o *client.Overview, _ *facts) {
			w := o.Failover[0]
			w.Zone, w.State, w.Targets = "west", mesh.FailoverNone, nil
			o.Failover = append(o.Failover, w)
			o.Zones[0].Status.Connected = false
		}, want: []string{"warning away/east"}},
		{name: "a service that was called until it was gone, at a zone", change: func(o *client.Overview, _ *facts) {
			o.Mode, o.Zone = "zone", "east"
			w := o.Failover[0]
			w.State, w.Targets = mesh.FailoverNone, nil
			o.Failover[0] = w
			w.Service = "batch" // another zone may have it for itself
			o.Failover = append(o.Failover, w)
			o.Traffic = []mesh.TrafficStatus{{Zone: "east", To: "west", Namespace: "shop", Service: "pay"}}
		}, want: []string{"critical failover/shop/pay/NoBackend"}},
		{name: "a service that fails its callers for want of another", change: func(o *client.Overview, _ *facts) {
			o.Failover[0].State, o.Failover[0].Targets = mesh.FailoverNone, nil
			o.Traffic = []mesh.TrafficStatus{{Zone: "east", To: "east", Namespace: "shop", Service: "cart", Requests: 20, Failures: 20}}
		}, want: []string{"critical failing/shop/cart", "critical failover/shop/pay/NoBackend"},
			says: "shop/cart fails 100 % of the requests from east shop/pay has no backend there, which it may need. comity describe service cart -n shop"},
		{name: "failures", change: func(o *client.Overview, _ *facts) {
			o.Failover[0].State, o.Failover[0].Reason = mesh.FailoverHeld, "what is back has not lasted"
			o.Traffic = []mesh.TrafficStatus{
				{Zone: "east", To: "east", Namespace: "shop", Service: "pay", Requests: 8, Failures: 0.2},
				{Zone: "east", To: "west", Namespace: "shop", Service: "pay", Requests: 2, Failures: 0.6},
				{Zone: "north", To: "west", Namespace: "shop", Service: "pay", Requests: 0.5, Failures: 1.5}, // connections were refused
				{Zone: "west", To: "west", Namespace: "shop", Service: "pay", Requests: 90, Failures: 4},
				{Zone: "west", To: "west", Namespace: "shop", Service: "web", Requests: 0.9, Failures: 0.9}, // too few to say
			}
		}, want: []string{"critical failing/shop/pay", "info failover/shop/pay/Held"}, says: "shop/pay fails up to 100 % of the requests from east and north What is back has not lasted."},
		{name: "some failures", change: func(o *client.Overview, _ *facts) {
			o.Traffic = []mesh.TrafficStatus{{Zone: "east", To: "west", Namespace: "shop", Service: "pay", Requests: 10, Failures: 0.6}}
		}, want: []string{"warning failing/shop/pay"}, says: "fails 6 % of the requests from east It has backends that are ready"},
		{name: "refusals", change: func(o *client.Overview, _ *facts) {
			o.Refused = []client.Refusal{{Zone: "west", Key: key, Message: "no such field", At: now}, {Zone: "east", Key: key, Message: "the same", At: now.Add(-time.Hour)}}
		}, want: []string{"warning refused/global/HTTPRoute/shop/split"}, says: "HTTPRoute shop/split is refused in east and west"},
		{name: "at a zone", change: func(o *client.Overview, f *facts) {
			o.Mode, o.Zone = "zone", "north"
			o.Zones[0].Status, o.Zones[2].Status = mesh.ZoneStatus{}, mesh.ZoneStatus{}
			o.Zones[1].Status.Connected, o.Zones[1].Status.Message = false, "connection refused"
			cut(o, "west", "north")
			cut(o, "north", "east") // its own word only
			f.leaves = []time.Time{now.Add(2 * time.Hour), now.Add(11 * time.Hour)}
		}, want: []string{"warning away/global", "warning leaves/north", "warning link/west"}, says: "Connection refused"},
		{name: "a service is not to blame for the zone that had it", change: func(o *client.Overview, _ *facts) {
			o.Zones[2].Status.Connected, o.Zones[2].Status.LastSeen = false, now.Add(-3*time.Minute)
			cut(o, "west", "east", "north")
			for _, state := range []struct {
				service string
				state   mesh.FailoverState
				ready   float64 // in north, of 1
			}{{"gone", mesh.FailoverNone, 1}, {"moved", mesh.FailoverMoved, 1}, {"both", mesh.FailoverMoved, 0.5}} {
				o.Failover = append(o.Failover, mesh.FailoverStatus{
					Zone: "north", Namespace: "shop", Service: state.service, State: state.state, Reason: "it went",
					Targets: []mesh.FailoverTarget{{Zone: "west", Whole: 2, Ready: 2}, {Zone: "north", Whole: 1, Ready: state.ready, Reachable: true}},
				})
			}
			o.Traffic = append(o.Traffic,
				mesh.TrafficStatus{Zone: "north", To: "west", Namespace: "shop", Service: "split", Requests: 10, Failures: 10},
				mesh.TrafficStatus{Zone: "north", To: "north", Namespace: "shop", Service: "split", Requests: 10},
				mesh.TrafficStatus{Zone: "north", To: "west", Namespace: "shop", Service: "bad", Requests: 10, Failures: 10},
				mesh.TrafficStatus{Zone: "north", To: "north", Namespace: "shop", Service: "bad", Requests: 10, Failures: 5})
		}, want: []string{
			"critical away/west", "critical failing/shop/bad", "critical failover/shop/gone/NoBackend because of away/west",
			"warning failing/shop/split because of away/west", "warning failover/shop/both/FailedOver", "info failover/shop/moved/FailedOver because of away/west",
		}},
		{name: "a zone that stands alone", change: func(o *client.Overview, _ *facts) {
			o.Mode, o.Zone, o.Zones, o.Links = "zone", "north", []client.ZoneOverview{{Name: "north"}}, nil
		}, want: []string{"info join/north"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			o, f := atRest(now)
			if x.change != nil {
				x.change(o, &f)
			}
			for i, z := range o.Zones {
				o.Zones[i].Unheard = unheard(Mode(o.Mode), z)
			}
			list, next := attention(o, f, now)
			var got []string
			text := ""
			for i, a := range list {
				line := string(a.Severity) + " " + a.ID
				if a.Cause != "" {
					line += " because of " + a.Cause
				}
				got = append(got, line)
				if i == 0 {
					text = a.What + " " + a.Why + " " + a.Try
				}
				if a.What == "" || a.Why == "" || a.Try == "" || a.Link == "" {
					t.Errorf("half an item: %+v", a)
				}
			}
			if strings.Join(got, "\n") != strings.Join(x.want, "\n") {
				t.Errorf("got %q, want %q", got, x.want)
			}
			if !strings.Contains(text, x.says) {
				t.Errorf("%q does not say %q", text, x.says)
			}
			if !x.next.IsZero() && !next.Equal(x.next) {
				t.Errorf("look again at %s, want %s", next, x.next)
			}
			// At the moment when it says so it differs, and not before.
			if x.next.IsZero() || next.IsZero() {
				return
			}
			before, _ := attention(o, f, next.Add(-time.Nanosecond))
			after, _ := attention(o, f, next)
			if len(before) != len(list) || len(after) == len(list) && after[0].Severity == list[0].Severity && after[len(after)-1] == list[len(list)-1] {
				t.Errorf("before %s: %+v; then: %+v", next, before, after)
			}
		})
	}
}
