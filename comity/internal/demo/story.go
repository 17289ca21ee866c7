package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// The second half of the story: what dies, and what does not notice. Carts of gcp-west ask for balances, which
// onprem answers as long as it can, and aws-east otherwise (shop.yaml).

const (
	asker   = "cart-g1"  // in gcp-west
	home    = "onprem"   // first tier of the ledger
	standby = "aws-east" // second tier
)

func quiet(string) {}

// checkZoneDeath is step 7.
func (d *Demo) checkZoneDeath(ctx context.Context) ([]string, error) {
	before, err := d.orders(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := d.underLoad(ctx, asker, func(l *load) ([]string, error) {
		killed := time.Now()
		report, err := d.Break(ctx, home, quiet)
		if err != nil {
			return nil, err
		}
		facts := slices.Clone(report.Did)
		settled, err := l.settle(ctx, killed, standby)
		if err != nil {
			return facts, err
		}
		facts = append(facts, fmt.Sprintf("all answered by %s and within %.0f ms from %.0f ms after the kill on", standby, ms(l.limit), ms(settled.Sub(killed))))
		word, err := d.awaitWord(ctx, "gcp-west", standby, killed)
		if err != nil {
			return facts, err
		}
		facts = append(facts, word)
		fixed, err := d.Fix(ctx, home, quiet)
		if err != nil {
			return facts, err
		}
		healthy := time.Now()
		back, err := l.settle(ctx, healthy, home)
		if err != nil {
			return facts, err
		}
		return append(facts, fixed.Did[0], fmt.Sprintf("all answered by %s again %.1f s after that", home, back.Sub(healthy).Seconds())), nil
	})
	after, ordersErr := d.orders(ctx)
	facts = append(facts, fmt.Sprintf("orders, which are POSTs that nobody may repeat: %d, of which %d failed", after.Sent-before.Sent, after.Failed-before.Failed))
	return facts, errors.Join(err, ordersErr)
}

// awaitWord waits until a zone says that it sends all requests to the ledger to the target, which its control plane
// knows by then; it returns its words, and how long after since that was.
func (d *Demo) awaitWord(ctx context.Context, zone, target string, since time.Time) (string, error) {
	last := mesh.FailoverStatus{Reason: "nothing"}
	err := poll(ctx, patience, func() (bool, error) {
		list, err := d.atZone[zone].Failover(ctx, client.FailoverQuery{Namespace: namespace, Service: "ledger", Zone: zone})
		if err != nil || len(list) == 0 {
			return false, err
		}
		last = list[0]
		return slices.ContainsFunc(last.Targets, func(t mesh.FailoverTarget) bool { return t.Zone == target && t.Share == 1 }), nil
	})
	said := fmt.Sprintf("%s: %s", last.State, last.Reason)
	if err != nil {
		return "", fmt.Errorf("%s does not say that all goes to %s: %w (it says %s)", zone, target, err, said)
	}
	return fmt.Sprintf("%s says, at the latest after %.2f s: %s", zone, time.Since(since).Seconds(), said), nil
}

// checkAlone is step 8: global is killed, and stays away until step 10.
func (d *Demo) checkAlone(ctx context.Context) ([]string, error) {
	before, err := d.orders(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := d.underLoad(ctx, asker, func(l *load) ([]string, error) {
		report, err := d.Break(ctx, faultGlobal, quiet)
		if err != nil {
			return nil, err
		}
		facts := report.Did
		served, err := d.newWorkload(ctx)
		facts = append(facts, served...)
		if err != nil {
			return facts, err
		}
		scaled, err := d.scaleToZero(ctx, l)
		return append(facts, scaled...), err
	})
	lost, ordersErr := d.ordersSince(ctx, before)
	return append(facts, lost), errors.Join(err, ordersErr)
}

// ordersSince says what became of the orders; a failed one is an error.
func (d *Demo) ordersSince(ctx context.Context, before Shopper) (string, error) {
	after, err := d.orders(ctx)
	if err == nil && after.Failed > before.Failed {
		err = fmt.Errorf("orders were lost: %s", after.LastError)
	}
	return fmt.Sprintf("orders meanwhile: %d, of which %d failed", after.Sent-before.Sent, after.Failed-before.Failed), err
}

// newWorkload starts the workload that the plan keeps for later and waits until it has answered a request.
func (d *Demo) newWorkload(ctx context.Context) ([]string, error) {
	z, w := d.laterWorkload()
	begin := time.Now()
	if err := d.startWorkload(ctx, z, w); err != nil {
		return nil, err
	}
	ready := time.Since(begin)
	c := &http.Client{Timeout: 5 * time.Second}
	err := poll(ctx, patience, func() (bool, error) {
		code, text, err := d.viaSidecar(ctx, c, "shopper-a", http.MethodGet, "web.shop.svc.clusterset.local", "/hello", "")
		var o Order
		if err != nil || code != http.StatusOK || json.Unmarshal([]byte(text), &o) != nil || len(o.Trail) == 0 {
			return false, fmt.Errorf("shopper-a asks web: %d %s %w", code, text, err)
		}
		return o.Trail[0].Workload == w.name, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s does not serve: %w", w.name, err)
	}
	serves := time.Since(begin)
	all, err := d.atZone[z.name].Proxies(ctx, z.name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(p mesh.ProxyStatus) bool { return p.Proxy.Name == w.name })
	if i < 0 || all[i].Identity != d.id(z.name, w.app) {
		return nil, fmt.Errorf("%s does not have the identity %s", w.name, d.id(z.name, w.app))
	}
	return []string{fmt.Sprintf("new workload %s: it is %s, ready after %.1f s, served its first request after %.1f s", w.name, all[i].Identity, ready.Seconds(), serves.Seconds())}, nil
}

func (d *Demo) laterWorkload() (zonePlan, workloadPlan) {
	for _, z := range d.zones {
		for _, w := range z.workloads {
			if w.later {
				return z, w
			}
		}
	}
	return zonePlan{}, workloadPlan{}
}

// scaleToZero ends all ledgers of home in order, and starts them again.
func (d *Demo) scaleToZero(ctx context.Context, l *load) ([]string, error) {
	var ledgers []workloadPlan
	for _, w := range d.zones[d.zoneIndex(home)].workloads {
		if w.app == "ledger" {
			ledgers = append(ledgers, w)
		}
	}
	begin := time.Now()
	// A sidecar that is asked to end withdraws its workload first; the application ends when nobody comes any more.
	for _, part := range []func(workloadPlan) string{func(w workloadPlan) string { return w.name }, workloadPlan.application} {
		var all []*process
		for _, w := range ledgers {
			all = append(all, d.procs.get(part(w)))
		}
		limit, cancel := context.WithTimeout(ctx, 15*time.Second)
		stop(limit, all)
		cancel()
	}
	if _, err := l.settle(ctx, begin, standby); err != nil {
		return nil, fmt.Errorf("%s has no ledger any more: %w", home, err)
	}
	facts := []string{fmt.Sprintf("ledger scaled to zero in %s: %s answers everything", home, standby)}
	word, wordErr := d.peerWord(ctx, "gcp-west", begin)
	if wordErr == nil {
		facts = append(facts, word)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, w := range ledgers {
		g.Go(func() error { return d.revive(gctx, w.name) })
		g.Go(func() error { return d.procs.restart(w.application()) })
	}
	if err := errors.Join(g.Wait(), wordErr); err != nil {
		return facts, err
	}
	healthy := time.Now()
	back, err := l.settle(ctx, healthy, home)
	if err != nil {
		return facts, err
	}
	return append(facts, fmt.Sprintf("and up again: %s answers everything %.1f s after its sidecars were ready", home, back.Sub(healthy).Seconds())), nil
}

// peerWord is awaitWord with the way by which the zone has heard of it, which must be its peer: global is away.
func (d *Demo) peerWord(ctx context.Context, zone string, since time.Time) (string, error) {
	word, err := d.awaitWord(ctx, zone, standby, since)
	if err != nil {
		return "", err
	}
	all, err := d.atZone[zone].Overview(ctx)
	if err != nil {
		return "", err
	}
	for _, l := range all.Links {
		if l.Zone == zone && l.To == home {
			if l.HeardBy != "peer" {
				err = fmt.Errorf("%s has last heard of %s by %s", zone, home, l.HeardBy)
			}
			return fmt.Sprintf("%s; it heard that by its peers, %.1f ms away", word, l.RTTMillis), err
		}
	}
	return "", fmt.Errorf("%s knows no way to %s", zone, home)
}

// checkZoneCPDeath is step 9.
func (d *Demo) checkZoneCPDeath(ctx context.Context) ([]string, error) {
	const zone = "gcp-west"
	z := d.zones[d.zoneIndex(zone)]
	return d.underLoad(ctx, asker, func(*load) ([]string, error) {
		before, err := d.rebuilds(ctx, z)
		if err != nil {
			return nil, err
		}
		report, err := d.Break(ctx, faultZoneCP+"/"+zone, quiet)
		if err != nil {
			return nil, err
		}
		facts := report.Did
		fixed, err := d.Fix(ctx, faultZoneCP+"/"+zone, quiet)
		if err != nil {
			return facts, err
		}
		facts = append(facts, fixed.Did...)
		changed, err := d.zoneChange(ctx, zone, "shopper-g")
		facts = append(facts, changed...)
		if err != nil {
			return facts, err
		}
		after, err := d.rebuilds(ctx, z)
		if err != nil {
			return facts, err
		}
		var touched []string
		for _, proxy := range sortedKeys(after) {
			if !maps.Equal(before[proxy], after[proxy]) {
				touched = append(touched, fmt.Sprintf("%s: %v, before %v", proxy, after[proxy], before[proxy]))
			}
		}
		if len(touched) > 0 {
			return facts, fmt.Errorf("some Envoys rebuilt something: %s", strings.Join(touched, "; "))
		}
		return append(facts, fmt.Sprintf("in all this none of its %d Envoys added, changed or removed a cluster or a listener (its own counters)", len(after))), nil
	})
}

// rebuilds reads, from each Envoy of a zone, how often it has added, changed or removed a cluster or a listener.
func (d *Demo) rebuilds(ctx context.Context, z zonePlan) (map[string]map[string]uint64, error) {
	out := map[string]map[string]uint64{}
	for _, proc := range z.processes() {
		if d.info(proc).Proxy == "" {
			continue
		}
		out[proc] = map[string]uint64{}
		for _, name := range []string{"cluster_manager_cluster_added", "cluster_manager_cluster_modified", "cluster_manager_cluster_removed",
			"listener_manager_listener_added", "listener_manager_listener_modified", "listener_manager_listener_in_place_updated", "listener_manager_listener_removed"} {
			n, err := d.metricSum(ctx, proc, "envoy_"+name)
			if err != nil {
				return nil, err
			}
			out[proc][name] = n
		}
		if out[proc]["cluster_manager_cluster_added"] == 0 {
			return nil, fmt.Errorf("%s does not count its clusters", proc)
		}
	}
	return out, nil
}

// zoneChange makes a change in a zone itself, of which global knows nothing, takes it back, and waits both times for a
// request that obeys.
func (d *Demo) zoneChange(ctx context.Context, zone, workload string) ([]string, error) {
	c := &http.Client{Timeout: 5 * time.Second}
	obeyed := func(want int) (time.Duration, error) {
		begin := time.Now()
		got := ""
		err := poll(ctx, patience, func() (bool, error) {
			code, text, err := d.viaSidecar(ctx, c, workload, http.MethodGet, "web.shop."+zone+".mesh", "/hello", "")
			got = fmt.Sprintf("%d %s", code, text)
			return code == want, err
		})
		if err != nil {
			err = fmt.Errorf("a change in %s does not act: %w (last answer: %s)", zone, err, got)
		}
		return time.Since(begin), err
	}
	if _, err := d.atZone[zone].Apply(ctx, []byte(denyHello), client.ApplyOptions{Reason: "comity demo --check"}); err != nil {
		return nil, err
	}
	denied, err := obeyed(http.StatusForbidden)
	if err != nil {
		return nil, err
	}
	kind, _ := policy.Lookup("authorizationpolicies")
	if _, err := d.atZone[zone].Delete(ctx, kind, namespace, denyHelloName); err != nil {
		return nil, err
	}
	allowed, err := obeyed(http.StatusOK)
	return []string{fmt.Sprintf("the next change, made in the zone itself: obeyed after %.1f ms; taken back: after %.1f ms", ms(denied), ms(allowed))}, err
}

// checkGlobalBack is step 10.
func (d *Demo) checkGlobalBack(ctx context.Context) ([]string, error) {
	return d.underLoad(ctx, asker, func(*load) ([]string, error) {
		fixed, err := d.Fix(ctx, faultGlobal, quiet)
		if err != nil {
			return nil, err
		}
		facts := fixed.Did
		back, err := d.zoneStatuses(ctx)
		if err != nil {
			return facts, err
		}
		for _, name := range sortedKeys(back) {
			facts = append(facts, fmt.Sprintf("%s: %d bytes of configuration re-sent", name, back[name].SentBytes))
			if n := back[name].SentBytes; n != 0 {
				err = errors.Join(err, fmt.Errorf("%s was sent %d bytes though nothing had changed at global", name, n))
			}
		}
		// What a zone made and took back while global was away must not revive there.
		kind, _ := policy.Lookup("authorizationpolicies")
		all, listErr := d.global.ListAll(ctx, kind, client.ListOptions{})
		for _, o := range all {
			if o.Metadata.Name == denyHelloName {
				err = errors.Join(err, fmt.Errorf("%s, which is deleted, is back", denyHelloName))
			}
		}
		return facts, errors.Join(err, listErr)
	})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
