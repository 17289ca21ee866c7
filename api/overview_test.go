package api_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

const overviewStream = "/api/v1/overview/stream"

// twoZones are a mesh at rest.
func (e *env) twoZones() {
	e.Helper()
	for _, z := range []string{"east", "west"} {
		e.want(e.call("POST", "/api/v1/zones", zone(z)), 201, "")
		e.record("zones", z, mesh.ZoneStatus{Joined: true, Connected: true, Wanted: 2, Acked: 2, Proxies: 3, ProxiesConnected: 3})
	}
	e.record("links/east", "west", mesh.LinkStatus{Zone: "east", To: "west", Probed: true, Reachable: true, RTTMillis: 1.23456})
	e.record("traffic/east", "shop/pay/west", mesh.TrafficStatus{Zone: "east", To: "west", Namespace: "shop", Service: "pay", Requests: 12.3456})
	e.record("failover/east", "shop/pay", mesh.FailoverStatus{Zone: "east", Namespace: "shop", Service: "pay", State: mesh.FailoverNormal})
}

func (e *env) overview() (o client.Overview) {
	e.Helper()
	if err := json.Unmarshal([]byte(e.want(e.call("GET", "/api/v1/overview", ""), 200, "").body), &o); err != nil {
		e.Fatal(err)
	}
	return o
}

// One record, whatever it says, does not take the overview away.
func TestOverviewOfAbsurdRecords(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	e.record("zones", "north", "no line")
	e.record("links/west", "x", json.RawMessage(`{"to":"x","rttMs":1e-320}`))
	e.record("traffic/west", "n/s/x", json.RawMessage(`{"namespace":"n","service":"s","to":"x","requests":1e-320,"failures":1.7e308}`))
	o := e.overview()
	if len(o.Links) != 2 || o.Links[1].RTTMillis != 0 || len(o.Traffic) != 2 || o.Traffic[1].Requests != 0 || o.Traffic[1].Failures < 1.6e308 {
		t.Errorf("links %+v, traffic %+v", o.Links, o.Traffic)
	}
}

// A zone that says more than there is room for crowds out itself alone.
func TestOverviewIsSharedByZones(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	refused := func(zone string, i int, at time.Time) {
		key := mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: fmt.Sprint("r", i)}
		e.record("status/"+zone, key.String(), mesh.ResourceStatus{State: mesh.StateRejected, Message: "no", ObservedAt: at})
	}
	e.record("traffic/west", "shop/pay/east", mesh.TrafficStatus{Namespace: "shop", Service: "pay", To: "east", Requests: 5})
	refused("west", 0, time.Now())
	var writes []store.RecordWrite
	for i := range 5000 {
		value, err := json.Marshal(mesh.TrafficStatus{Namespace: "n", Service: fmt.Sprint("s", i), To: "west", Requests: 1})
		if err != nil {
			t.Fatal(err)
		}
		writes = append(writes, store.RecordWrite{Key: fmt.Sprintf("n/s%d/west", i), Value: value})
	}
	if _, err := e.store.PutRecords(t.Context(), "traffic/east", writes...); err != nil {
		t.Fatal(err)
	}
	for i := range 70 {
		refused("east", i, time.Now().AddDate(100, 0, 0))
	}
	o := e.overview()
	ofWest := 0
	for _, row := range o.Traffic {
		if row.Zone == "west" {
			ofWest++
		}
	}
	for _, r := range o.Refused {
		if r.At.After(time.Now()) {
			t.Fatalf("a refusal of the future: %+v", r)
		}
		if r.Zone == "west" {
			ofWest++
		}
	}
	// twoZones has one more row of east.
	if ofWest != 2 || len(o.Traffic) != 5000 || o.LeftOut["traffic"] != 2 || len(o.Refused) != 64 || o.LeftOut["refused"] != 7 {
		t.Errorf("%d rows of west; %d of traffic, %d refusals; left out %v", ofWest, len(o.Traffic), len(o.Refused), o.LeftOut)
	}
}

func TestOverview(t *testing.T) {
	e := start(t, nil)
	if o := e.overview(); o.Mode != "global" || len(o.Zones)+len(o.Attention) != 0 {
		t.Errorf("an empty mesh: %+v", o)
	}
	e.twoZones()
	o := e.overview()
	if o.Revision != 2 || o.Proxies != 6 || len(o.Zones) != 2 || o.Zones[1].Name != "west" || !o.Zones[1].Status.Connected {
		t.Errorf("zones: %+v", o)
	}
	if len(o.Links) != 1 || o.Links[0].RTTMillis != 1.23 || len(o.Traffic) != 1 || o.Traffic[0].Requests != 12.3 || len(o.Failover) != 1 || len(o.Attention) != 0 {
		t.Errorf("what zones say: %+v", o)
	}
	e.record("links/east", "west", "no link status") // of another version
	key := mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "pay"}
	e.record("status/west", key.String(), mesh.ResourceStatus{State: mesh.StateRejected, Message: "INVALID: no"})
	if o = e.overview(); len(o.Links) != 0 || len(o.Refused) != 1 || o.Refused[0].Key != key || len(o.Attention) != 1 || !strings.Contains(o.Attention[0].Why, "INVALID: no") {
		t.Errorf("a refusal: %+v", o)
	}
}

