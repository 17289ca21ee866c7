package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Check plays the demo's story on a running demo and prints every step with its figures. It returns an
// error of exit code 7 if a step did not hold; it plays all of them first.
func (d *Demo) Check(ctx context.Context) error {
	steps := []struct {
		title string
		play  func(context.Context) ([]string, error)
	}{
		{"requests cross zones over HTTP, gRPC and TCP, and servers see who calls", d.checkCrossZone},
		{"a caller without permission is told so", d.checkDenied},
		{"plaintext, a forged identity and a service that is not exported are refused", d.checkAttacks},
		{"a change of permission at global acts on a live connection without cutting it", d.checkChange},
		{"routes, limits and tokens, as people change them at global, hold from the next request of a live connection", d.checkPolicies},
		{"global killed and started again: nothing re-sent but what changed, no request lost", d.checkGlobalRestart},
		{"a zone killed with -9: no GET fails, another zone answers, and it comes back", d.checkZoneDeath},
		{"global killed: new workloads get their identity and serve, a service may vanish from a zone, and no GET fails", d.checkAlone},
		{"a zone's control plane killed while global is away: Envoys keep what they have, and the next change applies", d.checkZoneCPDeath},
		{"global back: nothing re-sent but what changed", d.checkGlobalBack},
		{"a zone drained under load: no request fails; a drain that the others could not carry is refused", d.checkDrain},
		{"a zone revoked under load: all that is of it ends within 5 s, and the rest notices nothing", d.checkRevocation},
	}
	failed := 0
	for i, s := range steps {
		begin := time.Now()
		facts, err := s.play(ctx)
		sign := "✓"
		if err != nil {
			sign = "✗"
			failed++
		}
		fmt.Fprintf(d.opts.Out, "%s %d %s (%.1fs)\n", sign, i+1, s.title, time.Since(begin).Seconds())
		for _, f := range facts {
			fmt.Fprintf(d.opts.Out, "      %s\n", clip(f))
		}
		if err != nil {
			fmt.Fprintf(d.opts.Out, "      failed: %v\n", err)
			// What it broke must not fail the next ones, too.
			if _, err := d.Fix(ctx, "", quiet); err != nil {
				fmt.Fprintf(d.opts.Out, "      and not mended: %v\n", err)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if failed > 0 {
		return &fault.Error{Code: "DEMO-CHECK", What: fmt.Sprintf("%d of %d steps did not hold", failed, len(steps)), Try: "look into " + d.path("logs"), Exit: fault.ExitCheckFailed}
	}
	return nil
}

// clip keeps a fact on a line that can be read; whole answers of services are long.
func clip(fact string) string {
	const most = 170
	if len(fact) > most {
		return strings.ToValidUTF8(fact[:most], "") + "..."
	}
	return fact
}

// viaSidecar sends one request of a workload's through its sidecar, as the workload would.
func (d *Demo) viaSidecar(ctx context.Context, c *http.Client, workload, method, host, path, body string) (int, string, error) {
	return d.viaSidecarWith(ctx, c, workload, method, host, path, body, nil)
}

func (d *Demo) viaSidecarWith(ctx context.Context, c *http.Client, workload, method, host, path, body string, header http.Header) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.info(workload).Outbound+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	maps.Copy(req.Header, header)
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return res.StatusCode, strings.TrimSpace(string(text)), err
}

// info is what a sidecar or an ingress last wrote of itself.
func (d *Demo) info(proc string) Info {
	d.infosMu.Lock()
	defer d.infosMu.Unlock()
	return d.infos[proc]
}

// Example is where an application of the shop reaches its sidecar, and a host that it may ask there.
func (d *Demo) Example() (caller, host string) { return d.info(asker).Outbound, ledgerAnywhere }

func (d *Demo) id(zone, account string) string {
	return mesh.TrustDomain(zone+".demo.example").WorkloadID(namespace, account)
}

func (d *Demo) checkCrossZone(ctx context.Context) ([]string, error) {
	c := &http.Client{Timeout: 10 * time.Second}
	for range 40 {
		begin := time.Now()
		code, text, err := d.viaSidecar(ctx, c, "shopper-a", http.MethodPost, "web.shop.svc.clusterset.local", "/order", `{"order":"check-1","cents":1}`)
		took := time.Since(begin)
		if err != nil {
			return nil, err
		}
		var o Order
		if code != http.StatusOK || json.Unmarshal([]byte(text), &o) != nil {
			return nil, fmt.Errorf("order answered %d: %s", code, text)
		}
		if len(o.Trail) != 4 {
			return nil, fmt.Errorf("order was handled by %s, not by four services", trailText(o.Trail))
		}
		// Two thirds of pay are in gcp-west, which makes both later hops cross zones. On a starved machine an order may
		// also leave aws-east at once, because web there answers too slowly.
		if o.Trail[0].Zone != "aws-east" || o.Trail[1].Zone != "aws-east" || o.Trail[2].Zone != "gcp-west" || o.Trail[3].Zone != "onprem" {
			continue
		}
		facts := []string{fmt.Sprintf("%s in %.1f ms", trailText(o.Trail), took.Seconds()*1000)}
		want := []string{d.id("aws-east", "shopper"), d.id("aws-east", "web"), d.id("aws-east", "cart"), d.id("gcp-west", "pay")}
		for i, h := range o.Trail {
			if h.Caller != want[i] {
				return facts, fmt.Errorf("%s saw the caller %q, not %q", h.Workload, h.Caller, want[i])
			}
		}
		facts = append(facts, "gRPC: pay@gcp-west saw "+o.Trail[2].Caller, "HTTP: ledger@onprem saw "+o.Trail[3].Caller)
		if o.Journal == "" {
			return facts, errors.New("the order was not entered in the journal, over TCP")
		}
		facts = append(facts, "TCP: the order was entered in the journal of "+o.Journal+", through a local port of pay's sidecar")
		through, err := d.ingressConnections(ctx)
		if err != nil {
			return facts, err
		}
		for _, zone := range []string{"gcp-west", "onprem"} {
			if through[zone] == 0 {
				return facts, fmt.Errorf("no connection went through the ingress of %s", zone)
			}
			facts = append(facts, fmt.Sprintf("ingress of %s: %d connections have passed through", zone, through[zone]))
		}
		return facts, nil
	}
	return nil, errors.New("of 40 orders none went from aws-east to be paid in gcp-west, which has two thirds of pay")
}

// ingressConnections counts the connections that each zone's ingresses took, from their own metrics.
func (d *Demo) ingressConnections(ctx context.Context) (map[string]uint64, error) {
	out := map[string]uint64{}
	for _, z := range d.zones {
		for k := range z.ingresses {
			n, err := d.metricSum(ctx, z.ingress(k), "comity_proxy_connections_total")
			if err != nil {
				return nil, err
			}
			out[z.name] += n
		}
	}
	return out, nil
}

// metricSum adds up a metric of a sidecar or an ingress over its labels.
func (d *Demo) metricSum(ctx context.Context, proc, name string) (uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.info(proc).Metrics+"/metrics?include=envoy", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return 0, err
	}
	var sum uint64
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v); err == nil {
			sum += uint64(v)
		}
	}
	return sum, nil
}

