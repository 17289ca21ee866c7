package api

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// lagAfter is how long a connected zone may be behind before somebody should know.
	lagAfter = 30 * time.Second
	// A zone's own certificate lives 24 h and is renewed at half of that: with 6 h left renewals have failed for long.
	certificateSoon, certificateNow = 6 * time.Hour, time.Hour
	// Trust in other zones ends so long after global was last heard; by then somebody must have decided.
	leaseSoon, leaseNow = 6 * time.Hour, time.Hour
	// failing is the share of the attempts of a zone's callers whose failures somebody should know of, failingMost that
	// of which it is urgent, and failingRate how many attempts a second there must be for a share to say something.
	failing, failingMost, failingRate = 0.05, 0.5, 1.0
)

// heed gathers what needs attention at one moment, and when by time alone more would.
type heed struct {
	o    *client.Overview
	f    facts
	now  time.Time
	next time.Time
	list []client.Attention
	// heard are the zones whose words are of now. What a zone said before it went away proves nothing.
	heard map[string]bool
	// out: global does not have the zone that answers as a member any more.
	out bool
	// blame is, of each zone that is gone, cut off or moving away, what is said of it: a service that lacks what it had there is not to blame.
	blame map[string]client.Attention
}

// attention judges an overview. It is pure: the same overview at the same moment gives the same list. next is when
// the list would differ though nothing was written, zero for never.
func attention(o *client.Overview, f facts, now time.Time) (list []client.Attention, next time.Time) {
	h := &heed{o: o, f: f, now: now, list: []client.Attention{}, heard: map[string]bool{}}
	for _, z := range o.Zones {
		h.heard[z.Name] = z.Unheard == nil && (h.global() || z.Name == o.Zone)
		h.f.draining = h.f.draining || z.Spec.Drain != nil
		h.out = h.out || !h.global() && z.Name == o.Zone && (z.Spec.Revoked != nil || z.Status.Refused != "")
	}
	for _, z := range o.Zones {
		switch {
		case h.out && z.Name == o.Zone:
			h.refused(z)
			continue
		case z.Spec.Revoked != nil:
			h.revoked(z)
			continue
		case h.global():
			h.seenByGlobal(z)
		case z.Name == o.Zone:
			h.seenFromInside(z)
		case !h.out: // else they do not answer because they do not trust it
			h.unreachable(z, true)
		}
		if z.Spec.Drain != nil {
			h.draining(z)
		}
		h.trust(z)
	}
	h.blameable()
	h.services()
	h.failures()
	h.refusals()
	slices.SortFunc(h.list, func(a, b client.Attention) int {
		return cmp.Or(rank(a.Severity)-rank(b.Severity), strings.Compare(a.ID, b.ID))
	})
	return h.list, h.next
}

func rank(s client.Severity) int {
	return slices.Index([]client.Severity{client.SeverityCritical, client.SeverityWarning, client.SeverityInfo}, s)
}

func (h *heed) global() bool { return h.o.Mode == string(ModeGlobal) }

func (h *heed) add(a client.Attention) { h.list = append(h.list, a) }

// due reports whether a moment has come; if not, it is one to look again at.
func (h *heed) due(at time.Time) bool {
	if !at.After(h.now) {
		return true
	}
	if h.next.IsZero() || at.Before(h.next) {
		h.next = at
	}
	return false
}

// seenByGlobal judges a zone by its line at global.
func (h *heed) seenByGlobal(z client.ZoneOverview) {
	s, link := z.Status, "zones/"+z.Name
	switch {
	case !s.Joined:
		h.add(client.Attention{
			ID: "join/" + z.Name, Severity: client.SeverityInfo, Link: link, What: z.Name + " has not joined yet",
			Why: "No control plane has joined under this name.", Try: "comity token create-join " + z.Name,
		})
		return
	case !s.Connected:
		h.away(z)
		return
	}
	h.unreachable(z, false)
	if s.Acked < s.Wanted && h.due(h.f.written[z.Name].Add(lagAfter)) {
		h.add(client.Attention{
			ID: "lag/" + z.Name, Severity: client.SeverityWarning, Link: link, Since: h.f.written[z.Name], What: z.Name + " is behind",
			Why: fmt.Sprintf("It is connected, and has applied revision %d of %d.", s.Acked, s.Wanted), Try: "comity zone describe " + z.Name,
		})
	}
	h.proxies(z)
	h.certificate(z)
}

