package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// stream reads server-sent events until the test ends.
type stream struct {
	t    *testing.T
	in   *bufio.Scanner
	stop func()
}

type event struct{ name, id, data string }

func (e *env) stream(path string, headers ...string) *stream {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+path, nil)
	if err != nil {
		e.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+e.token)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req) //nolint:bodyclose // stop closes it
	if err != nil {
		e.Fatal(err)
	}
	s := &stream{t: e.T, in: bufio.NewScanner(res.Body), stop: func() { cancel(); res.Body.Close() }}
	e.Cleanup(s.stop)
	if res.StatusCode != http.StatusOK {
		e.Fatalf("stream: %d", res.StatusCode)
	}
	s.in.Buffer(nil, 1<<20)
	return s
}

func (s *stream) next() (ev event) {
	s.t.Helper()
	for s.in.Scan() {
		line := s.in.Text()
		switch {
		case line == "" && ev.name != "":
			return ev
		case strings.HasPrefix(line, "event: "):
			ev.name = line[7:]
		case strings.HasPrefix(line, "id: "):
			ev.id = line[4:]
		case strings.HasPrefix(line, "data: "):
			ev.data = line[6:]
		}
	}
	s.t.Fatalf("the stream ended: %v", s.in.Err())
	return ev
}

func (s *stream) want(name, contains string) event {
	s.t.Helper()
	ev := s.next()
	if ev.name != name || !strings.Contains(ev.data, contains) {
		s.t.Fatalf("event %+v, want %s with %s", ev, name, contains)
	}
	return ev
}

