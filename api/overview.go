package api

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// Buckets of what zones say of themselves, + zone (package mesh, failover.go).
const (
	bucketProxies  = "proxies/"
	bucketFailover = "failover/"
	bucketLinks    = "links/"
	bucketTraffic  = "traffic/"
)

const (
	// mostRows bounds each list of an overview; what is left out is counted.
	mostRows = 5000
	// mostRefused and mostAttention bound what people read one by one.
	mostRefused   = 64
	mostAttention = 100
)

// facts are what an overview is judged by but does not show.
type facts struct {
	// written is when a zone's line was last written: a line that says "behind" has said so since then.
	written map[string]time.Time
	// unconfirmed are, of each revoked zone, the zones that have not said that they obey.
	unconfirmed map[string][]string
	// leaves are the ends of this zone's proxies' certificates, leafTTL what such a certificate lives.
	leaves  []time.Time
	leafTTL time.Duration
	// draining: a drain is under way, so services that it moves need no word of their own.
	draining bool
	policies policies
}

func (s *server) registerOverview(op makeOp) {
	huma.Register(s.api, op("overview", http.MethodGet, "/overview", "What a person looks at first: zones, ways between them, traffic, failover, and what needs attention"),
		handle(s, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
			o, _, err := s.overview(ctx)
			if err != nil {
				return nil, err
			}
			return reply(http.StatusOK, nil, o)
		}))
	huma.Register(s.api, op("overview-stream", http.MethodGet, "/overview/stream", "The overview, and what changes of it, as server-sent events"),
		handle(s, func(ctx context.Context, in *struct {
			LastEventID string `header:"Last-Event-ID" maxLength:"64" doc:"The id of the last event that was received."`
		}) (*huma.StreamResponse, error) {
			return s.stream(ctx, func(ctx context.Context, e *events) error { return s.board.follow(ctx, e, in.LastEventID) })
		}))
}

// overview reads it, with what needs attention now; next is when that may differ though nothing is written,
// zero for never.
func (s *server) overview(ctx context.Context) (o client.Overview, next time.Time, err error) {
	o = client.Overview{
		About: client.About{Mode: string(s.cfg.Mode), Zone: s.cfg.ZoneName, Version: s.cfg.Version},
		Links: []mesh.LinkStatus{}, Traffic: []mesh.TrafficStatus{}, Failover: []mesh.FailoverStatus{}, Refused: []client.Refusal{},
	}
	f := facts{policies: policies{}, unconfirmed: map[string][]string{}, leafTTL: cmp.Or(s.cfg.LeafTTL, identity.LeafTTL)}
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return o, next, err
	}
	o.Revision = head.Revision
	if o.Zones, err = s.overviewZones(ctx, &f); err != nil {
		return o, next, err
	}
	if s.cfg.Mode == ModeZone {
		err = s.overviewHere(ctx, &o, &f)
	} else {
		for _, z := range o.Zones {
			if z.Unheard != nil {
				o.ProxiesUnknown += z.Status.Proxies
				continue
			}
			o.Proxies, o.ProxiesConnected = o.Proxies+z.Status.Proxies, o.ProxiesConnected+z.Status.ProxiesConnected
		}
	}
	if err != nil {
		return o, next, err
	}
	for _, z := range o.Zones {
		if err := s.overviewOf(ctx, z, &o, &f); err != nil {
			return o, next, err
		}
	}
	o.Links = share(&o, "links", mostRows, o.Links, func(l mesh.LinkStatus) string { return l.Zone })
	o.Traffic = share(&o, "traffic", mostRows, o.Traffic, func(t mesh.TrafficStatus) string { return t.Zone })
	o.Failover = share(&o, "failover", mostRows, o.Failover, func(w mesh.FailoverStatus) string { return w.Zone })
	slices.SortStableFunc(o.Refused, func(a, b client.Refusal) int { return b.At.Compare(a.At) })
	o.Refused = share(&o, "refused", mostRefused, o.Refused, func(r client.Refusal) string { return r.Zone })
	o.Policies = bound(&o, "policies", mostRows, f.policies.list())
	o.Attention, next = attention(&o, f, time.Now())
	o.Attention = bound(&o, "attention", mostAttention, o.Attention)
	return o, next, nil
}

// bound cuts a list and counts what it cut.
func bound[T any](o *client.Overview, name string, most int, list []T) []T {
	if len(list) <= most {
		return list
	}
	if o.LeftOut == nil {
		o.LeftOut = map[string]int{}
	}
	o.LeftOut[name] = len(list) - most
	return list[:most]
}