// seenFromInside judges the zone that answers.
func (h *heed) seenFromInside(z client.ZoneOverview) {
	s := z.Status
	switch {
	case !s.Joined:
		h.add(client.Attention{
			ID: "join/" + z.Name, Severity: client.SeverityInfo, Link: "zones/" + z.Name, What: z.Name + " stands alone",
			Why: "It has joined no mesh. It serves its own workloads all the same.", Try: "comity zone join",
		})
	case !s.Connected:
		h.add(client.Attention{
			ID: "away/global", Severity: client.SeverityWarning, Link: "zones/" + z.Name, Since: s.LastSeen, What: "Global is away",
			Why: h.sentence("The zone goes on by itself: traffic, new workloads and certificates. Changes made at global wait for it.", s.Message),
			Try: "look at global; the zone comes back by itself",
		})
	}
	h.certificate(z)
	h.within(z)
}

// refused judges the zone that answers, when it is no member of the mesh any more.
func (h *heed) refused(z client.ZoneOverview) {
	a := client.Attention{
		ID: "refused/global", Severity: client.SeverityCritical, Link: "zones/" + z.Name, Since: z.Status.LastSeen, What: "Global refuses " + z.Name,
		Why: h.sentence(cmp.Or(z.Status.Refused, "The zone was revoked"), "Other zones do not trust what was revoked or removed. It goes on serving its own workloads"),
		Try: "to join again, make the zone anew with zone-cp init, in an empty store and under another trust domain",
	}
	if z.Spec.Revoked != nil {
		a.What, a.Why = "Global has revoked "+z.Name, h.sentence(a.Why, z.Spec.Revoked.Reason)
	}
	h.add(a)
	h.within(z)
}

// within judges the proxies of the zone that answers, and their certificates.
func (h *heed) within(z client.ZoneOverview) {
	h.proxies(z)
	if n, first := h.leavesWithin(h.f.leafTTL / 4); n > 0 {
		severity := client.SeverityWarning
		if last, _ := h.leavesWithin(h.f.leafTTL / 12); last > 0 {
			severity = client.SeverityCritical
		}
		h.add(client.Attention{
			ID: "leaves/" + z.Name, Severity: severity, Link: "zones/" + z.Name,
			What: fmt.Sprintf("%d %s not renewed", n, plural(n, "proxy's certificate is", "proxies' certificates are")),
			Why:  "They should have been renewed at half of their life. The first ends at " + clock(first) + "; requests of its proxy fail then.",
			Try:  "look at the log of its sidecar or ingress",
		})
	}
}

// leavesWithin counts the certificates of proxies that end so soon, and says when the first does.
func (h *heed) leavesWithin(limit time.Duration) (n int, first time.Time) {
	for _, end := range h.f.leaves {
		if h.due(end.Add(-limit)) {
			n++
			if first.IsZero() || end.Before(first) {
				first = end
			}
		}
	}
	return n, first
}

func clock(t time.Time) string { return t.UTC().Format("15:04 MST") }

// away judges a zone without a session: whether only its control path is cut, or the zone is gone.
func (h *heed) away(z client.ZoneOverview) {
	a := client.Attention{
		ID: "away/" + z.Name, Severity: client.SeverityWarning, Link: "zones/" + z.Name, Since: z.Status.LastSeen, What: z.Name + " is away from global",
		Try: "look at its zone-cp and the way to global; it comes back by itself",
	}
	switch bad, good := h.probes(z.Name); {
	case len(bad) > 0 && len(good) == 0:
		a.Severity, a.What = client.SeverityCritical, z.Name+" is down"
		a.Why = "Global has no session with it, and " + names(bad) + " cannot reach its ingresses. Its services are served elsewhere where that is possible."
		a.Try = "look at the zone's machines; it comes back by itself"
	case len(good) > 0:
		a.Why = "Global has no session with it, but " + names(good) + plural(len(good), " reaches", " reach") + " its ingresses: its traffic goes on."
	default:
		a.Why = "Global has no session with it. Its traffic needs none, but no zone has said whether its ingresses answer."
	}
	if z.Status.Wanted > z.Status.Acked {
		a.Why += fmt.Sprintf(" It has revision %d; revision %d waits for it.", z.Status.Acked, z.Status.Wanted)
	}
	h.add(a)
}

