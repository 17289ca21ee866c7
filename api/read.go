package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// SelectInput is the query of a list or a watch.
type SelectInput struct {
	Origin        string `query:"origin" doc:"Only resources of this origin: global, or a zone."`
	LabelSelector string `query:"labelSelector" doc:"Only resources with these labels, as app=web,tier=front."`
	Contains      string `query:"contains" doc:"Only resources whose name contains this."`
	Sort          string `query:"sort" doc:"name, changed or created; with - before it descending. Default: origin, namespace, name."`
	Limit         int    `query:"limit" minimum:"0" maximum:"1000" doc:"Of a page; 0 means 100."`
	Continue      string `query:"continue" doc:"From the page before."`
	Watch         bool   `query:"watch" doc:"Stream changes as text/event-stream; the same as asking for that with Accept."`
	Cursor        string `query:"cursor" doc:"Watch from this cursor; the same as Last-Event-ID."`
	LastEventID   string `header:"Last-Event-ID"`
	Accept        string `header:"Accept"`
}

func (q SelectInput) query(kind mesh.Kind, namespace string) (store.Query, error) {
	out := store.Query{
		Origin: mesh.Origin(q.Origin), Kind: kind, Namespace: namespace, Contains: q.Contains,
		Limit: q.Limit, Continue: q.Continue,
	}
	name, desc := strings.CutPrefix(q.Sort, "-")
	out.Desc = desc
	switch name {
	case "", "key":
		out.Sort = store.SortKey
	case "name":
		out.Sort = store.SortName
	case "changed":
		out.Sort = store.SortChanged
	case "created":
		out.Sort = store.SortCreated
	default:
		return out, fail(http.StatusBadRequest, CodeMalformed, "sort by name, changed or created", "there is no order %.40q", q.Sort)
	}
	labels, err := parseSelector(q.LabelSelector)
	out.Labels = labels
	return out, err
}

// parseSelector reads equalities; the set operators of Kubernetes are refused.
func parseSelector(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(part, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(strings.TrimPrefix(v, "="))
		if !ok || k == "" || strings.ContainsAny(k, "! ()") || len(out) >= 32 {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "write app=web,tier=front", "label selector %.80q is not understood: only equality is", s)
		}
		if had, twice := out[k]; twice && had != v {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "label %.80q can't have two values", k)
		}
		out[k] = v
	}
	return out, nil
}

func (q SelectInput) watching() bool {
	return q.Watch || strings.Contains(q.Accept, "text/event-stream")
}

// list answers a page, or begins a watch.
func (s *server) list(ctx context.Context, kind policy.KindInfo, namespace string, sel SelectInput) (*huma.StreamResponse, error) {
	q, err := sel.query(kind.Kind, namespace)
	if err != nil {
		return nil, err
	}
	if sel.watching() {
		return s.watch(ctx, q, sel)
	}
	page, err := s.cfg.Store.List(ctx, q)
	if err != nil {
		return nil, err
	}
	items, err := s.withStatus(ctx, page.Items)
	if err != nil {
		return nil, err
	}
	return reply(http.StatusOK, nil, listAnswer{
		APIVersion: kind.APIVersion, Kind: string(kind.Kind) + "List",
		List:   client.List{Items: items, Continue: page.Continue, Revision: page.Cursor.Revision},
		Cursor: page.Cursor.String(),
	})
}

// listAnswer is client.List with what makes it a document of its own, and the cursor to watch from.
type listAnswer struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	client.List
	Cursor string `json:"cursor"`
}

// named is the resource that a path means: that of the given origin; without one, the store's own, or else
// the only one.
func (s *server) named(ctx context.Context, kind mesh.Kind, namespace, name, origin string) (mesh.Resource, error) {
	if origin == "" {
		found, err := s.cfg.Store.List(ctx, store.Query{Kind: kind, Namespace: namespace, Name: name, Limit: 1000})
		if err != nil {
			return mesh.Resource{}, err
		}
		var origins []string
		for _, r := range found.Items {
			if r.Origin == s.cfg.Origin {
				return r, nil
			}
			origins = append(origins, string(r.Origin))
		}
		switch len(origins) {
		case 0:
			return mesh.Resource{}, notFound(kind, namespace, name)
		case 1:
			return found.Items[0], nil
		}
		return mesh.Resource{}, fail(http.StatusConflict, CodeAmbiguous, "add ?origin=", "several origins have a %s of this name: %s", kind, strings.Join(origins, ", "))
	}
	k := mesh.Key{Origin: mesh.Origin(origin), Kind: kind, Namespace: namespace, Name: name}
	r, err := s.cfg.Store.Get(ctx, k)
	if err != nil {
		if p := problemOf(ctx, s.cfg.Log, err); p.Status == http.StatusNotFound {
			return r, notFound(kind, namespace, name)
		}
	}
	return r, err
}

func notFound(kind mesh.Kind, namespace, name string) *problem {
	if namespace != "" {
		return fail(http.StatusNotFound, CodeNotFound, "", "there is no %s %q in namespace %q", kind, name, namespace)
	}
	return fail(http.StatusNotFound, CodeNotFound, "", "there is no %s %q", kind, name)
}