func (d *Demo) checkDenied(ctx context.Context) ([]string, error) {
	c := &http.Client{Timeout: 10 * time.Second}
	code, text, err := d.viaSidecar(ctx, c, "shopper-a", http.MethodPost, ledgerOnPrem, "/entry", `{"order":"check-2"}`)
	if err != nil {
		return nil, err
	}
	facts := []string{fmt.Sprintf("shopper → ledger across zones: %d %s", code, text)}
	if code != http.StatusForbidden {
		return facts, fmt.Errorf("answered %d, not 403", code)
	}
	if !strings.Contains(text, "AuthorizationPolicy") {
		return facts, errors.New("the reason names neither a policy nor its absence")
	}
	return facts, nil
}

func (d *Demo) checkAttacks(ctx context.Context) ([]string, error) {
	gcp := slices.IndexFunc(d.zones, func(z zonePlan) bool { return z.name == "gcp-west" })
	var pay workloadPlan
	for _, w := range d.zones[gcp].workloads {
		if w.app == "pay" {
			pay = w
		}
	}
	sidecar := addr(pay.host, portInbound)
	ingress := addr(ingressHost(d.net, gcp, 0), portIngress)
	sni := func(service string) string {
		return mesh.ServicePort{Zone: "gcp-west", Namespace: namespace, Service: service, Port: portApp}.SNI("aws-east")
	}
	attacks := []struct {
		what string
		try  func() (string, error)
	}{
		{"plaintext to a sidecar", func() (string, error) { return plaintext(ctx, sidecar) }},
		{"plaintext to an ingress", func() (string, error) { return plaintext(ctx, ingress) }},
		{"forged " + d.id("aws-east", "cart"), func() (string, error) { return forged(ctx, ingress, sni("pay"), d.id("aws-east", "cart")) }},
		{"no certificate", func() (string, error) { return tlsRequest(ctx, ingress, sni("pay"), nil) }},
		{"cart of gcp-west, which is not exported", func() (string, error) { return tlsRequest(ctx, ingress, sni("cart"), nil) }},
	}
	var facts []string
	var errs []error
	for _, a := range attacks {
		how, err := a.try()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.what, err))
			continue
		}
		facts = append(facts, a.what+": "+how)
	}
	return facts, errors.Join(errs...)
}