// probes says which zones probe another and cannot reach it, and which can.
func (h *heed) probes(to string) (bad, good []string) {
	for _, l := range h.o.Links {
		switch {
		case l.To != to || !l.Probed || !h.heard[l.Zone]:
		case l.Reachable:
			good = append(good, l.Zone)
		default:
			bad = append(bad, l.Zone)
		}
	}
	return bad, good
}

// unreachable judges the ways to a zone. one: there is only this zone's own way to judge by.
func (h *heed) unreachable(z client.ZoneOverview, one bool) {
	bad, good := h.probes(z.Name)
	if len(bad) == 0 {
		return
	}
	a := client.Attention{
		ID: "link/" + z.Name, Severity: client.SeverityWarning, Link: "zones/" + z.Name, What: z.Name + " cannot be reached from " + names(bad),
		Why: "Their ingresses get no answer from its ingresses, so they send it no requests.", Try: "look at the network between them and the ingresses of " + z.Name,
	}
	if len(good) == 0 && !one {
		a.Severity, a.What = client.SeverityCritical, z.Name+" cannot be reached by any zone"
	}
	for _, l := range h.o.Links {
		if l.To != z.Name || !slices.Contains(bad, l.Zone) {
			continue
		}
		if a.Since.IsZero() || l.Since.Before(a.Since) {
			a.Since = l.Since
		}
		if l.Reason != "" && len(bad) == 1 {
			a.Why = h.sentence(a.Why, l.Reason)
		}
	}
	h.add(a)
}

func (h *heed) proxies(z client.ZoneOverview) {
	if missing := z.Status.Proxies - z.Status.ProxiesConnected; missing > 0 {
		h.add(client.Attention{
			ID: "proxies/" + z.Name, Severity: client.SeverityWarning, Link: "zones/" + z.Name,
			What: fmt.Sprintf("%d of %d proxies of %s %s not connected", missing, z.Status.Proxies, z.Name, plural(missing, "is", "are")),
			Why:  "They go on with the configuration that they have, and get no changes.", Try: "comity get proxies",
		})
	}
}

// certificate judges a zone's certificate for control traffic. A zone that is away renews it when it is back, however
// long that takes.
func (h *heed) certificate(z client.ZoneOverview) {
	end := z.Status.CertificateExpires
	if end.IsZero() || !z.Status.Connected || !h.due(end.Add(-certificateSoon)) {
		return
	}
	severity := client.SeverityWarning
	if h.due(end.Add(-certificateNow)) {
		severity = client.SeverityCritical
	}
	h.add(client.Attention{
		ID: "certificate/" + z.Name, Severity: severity, Link: "zones/" + z.Name, What: "The federation certificate of " + z.Name + " is not renewed",
		Why: "It should have been renewed at half of its life, and ends at " + clock(end) + ".", Try: "look at the log of its zone-cp",
	})
}

// trust judges how long a zone without global still trusts the others.
func (h *heed) trust(z client.ZoneOverview) {
	if z.Status.Connected || !h.global() && z.Name != h.o.Zone {
		return
	}
	var end time.Time
	var others []string
	for _, l := range h.o.Links {
		if l.Zone != z.Name || l.TrustUntil.IsZero() {
			continue
		}
		others = append(others, l.To)
		if end.IsZero() || l.TrustUntil.Before(end) {
			end = l.TrustUntil
		}
	}
	if len(others) == 0 || !h.due(end.Add(-leaseSoon)) {
		return
	}
	a := client.Attention{
		ID: "trust/" + z.Name, Severity: client.SeverityWarning, Link: "zones/" + z.Name, What: z.Name + " will stop trusting the other zones",
		Why: "It has not heard of global for long. At " + clock(end) + " its trust lease ends, and requests between it and " + names(others) + " with it.",
		Try: "bring global back, or lengthen trust.lease in the MeshConfig",
	}
	if h.due(end.Add(-leaseNow)) {
		a.Severity = client.SeverityCritical
	}
	if h.due(end) {
		a.What = z.Name + " has stopped trusting the other zones"
	}
	h.add(a)
}