func (s *server) get(ctx context.Context, kind policy.KindInfo, namespace, name, origin string) (*huma.StreamResponse, error) {
	r, err := s.named(ctx, kind.Kind, namespace, name, origin)
	if err != nil {
		return nil, err
	}
	o, err := s.withStatus(ctx, []mesh.Resource{r})
	if err != nil {
		return nil, err
	}
	notes, err := s.notes(ctx, []mesh.Resource{r}, nil)
	if err != nil {
		return nil, err
	}
	if notes != nil {
		var status client.ResourceObjectStatus
		if err := json.Unmarshal(o[0].Status, &status); err != nil {
			return nil, err
		}
		status.Notes = notes[r.Key]
		if o[0].Status, err = json.Marshal(status); err != nil {
			return nil, err
		}
	}
	return reply(http.StatusOK, map[string]string{"ETag": etag(r)}, o[0])
}

// HistoryList is the answer of .../history, newest first.
type HistoryList struct {
	Items []HistoryItem `json:"items"`
	// Before is what to ask with ?before= for older ones; 0 at the end.
	Before mesh.Revision `json:"before,omitempty"`
}

// HistoryItem is one change. Before is absent at a creation, After at a deletion.
type HistoryItem struct {
	Revision  mesh.Revision  `json:"revision"`
	At        time.Time      `json:"at"`
	Actor     string         `json:"actor"`
	Source    string         `json:"source,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	RequestID string         `json:"requestId,omitempty"`
	Before    *client.Object `json:"before,omitempty"`
	After     *client.Object `json:"after,omitempty"`
}

func (s *server) history(ctx context.Context, kind policy.KindInfo, namespace, name, origin string, limit int, before uint64) (*huma.StreamResponse, error) {
	k := mesh.Key{Origin: mesh.Origin(origin), Kind: kind.Kind, Namespace: namespace, Name: name}
	if origin == "" {
		k.Origin = s.cfg.Origin
		// What exists only as a copy has its history under its own origin; what is gone is looked for here.
		if r, err := s.named(ctx, kind.Kind, namespace, name, ""); err == nil {
			k = r.Key
		}
	}
	if limit == 0 {
		limit = 20
	}
	entries, err := s.cfg.Store.History(ctx, k, limit, mesh.Revision(before))
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 && before == 0 {
		return nil, notFound(kind.Kind, namespace, name)
	}
	out := HistoryList{Items: []HistoryItem{}}
	for _, e := range entries {
		it := HistoryItem{Revision: e.Revision, At: e.At, Actor: e.Actor, Source: e.Source, Reason: e.Reason, RequestID: e.RequestID}
		for _, side := range []struct {
			from *mesh.Resource
			to   **client.Object
		}{{e.Before, &it.Before}, {e.After, &it.After}} {
			if side.from != nil {
				o := toObject(*side.from)
				*side.to = &o
			}
		}
		out.Items = append(out.Items, it)
	}
	if len(entries) == limit {
		out.Before = entries[limit-1].Revision
	}
	return reply(http.StatusOK, nil, out)
}

// proxies answers the proxies of one zone or of all.
func (s *server) proxies(ctx context.Context, zone string) (*huma.StreamResponse, error) {
	list, err := s.proxiesOf(ctx, zone)
	if err != nil {
		return nil, err
	}
	return reply(http.StatusOK, nil, client.ProxyList{Items: list})
}

// proxiesOf reads what one zone, or all, say of their proxies.
func (s *server) proxiesOf(ctx context.Context, zone string) ([]mesh.ProxyStatus, error) {
	return zonesWords(ctx, s, "proxies", zone, "", func(p *mesh.ProxyStatus, z heardZone) { p.Zone, p.Unheard = z.name, z.unheard })
}

// failover answers where the traffic of services goes.
func (s *server) failover(ctx context.Context, in client.FailoverQuery) (*huma.StreamResponse, error) {
	prefix := ""
	if in.Namespace != "" {
		prefix = in.Namespace + "/"
	}
	list, err := zonesWords(ctx, s, "failover", in.Zone, prefix, func(st *mesh.FailoverStatus, z heardZone) { st.Zone, st.Unheard = z.name, z.unheard })
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(st mesh.FailoverStatus) bool { return in.Service != "" && st.Service != in.Service })
	return reply(http.StatusOK, nil, client.FailoverList{Items: list})
}

// zonesWords reads what one zone, or all, say of things: the values of a bucket whose keys begin with prefix, zone by
// zone in the order of keys. mark says of each whose word it is, which the word itself is not believed. A zone that is not known is an error.
func zonesWords[T any](ctx context.Context, s *server, bucket, zone, prefix string, mark func(*T, heardZone)) ([]T, error) {
	zones, err := s.heardZones(ctx)
	if err != nil {
		return nil, err
	}
	if zone != "" {
		i := slices.IndexFunc(zones, func(z heardZone) bool { return z.name == zone })
		if i < 0 {
			return nil, notFound(mesh.KindZone, "", zone)
		}
		zones = zones[i : i+1]
	}
	out := []T{}
	for _, z := range zones {
		list, _, err := s.cfg.Store.ListRecords(ctx, bucket+"/"+z.name, prefix)
		if err != nil {
			return nil, err
		}
		for _, rec := range list {
			var v T
			if err := json.Unmarshal(rec.Value, &v); err != nil {
				return nil, fmt.Errorf("%s of zone %s, %s: %w", bucket, z.name, rec.Key, err)
			}
			mark(&v, z)
			out = append(out, v)
		}
	}
	return out, nil
}