// denyHello is the change of step 4, and denyHelloName its name.
const denyHelloName = "check-no-hello"

const denyHello = `apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: check-no-hello}
spec:
  targetRef: {kind: Service, name: web}
  action: Deny
  rules:
  - to: [{paths: [/hello]}]
`

// Change is what one change of permission cost, from the answer of global's REST API on.
type Change struct {
	Commit   time.Duration // the REST call itself
	LastAck  time.Duration // to the last Envoy's acknowledgement
	FirstNew time.Duration // to the first request that obeys it; only where a live connection was watched
	Acked    int
	Text     string // body of that request
}

// ApplyAndWait applies documents at global and waits for the last acknowledgement.
func (d *Demo) ApplyAndWait(ctx context.Context, docs string) (Change, error) {
	begin := time.Now()
	res, err := d.global.Apply(ctx, []byte(docs), client.ApplyOptions{Reason: "comity demo"})
	if err != nil {
		return Change{}, err
	}
	ch := Change{Commit: time.Since(begin)}
	answered := time.Now()
	err = d.awaitAcks(ctx, res.Revision, &ch, answered)
	return ch, err
}

func (d *Demo) awaitAcks(ctx context.Context, rev mesh.Revision, ch *Change, answered time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var last client.Progress
	err := d.global.Follow(ctx, rev, func(p client.Progress) bool { last = p; return p.Done })
	ch.LastAck = time.Since(answered)
	ch.Acked = last.Acked
	if err == nil && last.Acked < last.Total {
		err = fmt.Errorf("only %d of %d proxies acknowledged", last.Acked, last.Total)
	}
	return err
}

func (d *Demo) checkChange(ctx context.Context) ([]string, error) {
	var facts []string
	live := &liveConnection{demo: d, workload: "shopper-a", client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}}
	if code, text, err := live.hello(ctx); err != nil || code != http.StatusOK {
		return nil, fmt.Errorf("before the change: %d %s %w", code, text, err)
	}
	kind, _ := policy.Lookup("authorizationpolicies")
	deny, err := d.change(ctx, live, http.StatusForbidden, func() (mesh.Revision, error) {
		res, err := d.global.Apply(ctx, []byte(denyHello), client.ApplyOptions{Reason: "comity demo --check"})
		return res.Revision, err
	})
	facts = append(facts, deny.String("deny"))
	if err != nil {
		return facts, err
	}
	facts = append(facts, "the 403 says: "+deny.Text)
	if !strings.Contains(deny.Text, denyHelloName) {
		return facts, errors.New("the reason does not name the policy")
	}
	allow, err := d.change(ctx, live, http.StatusOK, func() (mesh.Revision, error) {
		return d.global.Delete(ctx, kind, namespace, denyHelloName)
	})
	facts = append(facts, allow.String("allow again"))
	if err != nil {
		return facts, err
	}
	facts = append(facts, fmt.Sprintf("%d requests on one connection, which was never cut", live.requests))
	if live.connections != 1 {
		return facts, fmt.Errorf("the live connection was cut: %d connections", live.connections)
	}
	return facts, nil
}

func (c Change) String(what string) string {
	return fmt.Sprintf("%s: REST call %.1f ms; then last of %d Envoys acknowledged after %.1f ms, first request that obeys after %.1f ms",
		what, ms(c.Commit), c.Acked, ms(c.LastAck), ms(c.FirstNew))
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// change makes a change while requests run on a live connection, until one is answered as wanted.
func (d *Demo) change(ctx context.Context, live *liveConnection, want int, do func() (mesh.Revision, error)) (Change, error) {
	var ch Change
	begin := time.Now()
	rev, err := do()
	if err != nil {
		return ch, err
	}
	answered := time.Now()
	ch.Commit = answered.Sub(begin)
	acks := make(chan error, 1)
	go func() { acks <- d.awaitAcks(ctx, rev, &ch, answered) }()
	deadline := answered.Add(10 * time.Second)
	for {
		code, text, err := live.hello(ctx)
		if err != nil {
			<-acks //nolint:errcheck // the request is what failed
			return ch, fmt.Errorf("on the live connection: %w", err)
		}
		if code == want {
			first := time.Since(answered)
			err := <-acks
			ch.FirstNew, ch.Text = first, text
			return ch, err
		}
		if time.Now().After(deadline) {
			<-acks //nolint:errcheck // the request is what failed
			return ch, fmt.Errorf("requests still answer %d after 10 s", code)
		}
	}
}

// liveConnection asks web for /hello over and over on one connection to the sidecar.
type liveConnection struct {
	demo        *Demo
	workload    string
	client      *http.Client
	requests    int
	connections int
}

func (l *liveConnection) hello(ctx context.Context) (int, string, error) { return l.ask(ctx, nil) }

func (l *liveConnection) ask(ctx context.Context, header http.Header) (int, string, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			l.connections++
		}
	}})
	l.requests++
	return l.demo.viaSidecarWith(ctx, l.client, l.workload, http.MethodGet, "web.shop.svc.clusterset.local", "/hello", "", header)
}