// draining says how far a drain is: by the share that the zone still has of each service.
func (h *heed) draining(z client.ZoneOverview) {
	services, left := 0, 0.0
	for _, w := range h.o.Failover {
		if !h.heard[w.Zone] {
			continue
		}
		for _, t := range w.Targets {
			if t.Zone == z.Name {
				services, left = services+1, left+t.Share
			}
		}
	}
	a := client.Attention{
		ID: "drain/" + z.Name, Severity: client.SeverityInfo, Link: "zones/" + z.Name, What: z.Name + " is draining",
		Why: "No zone has said yet what it still sends there.", Try: "comity zone undrain " + z.Name,
	}
	switch {
	case services > 0 && left == 0:
		a.What, a.Why = z.Name+" is drained", "No zone sends it any requests."
	case services > 0:
		a.Why = fmt.Sprintf("It still has %.0f%% of the requests to the services that it offers.", math.Ceil(100*left/float64(services)))
	}
	a.Why = h.sentence(a.Why, z.Spec.Drain.Reason)
	h.add(a)
}

// revoked says who has not confirmed that a zone is revoked.
func (h *heed) revoked(z client.ZoneOverview) {
	a := client.Attention{
		ID: "revoked/" + z.Name, Severity: client.SeverityInfo, Link: "zones/" + z.Name, What: z.Name + " is revoked",
		Why: "Every zone that is to know has confirmed it. When you are done with it, delete it at global.", Try: "comity delete zone " + z.Name,
	}
	if !h.global() {
		a.Why = "This zone does not believe it any more. When you are done with it, delete it at global."
	}
	if waiting := h.f.unconfirmed[z.Name]; len(waiting) > 0 {
		a.Severity, a.What = client.SeverityCritical, "The revocation of "+z.Name+" is not confirmed by "+names(waiting)
		a.Why = "What does not know of it may trust the zone until its trust lease ends."
		a.Try = "see that they are connected to global"
	}
	a.Why = h.sentence(a.Why, z.Spec.Revoked.Reason)
	h.add(a)
}

// matters are the states of a service that somebody should know of.
func matters(s mesh.FailoverState) (severity client.Severity, what string) {
	switch s {
	case mesh.FailoverNone:
		return client.SeverityCritical, "has no backend that is ready anywhere"
	case mesh.FailoverExhausted:
		return client.SeverityCritical, "has less capacity than its policy wants"
	case mesh.FailoverMoved:
		return client.SeverityWarning, "has failed over"
	case mesh.FailoverArmed:
		return client.SeverityWarning, "would fail over, and waits for a person"
	case mesh.FailoverHeld:
		return client.SeverityInfo, "goes back soon"
	case mesh.FailoverDraining:
		return client.SeverityInfo, "moves away from what drains"
	case mesh.FailoverNormal:
	}
	return "", ""
}

// services judges failover: one matter per service and state, whoever sees it.
func (h *heed) services() {
	type matter struct {
		namespace, service string
		state              mesh.FailoverState
	}
	seen := map[matter][]mesh.FailoverStatus{}
	var order []matter
	for _, w := range h.o.Failover {
		_, what := matters(w.State)
		switch {
		case what == "" || !h.heard[w.Zone], w.State == mesh.FailoverDraining && h.f.draining:
			continue
		case w.State == mesh.FailoverNone && !h.missed(w):
			continue
		}
		m := matter{w.Namespace, w.Service, w.State}
		if seen[m] == nil {
			order = append(order, m)
		}
		seen[m] = append(seen[m], w)
	}
	for _, m := range order {
		severity, what := matters(m.state)
		first, zones := seen[m][0], []string{}
		cause, caused := h.causeOf(seen[m])
		a := client.Attention{
			ID: "failover/" + m.namespace + "/" + m.service + "/" + string(m.state), Severity: severity, Link: "failover/" + first.Zone + "/" + m.namespace + "/" + m.service,
			Since: first.Since, Try: "comity describe service " + m.service + " -n " + m.namespace,
		}
		for _, w := range seen[m] {
			zones = append(zones, w.Zone)
			if w.Since.Before(a.Since) {
				a.Since = w.Since
			}
		}
		a.What, a.Why = m.namespace+"/"+m.service+" "+what, h.sentence(first.Reason, "For callers in "+names(zones))
		if caused {
			a.What, a.Try, a.Cause = a.What+", because "+lowered(h, cause.What), cause.Try, cause.ID
			if m.state == mesh.FailoverMoved {
				a.Severity = client.SeverityInfo // as it should
			}
		}
		h.add(a)
	}
}