func TestOverviewOfAZone(t *testing.T) {
	var away atomic.Bool
	changed := make(chan struct{})
	e := start(t, func(c *api.Config) {
		c.Mode, c.ZoneName = api.ModeZone, "east"
		c.Uplink = func() (mesh.ZoneStatus, <-chan struct{}) {
			if away.Load() {
				return mesh.ZoneStatus{Joined: true, Acked: 7, Message: "connection refused"}, nil
			}
			return mesh.ZoneStatus{Joined: true, Connected: true, Acked: 7}, changed
		}
	})
	e.record("proxies/east", "sidecar~shop~a", mesh.ProxyStatus{Connected: true, CertExpires: time.Now().Add(11 * time.Hour)})
	e.record("proxies/east", "sidecar~shop~b", mesh.ProxyStatus{CertExpires: time.Now()}) // away: nobody waits for its certificate
	o := e.overview()
	if o.Zone != "east" || len(o.Zones) != 1 || o.Zones[0].Status.Acked != 7 || o.Proxies != 2 || o.ProxiesConnected != 1 {
		t.Errorf("overview: %+v", o)
	}
	if len(o.Attention) != 1 || o.Attention[0].ID != "proxies/east" {
		t.Errorf("attention: %+v", o.Attention)
	}
	w := e.stream(overviewStream)
	w.want("snapshot", `"acked":7`)
	e.record("proxies/east", "sidecar~shop~b", nil)
	w.want("patch", `"attention/proxies/east":null`)
	away.Store(true)
	close(changed)
	w.want("patch", `connection refused`)
}

// state is what a reader of the stream holds.
type state map[string]any

func (s state) take(t *testing.T, ev event) {
	t.Helper()
	var c client.OverviewChange
	if err := json.Unmarshal([]byte(ev.data), &c); err != nil || ev.id == "" {
		t.Fatalf("%+v: %v", ev, err)
	}
	if ev.name == "snapshot" {
		clear(s)
	}
	for path, v := range c.Records {
		if v == nil {
			delete(s, path)
		} else {
			s[path] = v
		}
	}
}

func TestOverviewStreamSendsWhatChanged(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	w := e.stream(overviewStream)
	all := w.want("snapshot", `"links/east/west"`)

	e.record("failover/east", "shop/pay", mesh.FailoverStatus{Zone: "east", Namespace: "shop", Service: "pay", State: mesh.FailoverNormal}) // as it was
	e.record("traffic/east", "shop/pay/west", mesh.TrafficStatus{Zone: "east", To: "west", Namespace: "shop", Service: "pay", Requests: 13})
	one := w.want("patch", `"requests":13`)
	if strings.Contains(one.data, "failover/") || strings.Contains(one.data, "zones/") {
		t.Errorf("a patch with what did not change: %s", one.data)
	}
	e.record("links/east", "west", nil)
	w.want("patch", `"links/east/west":null`)
	e.want(e.call("POST", "/api/v1/zones", zone("north")), 201, "")
	last := w.want("patch", `"zones/north"`)
	w.stop()

	// Resuming brings what is lacking, as one patch; the older the id, the more of it.
	again := e.stream(overviewStream, "Last-Event-ID", one.id)
	ev := again.want("patch", `"zones/north"`)
	if ev.id != last.id || !strings.Contains(ev.data, `"links/east/west":null`) || strings.Contains(ev.data, "traffic/") {
		t.Errorf("resumed with %+v", ev)
	}
	again.stop()
	e.stream(overviewStream, "Last-Event-ID", all.id).want("patch", `"requests":13`)
	e.stream(overviewStream, "Last-Event-ID", "of-another-life").want("snapshot", `"zones/east"`)
	// Nothing lacks: the first that comes is the next change.
	quiet := e.stream(overviewStream, "Last-Event-ID", last.id)
	e.record("traffic/east", "shop/pay/west", nil)
	quiet.want("patch", `"traffic/east/shop/pay/west":null`)
}

// A replica, or a server after its restart, knows the state by its id and not by its memory.
func TestOverviewResumesAtAReplica(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	w := e.stream(overviewStream)
	held := state{}
	ev := w.want("snapshot", "")
	held.take(t, ev)
	w.stop()
	other := *e
	other.url = serveAgain(t, e)
	other.stream(overviewStream).want("snapshot", "") // it has seen the state
	w = other.stream(overviewStream, "Last-Event-ID", ev.id)
	e.record("links/east", "west", nil)
	if ev = w.want("patch", `"links/east/west":null`); strings.Contains(ev.data, "zones/") {
		t.Errorf("more than changed: %s", ev.data)
	}
	w.stop()
	e.record("links/east", "west", mesh.LinkStatus{To: "west"})
	other.url = serveAgain(t, e) // it never had the state of that id
	other.stream(overviewStream, "Last-Event-ID", ev.id).want("snapshot", `"zones/east"`)
}