func TestWatch(t *testing.T) {
	e := start(t, nil)
	e.want(e.call("POST", services, service("a", `"l":"1"`)), 201, "")
	w := e.stream("/api/v1/services?labelSelector=l%3D1")
	w.want("added", `"name":"a"`)
	if ev := w.want("bookmark", `"cursor"`); ev.id == "" {
		t.Error("a bookmark without an id")
	}
	e.want(e.call("POST", "/api/v1/zones", zone("z")), 201, "")
	e.want(e.call("POST", services, service("b", "")), 201, "")
	w.want("deleted", `"name":"b"`) // never matched: may be told, must not be added
	e.want(e.call("POST", "/api/v1/_apply", "["+service("b", `"l":"1"`)+","+service("c", `"l":"1"`)+"]"), 200, "")
	if ev := w.want("modified", `"name":"b"`); ev.id != "" {
		t.Error("the first change of a commit can be resumed from, losing the second")
	}
	last := w.want("added", `"name":"c"`)
	w.stop()
	e.want(e.call("DELETE", services+"/a", ""), 200, "")
	again := e.stream("/api/v1/services", "Last-Event-ID", last.id)
	again.want("deleted", `"name":"a"`)

	e.want(e.call("GET", "/api/v1/services?watch=true&cursor=rubbish", ""), 400, api.CodeMalformed)
	e.want(e.call("GET", "/api/v1/services?watch=true&cursor=otherlife:1", ""), 410, api.CodeIncarnation)
	e.want(e.call("GET", "/api/v1/services?watch=true&limit=3", ""), 400, api.CodeMalformed)
	if err := e.store.Compact(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	inc, _, _ := strings.Cut(last.id, ":")
	p := e.want(e.call("GET", "/api/v1/services?watch=true", "", "Last-Event-ID", inc+":2"), 410, api.CodeCompacted).problem(t)
	if !strings.Contains(p.Try, "list") {
		t.Errorf("no hint to list again: %+v", p)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	e := start(t, func(c *api.Config) { c.MaxStreams = 1 })
	w := e.stream("/api/v1/zones")
	w.want("bookmark", "")
	e.want(e.call("GET", "/api/v1/zones?watch=true", ""), 429, api.CodeTooMany)
}

// One token does not take the places of the others.
func TestStreamsOfATokenAreBounded(t *testing.T) {
	e := start(t, func(c *api.Config) { c.MaxStreamsOfToken = 1 })
	other, err := e.tokens.Create(t.Context(), "other", api.RoleViewer, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := e.stream("/api/v1/zones")
	w.want("bookmark", "")
	if p := e.want(e.call("GET", "/api/v1/zones?watch=true", ""), 429, api.CodeTooMany).problem(t); !strings.Contains(p.Detail, "of this token") {
		t.Errorf("%+v", p)
	}
	e.token = other.Token
	e.stream("/api/v1/zones").want("bookmark", "")
}

// record writes a record; nil deletes it.
func (e *env) record(bucket, key string, v any) {
	e.Helper()
	w := store.RecordWrite{Key: key, Delete: v == nil}
	if v != nil {
		var err error
		if w.Value, err = json.Marshal(v); err != nil {
			e.Fatal(err)
		}
	}
	if _, err := e.store.PutRecords(e.Context(), bucket, w); err != nil {
		e.Fatal(err)
	}
}

func TestStatusAndProgress(t *testing.T) {
	e := start(t, nil)
	e.want(e.call("POST", "/api/v1/_apply", "["+zone("east")+","+zone("west")+","+zone("south")+"]"), 200, "")
	e.record("zones", "east", mesh.ZoneStatus{Joined: true, Connected: true, Wanted: 2, Acked: 1})
	e.record("zones", "west", mesh.ZoneStatus{Joined: true, Connected: true})
	e.want(e.call("POST", services, strings.Replace(service("web", ""), `"labels"`, `"annotations":{"mesh.comity.dev/zones":"east,west"},"labels"`, 1)), 201, "")
	status := func() (st client.ResourceObjectStatus) {
		t.Helper()
		if err := json.Unmarshal(e.object(e.want(e.call("GET", services+"/web", ""), 200, "")).Status, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := status(); len(st.Zones) != 2 || st.Zones[0].State != mesh.StatePending || st.Conditions[1].Status != "False" {
		t.Fatalf("status %+v", st)
	}
	w := e.stream("/api/v1/_status?revision=2")
	w.want("progress", `"done":false`)
	key := "global/Service/shop/web"
	e.record("status/east", key, mesh.ResourceStatus{Wanted: 2, Applied: 2, State: mesh.StateApplied, Acked: 1, Total: 2})
	w.want("progress", `"acked":1,"total":2`)
	e.record("status/east", key, mesh.ResourceStatus{Wanted: 2, Applied: 2, State: mesh.StateApplied, Acked: 2, Total: 2})
	w.want("progress", `"zone":"east","done":true,"state":"Applied"`)
	e.record("zones", "west", mesh.ZoneStatus{Joined: true})
	w.want("progress", `"zone":"west","done":true,"state":"Offline"`)
	e.record("zones", "west", mesh.ZoneStatus{Joined: true, Connected: true})
	e.record("status/west", key, mesh.ResourceStatus{Wanted: 2, Applied: 2, State: mesh.StateRejected, Total: 1,
		Rejections: []mesh.Rejection{{Proxy: "sidecar~shop~w", Resource: "cluster x", Error: "no"}}})
	if st := status(); st.Acked != 2 || st.Total != 3 || st.Conditions[0].Status != "False" || !strings.Contains(st.Conditions[0].Message, "sidecar~shop~w refused cluster x: no") {
		t.Fatalf("status %+v", st)
	}
	done := e.stream("/api/v1/_status?revision=2")
	done.want("progress", `"done":true`)

	if a := e.call("GET", "/api/v1/zones/east", ""); !strings.Contains(a.body, `"joined":true`) || !strings.Contains(a.body, `"reason":"Behind"`) {
		t.Errorf("zone %s", a.body)
	}
	e.want(e.call("GET", "/api/v1/_status?revision=99", ""), 404, api.CodeNotFound)
	e.want(e.call("GET", "/api/v1/_status", ""), 422, api.CodeInvalid)

	// A deletion is done when the zones have forgotten it.
	e.want(e.call("DELETE", services+"/web", ""), 200, "")
	del := e.stream("/api/v1/_status?revision=3")
	del.want("progress", `"done":false`)
	if _, err := e.store.PutRecords(t.Context(), "status/east", store.RecordWrite{Key: key, Delete: true}); err != nil {
		t.Fatal(err)
	}
	e.record("zones", "east", mesh.ZoneStatus{Connected: true, Acked: 3})
	e.record("zones", "west", mesh.ZoneStatus{})
	for !strings.Contains(del.want("progress", "").data, `"revision":3,"done":true`) {
	}

	e.record("proxies/east", "sidecar~shop~w", mesh.ProxyStatus{Zone: "east", Connected: true})
	for path, n := range map[string]int{"": 1, "?zone=east": 1, "?zone=west": 0} {
		var l client.ProxyList
		if err := json.Unmarshal([]byte(e.want(e.call("GET", "/api/v1/proxies"+path, ""), 200, "").body), &l); err != nil || len(l.Items) != n {
			t.Errorf("proxies%s: %+v, %v", path, l, err)
		}
	}
	e.want(e.call("GET", "/api/v1/proxies?zone=mars", ""), 404, api.CodeNotFound)

	for _, st := range []mesh.FailoverStatus{{Zone: "east", Namespace: "shop", Service: "pay"}, {Zone: "east", Namespace: "shop", Service: "web"}, {Zone: "west", Namespace: "shopping", Service: "pay"}} {
		e.record("failover/"+st.Zone, st.Namespace+"/"+st.Service, st)
	}
	for query, n := range map[string]int{"": 3, "?zone=east": 2, "?namespace=shop": 2, "?service=pay": 2, "?namespace=shop&service=pay&zone=east": 1, "?namespace=nowhere": 0} {
		var l client.FailoverList
		if err := json.Unmarshal([]byte(e.want(e.call("GET", "/api/v1/failover"+query, ""), 200, "").body), &l); err != nil || len(l.Items) != n {
			t.Errorf("failover%s: %+v, %v", query, l, err)
		}
	}
	e.want(e.call("GET", "/api/v1/failover?zone=mars", ""), 404, api.CodeNotFound)
}

// What a zone says of a revision as a whole counts, not what its resources add up to.
func TestProgressOfARevision(t *testing.T) {
	e := start(t, nil)
	e.want(e.call("POST", "/api/v1/zones", zone("east")), 201, "")
	e.record("zones", "east", mesh.ZoneStatus{Joined: true, Connected: true})
	word := func(revision mesh.Revision, changes, acked, total int, done bool, more ...mesh.Rejection) {
		t.Helper()
		state := mesh.StateApplied
		if len(more) > 0 {
			state = mesh.StateRejected
		}
		e.record("revisions/east", mesh.RevisionSlot(mesh.OriginGlobal, revision), mesh.RevisionStatus{
			Origin: mesh.OriginGlobal, Revision: revision, Changes: changes, State: state, Acked: acked, Total: total, Done: done, Rejections: more,
		})
	}
	told := func(name string, revision mesh.Revision, acked, total int) {
		t.Helper()
		e.record("status/east", "global/Service/shop/"+name, mesh.ResourceStatus{Wanted: revision, Applied: revision, State: mesh.StateApplied, Acked: acked, Total: total})
	}
	last := func(s *stream) string {
		t.Helper()
		for {
			if ev := s.want("progress", ""); strings.Contains(ev.data[:30], `"done":true`) {
				return ev.data
			}
		}
	}

	word(2, 2, 9, 9, true) // of an earlier life of global
	e.want(e.call("POST", "/api/v1/_apply", "["+service("a", "")+","+service("b", "")+"]"), 200, "")
	batch := e.stream("/api/v1/_status?revision=2")
	batch.want("progress", `"acked":0,"total":0`)
	word(2, 2, 1, 3, false)
	batch.want("progress", `"acked":1,"total":3`)
	word(2, 2, 3, 3, true)
	if got := last(batch); !strings.Contains(got, `"acked":3,"total":3`) {
		t.Errorf("batch: %s", got)
	}
	told("a", 2, 3, 3)
	told("b", 2, 2, 2)

	// A deletion ends with those who let go of it.
	e.want(e.call("DELETE", services+"/a", ""), 200, "")
	word(3, 1, 2, 3, false)
	deletion := e.stream("/api/v1/_status?revision=3")
	deletion.want("progress", `"done":false`)
	word(3, 1, 3, 3, true)
	if got := last(deletion); !strings.Contains(got, `"acked":3,"total":3`) {
		t.Errorf("deletion: %s", got)
	}

	// Where a newer revision takes the place, and where only a part was heard of, the resources tell.
	word(3+mesh.RevisionSlots, 1, 7, 7, true)
	if got := last(e.stream("/api/v1/_status?revision=2")); !strings.Contains(got, `"acked":3,"total":3`) {
		t.Errorf("overtaken: %s", got)
	}
	word(2, 1, 1, 1, true)
	if got := last(e.stream("/api/v1/_status?revision=2")); !strings.Contains(got, `"acked":1,"total":1`) {
		t.Errorf("in part: %s", got)
	}

	// Who refuses is not waited for, the others are.
	e.want(e.call("POST", "/api/v1/_apply", "["+service("b", `"l":"1"`)+"]"), 200, "")
	no := mesh.Rejection{Proxy: "sidecar~shop~w", Resource: "cluster x", Error: "no"}
	word(4, 1, 0, 2, false, no)
	refused := e.stream("/api/v1/_status?revision=4")
	refused.want("progress", `"done":false,"state":"Rejected"`)
	word(4, 1, 1, 2, true, no)
	if got := last(refused); !strings.Contains(got, `"acked":1,"total":2`) || !strings.Contains(got, "sidecar~shop~w refused cluster x: no") {
		t.Errorf("refused: %s", got)
	}
}

func TestClientFits(t *testing.T) {
	e := start(t, nil)
	c, err := client.New(client.Config{Server: e.url, Token: e.token})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Apply(t.Context(), []byte("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: east}\n"), client.ApplyOptions{Reason: "why not ü"})
	if err != nil || r.Revision != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	steps := 0
	if err := c.Follow(t.Context(), 1, func(p client.Progress) bool { steps++; return false }); err != nil || steps != 1 {
		t.Errorf("follow: %d steps, %v", steps, err)
	}
	zones, _ := policy.Lookup("zones")
	stop := errors.New("enough")
	var seen []string
	cursor := ""
	if err := c.Watch(t.Context(), zones, client.ListOptions{}, "", func(ev client.Event) error {
		seen = append(seen, string(ev.Type)+" "+ev.Object.Metadata.Name)
		if ev.Type == client.EventBookmark {
			cursor = ev.Cursor
			return stop
		}
		return nil
	}); !errors.Is(err, stop) || cursor == "" || strings.Join(seen, ",") != "added east,bookmark " {
		t.Errorf("watch: %v, %q, %v", seen, cursor, err)
	}
	var f *fault.Error
	err = c.Watch(t.Context(), zones, client.ListOptions{}, "otherlife:1", func(client.Event) error { return nil })
	if !errors.As(err, &f) || f.Code != api.CodeIncarnation {
		t.Errorf("watch from another life: %v", err)
	}
	tok, err := c.CreateAPIToken(t.Context(), client.APITokenRequest{Name: "reader", Role: "viewer", TTLSeconds: 60})
	if err != nil || tok.Token == "" {
		t.Fatalf("%+v, %v", tok, err)
	}
	list, err := c.APITokens(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := c.RevokeAPIToken(t.Context(), tok.ID); err != nil {
		t.Error(err)
	}
}