// blameable gathers what is said of the zones that services may lack.
func (h *heed) blameable() {
	h.blame = map[string]client.Attention{}
	for _, matter := range []string{"drain/", "link/", "away/", "revoked/"} { // the later explains more
		for _, a := range h.list {
			if zone, ok := strings.CutPrefix(a.ID, matter); ok {
				h.blame[zone] = a
			}
		}
	}
}

// causeOf is what is said of the zones to whose backends requests can't go, if that explains all that a service lacks wherever it is called.
func (h *heed) causeOf(list []mesh.FailoverStatus) (cause client.Attention, ok bool) {
	for _, w := range list {
		for _, t := range w.Targets {
			a, known := h.blame[t.Zone]
			moving := strings.HasPrefix(a.ID, "drain/") || strings.HasPrefix(a.ID, "revoked/")
			if t.Whole == 0 || t.Reachable && t.Ready >= t.Whole && !moving {
				continue // nothing is lacking there
			}
			if !known {
				return cause, false // it lacks something of its own
			}
			if !ok || rank(a.Severity) < rank(cause.Severity) {
				cause, ok = a, true
			}
		}
	}
	return cause, ok
}

// lowered is a sentence in the middle of another.
func lowered(h *heed, s string) string {
	if word, _, _ := strings.Cut(s, " "); slices.ContainsFunc(h.o.Zones, func(z client.ZoneOverview) bool { return z.Name == word }) {
		return s
	}
	if first, size := utf8.DecodeRuneInString(s); size > 0 {
		return string(unicode.ToLower(first)) + s[size:]
	}
	return s
}

// missed reports whether a service without a backend should have one: a zone had it and is still believed, or it
// was called a moment ago, or no zone has it. What only other zones have for themselves is not missed.
func (h *heed) missed(w mesh.FailoverStatus) bool {
	if slices.ContainsFunc(w.Targets, func(t mesh.FailoverTarget) bool { return t.Whole > 0 }) {
		return true
	}
	// When the last zone that had it is revoked its part is forgotten, but calls are seen for a moment longer.
	if slices.ContainsFunc(h.o.Traffic, func(t mesh.TrafficStatus) bool {
		return t.Zone == w.Zone && t.Namespace == w.Namespace && t.Service == w.Service
	}) {
		return true
	}
	// A zone knows only what itself is offered. Global knows of all, also what a zone that is away may have still.
	return h.global() && !slices.ContainsFunc(h.o.Failover, func(o mesh.FailoverStatus) bool {
		return o.Namespace == w.Namespace && o.Service == w.Service && o.State != mesh.FailoverNone
	})
}

// failures judges what callers get: one matter per service, whoever calls it.
func (h *heed) failures() {
	type service struct{ namespace, name string }
	type sent struct {
		attempts, failures float64
		to                 map[string][2]float64 // attempts and failures by the zone that should have served them
	}
	by := map[service]map[string]sent{} // then by zone
	for _, t := range h.o.Traffic {
		if !h.heard[t.Zone] {
			continue
		}
		s := service{t.Namespace, t.Service}
		if by[s] == nil {
			by[s] = map[string]sent{}
		}
		// What found no connection is a failure, and no request.
		x := by[s][t.Zone]
		if x.to == nil {
			x.to = map[string][2]float64{}
		}
		attempts := max(t.Requests, t.Failures)
		x.to[t.To] = [2]float64{x.to[t.To][0] + attempts, x.to[t.To][1] + t.Failures}
		x.attempts, x.failures = x.attempts+attempts, x.failures+t.Failures
		by[s][t.Zone] = x
	}
	for s, zones := range by {
		var callers []string
		worst := 0.0
		cause, caused := client.Attention{}, true
		for zone, x := range zones {
			if x.attempts >= failingRate && x.failures > failing*x.attempts {
				callers, worst = append(callers, zone), max(worst, x.failures/x.attempts)
				a, ok := h.causeOfFailures(x.to)
				cause, caused = a, caused && ok
			}
		}
		if len(callers) == 0 {
			continue
		}
		slices.Sort(callers)
		a := client.Attention{
			ID: "failing/" + s.namespace + "/" + s.name, Severity: client.SeverityWarning, Link: "failover/" + callers[0] + "/" + s.namespace + "/" + s.name,
			Why: h.behind(s.namespace, s.name, callers), Try: "comity describe service " + s.name + " -n " + s.namespace,
		}
		if worst > failingMost {
			a.Severity = client.SeverityCritical
		}
		share := fmt.Sprintf("%.0f %%", math.Floor(100*worst))
		if len(callers) > 1 {
			share = "up to " + share
		}
		a.What = s.namespace + "/" + s.name + " fails " + share + " of the requests from " + names(callers)
		if caused {
			a.What, a.Try, a.Cause = a.What+", because "+lowered(h, cause.What), cause.Try, cause.ID
		}
		h.add(a)
	}
}