func (d *Demo) checkGlobalRestart(ctx context.Context) ([]string, error) {
	before, err := d.orders(ctx)
	if err != nil {
		return nil, err
	}
	zones, err := d.zoneStatuses(ctx)
	if err != nil {
		return nil, err
	}
	d.killGlobal()
	// Orders go on while global is away: some must have been sent and answered meanwhile.
	if err := poll(ctx, 20*time.Second, func() (bool, error) {
		now, err := d.orders(ctx)
		return now.Sent >= before.Sent+20, err
	}); err != nil {
		return nil, fmt.Errorf("orders while global is away: %w", err)
	}
	begin := time.Now()
	if err := d.revivePostgres(ctx); err != nil {
		return nil, err
	}
	if err := d.procs.restart("global"); err != nil {
		return nil, err
	}
	var facts []string
	var back map[string]client.ZoneObjectStatus
	err = poll(ctx, 30*time.Second, func() (bool, error) {
		if back, err = d.zoneStatuses(ctx); err != nil {
			return false, nil
		}
		for name, was := range zones {
			if z := back[name]; !z.Connected || z.Acked < was.Acked || !z.ConnectedSince.After(was.ConnectedSince) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("zones come back: %w", err)
	}
	facts = append(facts, fmt.Sprintf("all zones back %.0f ms after global's start", ms(time.Since(begin))))
	resent := map[string]uint64{}
	for name, z := range back {
		resent[name] = z.SentBytes
		facts = append(facts, fmt.Sprintf("%s: %d bytes of configuration re-sent (%d sent in the session before)", name, z.SentBytes, zones[name].SentBytes))
		if z.SentBytes != 0 {
			err = errors.Join(err, fmt.Errorf("%s was sent %d bytes though nothing had changed", name, z.SentBytes))
		}
	}
	if err != nil {
		return facts, err
	}
	if _, err := d.ApplyAndWait(ctx, denyHello); err != nil {
		return facts, fmt.Errorf("the first change after the restart: %w", err)
	}
	kind, _ := policy.Lookup("authorizationpolicies")
	gone, err := d.global.Delete(ctx, kind, namespace, denyHelloName)
	if err != nil {
		return facts, err
	}
	// What a session has carried is noted behind the acknowledgements.
	err = poll(ctx, 10*time.Second, func() (bool, error) {
		if back, err = d.zoneStatuses(ctx); err != nil {
			return false, err
		}
		for name, z := range back {
			if z.Acked < gone || z.SentBytes == resent[name] {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return facts, fmt.Errorf("the zones' word about the change: %w", err)
	}
	for name, z := range back {
		if z.SentBytes > 2048 {
			return facts, fmt.Errorf("%s was sent %d bytes in the new session, more than one policy made and deleted needs", name, z.SentBytes)
		}
		facts = append(facts, fmt.Sprintf("%s: %d bytes for one policy made and deleted", name, z.SentBytes-resent[name]))
	}
	slices.Sort(facts[1:])
	lost, err := d.ordersSince(ctx, before)
	return append(facts, lost), err
}

// orders adds up what the shoppers have seen.
func (d *Demo) orders(ctx context.Context) (Shopper, error) {
	st := Status{Shoppers: map[string]Shopper{}}
	for _, w := range d.shoppers() {
		s, err := d.shopper(ctx, w)
		if err != nil {
			return Shopper{}, err
		}
		st.Shoppers[w.name] = s
	}
	sum := st.sum()
	for _, s := range st.Shoppers {
		sum.LastError = s.LastError
	}
	return sum, nil
}

func (d *Demo) zoneStatuses(ctx context.Context) (map[string]client.ZoneObjectStatus, error) {
	kind, _ := policy.Lookup("zones")
	list, err := d.global.ListAll(ctx, kind, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string]client.ZoneObjectStatus{}
	for _, o := range list {
		var z client.ZoneObjectStatus
		if err := json.Unmarshal(o.Status, &z); err != nil {
			return nil, err
		}
		out[o.Metadata.Name] = z
	}
	return out, nil
}