// Whatever is written and whenever a reader comes and goes: in the end it holds what is.
func TestOverviewStreamConverges(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	rnd := rand.New(rand.NewPCG(7, 7))
	held, at := state{}, ""
	for round := range 12 {
		w := e.stream(overviewStream, "Last-Event-ID", at)
		for range 1 + rnd.IntN(20) {
			key := fmt.Sprintf("shop/s%d", rnd.IntN(6))
			var v any
			if rnd.IntN(3) > 0 {
				v = mesh.FailoverStatus{Namespace: "shop", Service: key[5:], State: mesh.FailoverMoved, Reason: fmt.Sprint(rnd.IntN(3))}
			}
			e.record("failover/west", key, v)
		}
		mark := fmt.Sprintf("round %d", round)
		e.record("zones", "east", mesh.ZoneStatus{Joined: true, Message: mark})
		for {
			ev := w.next()
			held.take(t, ev)
			if at = ev.id; strings.Contains(ev.data, mark) {
				break
			}
		}
		if rnd.IntN(4) == 0 {
			at = "lost"
		}
		w.stop()
	}
	fresh := state{}
	fresh.take(t, e.stream(overviewStream).want("snapshot", ""))
	if !reflect.DeepEqual(held, fresh) {
		t.Errorf("held\n%v\nis\n%v", held, fresh)
	}
}

func TestSession(t *testing.T) {
	e := start(t, nil)
	viewer, err := e.tokens.Create(t.Context(), "eyes", api.RoleViewer, 0)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, site string, cookie *http.Cookie, bearer string) (status int, cookies []*http.Cookie) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, e.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != nil {
			req.AddCookie(cookie)
		}
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		if site != "" {
			req.Header.Set("Sec-Fetch-Site", site)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode, res.Cookies()
	}
	status, cookies := ask("POST", "/api/v1/session", "same-origin", nil, viewer.Token)
	if status != http.StatusNoContent || len(cookies) != 1 {
		t.Fatalf("session: %d %v", status, cookies)
	}
	c := cookies[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/api/" || c.MaxAge != 0 || c.Secure {
		t.Errorf("cookie: %+v", c)
	}
	for _, x := range []struct {
		name, method, path, site string
		want                     int
	}{
		{"reads", "GET", "/api/v1/overview", "same-origin", 200},
		{"another port of this host", "GET", "/api/v1/overview", "same-site", 401},
		{"another site", "GET", "/api/v1/overview", "cross-site", 401},
		{"no browser that tells", "GET", "/api/v1/overview", "", 401},
		{"a write", "POST", "/api/v1/_apply", "same-origin", 401},
		{"sign out from elsewhere", "DELETE", "/api/v1/session", "same-site", 401},
		{"a cookie that makes itself", "POST", "/api/v1/session", "same-origin", 400},
	} {
		if status, _ := ask(x.method, x.path, x.site, c, ""); status != x.want {
			t.Errorf("%s: %d", x.name, status)
		}
	}
	if status, cookies := ask("POST", "/api/v1/session", "same-origin", nil, "cmt_no_token"); status != 401 || len(cookies) != 0 {
		t.Errorf("a wrong token: %d %v", status, cookies)
	}
	if status, cookies := ask("DELETE", "/api/v1/session", "same-origin", c, ""); status != 204 || len(cookies) != 1 || cookies[0].MaxAge >= 0 {
		t.Errorf("sign out: %d %v", status, cookies)
	}
	if err := e.tokens.Revoke(t.Context(), viewer.ID); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask("GET", "/api/v1/overview", "same-origin", c, ""); status != 401 {
		t.Errorf("a cookie of a revoked token: %d", status)
	}
}

// What acts on a service is told whoever made it, and by whomever it is asked for.
func TestActing(t *testing.T) {
	e := start(t, nil)
	e.want(e.call("POST", "/api/v1/_apply", `
apiVersion: mesh.comity.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: slow, namespace: shop}
spec: {targetRef: {kind: Service, name: pay}, timeouts: {request: 1s}}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: TelemetryPolicy
metadata: {name: all, namespace: shop}
spec: {metrics: {callers: true}}
---
apiVersion: mesh.comity.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: other, namespace: bank}
spec: {timeouts: {request: 1s}}
`, "Content-Type", "application/yaml"), 200, "")
	var list client.ActingList
	if err := json.Unmarshal([]byte(e.want(e.call("GET", "/api/v1/acting?namespace=shop&service=pay", ""), 200, "").body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || list.Items[0].Key.Name != "slow" || list.Items[0].As != policy.ActService || list.Items[1].As != policy.ActNamespace {
		t.Errorf("%+v", list)
	}
	e.want(e.call("GET", "/api/v1/acting?namespace=shop", ""), 422, "")
}