// causeOfFailures is what is said of the zones to which the failures went, if elsewhere hardly any failed. to has attempts and failures by zone.
func (h *heed) causeOfFailures(to map[string][2]float64) (cause client.Attention, ok bool) {
	attempts, failures := 0.0, 0.0
	for _, zone := range slices.Sorted(maps.Keys(to)) {
		x := to[zone]
		a, known := h.blame[zone]
		switch {
		case known && x[1] > 0:
			if !ok || rank(a.Severity) < rank(cause.Severity) {
				cause, ok = a, true
			}
		default:
			attempts, failures = attempts+x[0], failures+x[1]
		}
	}
	return cause, ok && failures <= failing*attempts
}

// behind says what may be behind the failures of a service: how its own failover stands where its callers are, and
// which services have no backend there, as it may need them.
func (h *heed) behind(namespace, name string, callers []string) string {
	said, without := "", []string(nil)
	for _, w := range h.o.Failover {
		switch {
		case !slices.Contains(callers, w.Zone):
		case w.Namespace == namespace && w.Service == name:
			if said == "" && w.State != mesh.FailoverNormal {
				said = w.Reason
			}
		case w.State == mesh.FailoverNone && h.missed(w):
			without = append(without, w.Namespace+"/"+w.Service)
		}
	}
	slices.Sort(without)
	if without = slices.Compact(without); len(without) > 0 {
		said = h.sentence(said, names(without)+plural(len(without), " has", " have")+" no backend there, which it may need")
	}
	if said == "" {
		said = "It has backends that are ready, and they answer with errors or not at all"
	}
	return h.sentence("", said)
}

// refusals says of each refused resource who refused it.
func (h *heed) refusals() {
	by := map[mesh.Key][]client.Refusal{}
	var order []mesh.Key
	for _, r := range h.o.Refused {
		if by[r.Key] == nil {
			order = append(order, r.Key)
		}
		by[r.Key] = append(by[r.Key], r)
	}
	for _, k := range order {
		list := by[k]
		a := client.Attention{
			ID: "refused/" + k.String(), Severity: client.SeverityWarning, Since: list[0].At,
			Why: h.sentence("The last good one stays in force there.", list[0].Message), Try: "comity describe " + kindInWords(k),
		}
		if ofTraffic(k.Kind) {
			a.Link = "policies/" + k.String()
		}
		var zones []string
		for _, r := range list {
			zones = append(zones, r.Zone)
			if r.At.Before(a.Since) {
				a.Since = r.At
			}
		}
		slices.Sort(zones)
		name := k.Name
		if k.Namespace != "" {
			name = k.Namespace + "/" + k.Name
		}
		a.What = string(k.Kind) + " " + name + " is refused in " + names(zones)
		h.add(a)
	}
}

// names lists zones or services for people, no more than they read.
func names(list []string) string {
	const most = 4
	if len(list) > most {
		return strings.Join(list[:most-1], ", ") + fmt.Sprintf(" and %d others", len(list)-most+1)
	}
	if len(list) > 1 {
		return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
	}
	return strings.Join(list, "")
}

// sentence adds another sentence, if there is one; each begins and ends as sentences do.
func (h *heed) sentence(s, more string) string {
	more = strings.TrimSpace(more)
	if more == "" {
		return s
	}
	if s == "" {
		return h.ended(more)
	}
	return h.ended(s) + " " + h.ended(more)
}

// ended begins a sentence with a capital, unless the name of a zone or a service begins it, and ends it.
func (h *heed) ended(s string) string {
	word, _, _ := strings.Cut(s, " ")
	named := strings.Contains(word, "/") || slices.ContainsFunc(h.o.Zones, func(z client.ZoneOverview) bool { return z.Name == strings.TrimRight(word, ",:;") })
	if first, size := utf8.DecodeRuneInString(s); size > 0 && !named {
		s = string(unicode.ToUpper(first)) + s[size:]
	}
	if strings.HasSuffix(s, ".") || strings.HasSuffix(s, "!") || strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}