// share is bound for what zones say: each keeps as many of its first rows as any other may, so that one that says much
// crowds out nobody but itself.
func share[T any](o *client.Overview, name string, most int, list []T, zone func(T) string) []T {
	if len(list) <= most {
		return list
	}
	said := map[string]int{}
	for _, v := range list {
		said[zone(v)]++
	}
	// From the zone that says least: what it leaves of its share is for the others.
	each, left := 0, most
	for i, n := range slices.Sorted(maps.Values(said)) {
		each = left / (len(said) - i)
		left -= min(n, each)
	}
	kept, shown := make([]T, 0, most), map[string]int{}
	for _, v := range list {
		if z := zone(v); shown[z] < each {
			shown[z]++
			kept = append(kept, v)
		}
	}
	if o.LeftOut == nil {
		o.LeftOut = map[string]int{}
	}
	o.LeftOut[name] = len(list) - len(kept)
	return kept
}

// overviewZones reads the zones in the order of their names. A zone that stands alone is in its own list.
func (s *server) overviewZones(ctx context.Context, f *facts) ([]client.ZoneOverview, error) {
	out := []client.ZoneOverview{}
	lines, _, err := s.cfg.Store.ListRecords(ctx, bucketZones, "")
	if err != nil {
		return nil, err
	}
	status := make(map[string]mesh.ZoneStatus, len(lines))
	f.written = make(map[string]time.Time, len(lines))
	for _, rec := range lines {
		var zs mesh.ZoneStatus
		if err := json.Unmarshal(rec.Value, &zs); err != nil {
			s.cfg.Log.WarnContext(ctx, "the line of a zone can't be read, and is not shown", "zone", rec.Key, "error", err)
			continue
		}
		status[rec.Key], f.written[rec.Key] = zs, rec.UpdatedAt
	}
	q := store.Query{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Limit: 1000}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Items {
			z := client.ZoneOverview{Name: r.Name, Status: status[r.Name], Revision: r.Changed}
			// A spec of a newer global may have fields that are not known here; what is known of it is shown.
			_ = json.Unmarshal(r.Spec, &z.Spec)
			z.Unheard = unheard(s.cfg.Mode, z)
			out = append(out, z)
		}
		if q.Continue = page.Continue; q.Continue == "" {
			break
		}
	}
	byName := func(z client.ZoneOverview, name string) int { return strings.Compare(z.Name, name) }
	slices.SortFunc(out, func(a, b client.ZoneOverview) int { return byName(a, b.Name) })
	if at, found := slices.BinarySearchFunc(out, s.cfg.ZoneName, byName); s.cfg.Mode == ModeZone && !found {
		out = slices.Insert(out, at, client.ZoneOverview{Name: s.cfg.ZoneName})
	}
	return out, nil
}

// overviewHere adds what only the zone itself knows: how it stands to global, and its proxies.
func (s *server) overviewHere(ctx context.Context, o *client.Overview, f *facts) error {
	i := slices.IndexFunc(o.Zones, func(z client.ZoneOverview) bool { return z.Name == s.cfg.ZoneName })
	here := &o.Zones[i].Status
	if s.cfg.Uplink != nil {
		*here, _ = s.cfg.Uplink()
	}
	err := eachRecord(ctx, s.cfg.Store, bucketProxies+s.cfg.ZoneName, func(_ store.Record, p mesh.ProxyStatus) {
		here.Proxies++
		if p.Connected {
			here.ProxiesConnected++
			if !p.CertExpires.IsZero() {
				f.leaves = append(f.leaves, p.CertExpires)
			}
		}
	})
	o.Proxies, o.ProxiesConnected = here.Proxies, here.ProxiesConnected
	return err
}

// overviewOf adds what a zone says.
func (s *server) overviewOf(ctx context.Context, z client.ZoneOverview, o *client.Overview, f *facts) error {
	if s.cfg.Mode == ModeZone && z.Name != s.cfg.ZoneName {
		return nil
	}
	obeys := map[string]mesh.ResourceStatus{} // what it says of Zones
	err := eachRecord(ctx, s.cfg.Store, bucketStatus+z.Name, func(rec store.Record, w mesh.ResourceStatus) {
		k, err := mesh.ParseKey(rec.Key)
		if err != nil {
			return
		}
		if k.Kind == mesh.KindZone {
			obeys[k.Name] = w
		}
		if ofTraffic(k.Kind) {
			f.policies.add(z, k, w)
		}
		if w.State == mesh.StateRejected || len(w.Rejections) > 0 {
			o.Refused = append(o.Refused, client.Refusal{Zone: z.Name, Key: k, Message: why(w), Proxies: len(w.Rejections), At: earlier(w.ObservedAt, rec.UpdatedAt)})
		}
	})
	if err != nil {
		return err
	}
	for _, other := range o.Zones {
		if other.Spec.Revoked == nil || z.Spec.Revoked != nil || s.cfg.Mode == ModeGlobal && !z.Status.Joined {
			continue // nothing to obey, or nobody who would be asked to
		}
		if w, ok := obeys[other.Name]; !ok || w.Applied < other.Revision || w.Acked < w.Total {
			f.unconfirmed[other.Name] = append(f.unconfirmed[other.Name], z.Name)
		}
	}
	if err := eachRecord(ctx, s.cfg.Store, bucketLinks+z.Name, func(_ store.Record, l mesh.LinkStatus) {
		l.Zone, l.RTTMillis = z.Name, rounded(l.RTTMillis)
		o.Links = append(o.Links, l)
	}); err != nil {
		return err
	}
	if err := eachRecord(ctx, s.cfg.Store, bucketTraffic+z.Name, func(_ store.Record, t mesh.TrafficStatus) {
		t.Zone, t.Requests, t.Failures = z.Name, rounded(t.Requests), rounded(t.Failures)
		o.Traffic = append(o.Traffic, t)
	}); err != nil {
		return err
	}
	return eachRecord(ctx, s.cfg.Store, bucketFailover+z.Name, func(_ store.Record, w mesh.FailoverStatus) {
		w.Zone, w.Unheard = z.Name, z.Unheard
		o.Failover = append(o.Failover, w)
	})
}

// earlier is when something was observed by the word of a zone, and never later than it was written down here: the
// future is no way to the top of a list.
func earlier(observed, written time.Time) time.Time {
	if observed.Before(written) {
		return observed
	}
	return written
}

// rounded keeps three digits: more would be news to nobody, and a change each time. What is too small or too large to
// be scaled is 0: JSON has no word for what would come of it.
func rounded(v float64) float64 {
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	r := math.Round(v*scale) / scale
	if math.IsInf(r, 0) || math.IsNaN(r) {
		return 0
	}
	return r
}

// eachRecord calls f with the records of a bucket in the order of their keys. One that can't be read is passed over:
// statuses are for display, and come from zones of other versions.
func eachRecord[T any](ctx context.Context, s store.Records, bucket string, f func(rec store.Record, v T)) error {
	list, _, err := s.ListRecords(ctx, bucket, "")
	if err != nil {
		return err
	}
	for _, rec := range list {
		var v T
		if json.Unmarshal(rec.Value, &v) == nil {
			f(rec, v)
		}
	}
	return nil
}

// overviewRecords are an overview as its stream carries it (client.OverviewChange).
func overviewRecords(o client.Overview) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	put := func(path string, v any) error {
		text, err := json.Marshal(v)
		out[path] = text
		return err
	}
	err := put("about", o.About)
	for _, z := range o.Zones {
		err = cmp.Or(err, put("zones/"+z.Name, z))
	}
	for _, l := range o.Links {
		err = cmp.Or(err, put("links/"+l.Zone+"/"+l.To, l))
	}
	for _, t := range o.Traffic {
		err = cmp.Or(err, put("traffic/"+t.Zone+"/"+t.Namespace+"/"+t.Service+"/"+t.To, t))
	}
	for _, w := range o.Failover {
		err = cmp.Or(err, put("failover/"+w.Zone+"/"+w.Namespace+"/"+w.Service, w))
	}
	for _, r := range o.Refused {
		err = cmp.Or(err, put("refused/"+r.Zone+"/"+r.Key.String(), r))
	}
	for _, p := range o.Policies {
		err = cmp.Or(err, put("policies/"+p.Key.String(), p))
	}
	for _, a := range o.Attention {
		err = cmp.Or(err, put("attention/"+a.ID, a))
	}
	return out, err
}

// kindInWords is how the CLI names a resource.
func kindInWords(k mesh.Key) string {
	word := strings.ToLower(string(k.Kind))
	if info, ok := policy.Lookup(string(k.Kind)); ok {
		word = info.Singular
	}
	if k.Namespace == "" {
		return word + "/" + k.Name
	}
	return word + "/" + k.Name + " -n " + k.Namespace
}
