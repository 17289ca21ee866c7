package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// TestUnheard: what a zone said before it went away is never answered as if it were of now.
func TestUnheard(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	e.want(e.call("POST", services, service("web", "")), 201, "")
	key := "global/Service/shop/web"
	for _, z := range []string{"east", "west"} {
		e.record("status/"+z, key, mesh.ResourceStatus{Wanted: 3, Applied: 3, State: mesh.StateApplied, Acked: 2, Total: 2})
		// Its own word about whether it is heard, and about who it is, is nothing.
		e.record("proxies/"+z, "sidecar~shop~w", mesh.ProxyStatus{Zone: "north", Connected: true, Healthy: true, Unheard: &mesh.Unheard{Reason: "Asleep"}})
	}
	look := func() (st client.ResourceObjectStatus, proxies []mesh.ProxyStatus, failover []mesh.FailoverStatus, west client.ZoneObjectStatus) {
		t.Helper()
		read := func(path string, v any) {
			t.Helper()
			if err := json.Unmarshal([]byte(e.want(e.call("GET", path, ""), 200, "").body), v); err != nil {
				t.Fatal(err)
			}
		}
		if err := json.Unmarshal(e.object(e.want(e.call("GET", services+"/web", ""), 200, "")).Status, &st); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(e.object(e.want(e.call("GET", "/api/v1/zones/west", ""), 200, "")).Status, &west); err != nil {
			t.Fatal(err)
		}
		var p client.ProxyList
		read("/api/v1/proxies", &p)
		var f client.FailoverList
		read("/api/v1/failover", &f)
		return st, p.Items, f.Items, west
	}
	condition := func(st client.ResourceObjectStatus) client.Condition { return st.Conditions[1] }

	st, proxies, failover, west := look()
	if c := condition(st); c.Status != "True" || st.Acked != 4 || st.Zones[1].Unheard != nil || west.Unheard != nil || failover[0].Unheard != nil {
		t.Errorf("all are heard: %+v, %+v", st, west)
	}
	if len(proxies) != 2 || proxies[0].Zone != "east" || proxies[0].Unheard != nil || proxies[1].Unheard != nil {
		t.Errorf("all are heard: %+v", proxies)
	}

	last := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	e.record("zones", "west", mesh.ZoneStatus{Joined: true, LastSeen: last, Wanted: 3, Acked: 3, Proxies: 3, ProxiesConnected: 3})
	st, proxies, failover, west = look()
	if c := condition(st); c.Status != "Unknown" || c.Reason != "ZoneNotHeard" || !strings.Contains(c.Message, "1 of 2 zones; zone west was heard of last at 2026-11-29T12:00:00Z") {
		t.Errorf("condition %+v", c)
	}
	if st.Acked != 2 || st.Total != 2 || st.Zones[0].Unheard != nil || st.Zones[1].Unheard == nil || !st.Zones[1].Unheard.Since.Equal(last) {
		t.Errorf("status %+v", st)
	}
	if proxies[0].Unheard != nil || proxies[1].Unheard == nil || proxies[1].Unheard.Reason != mesh.UnheardAway || proxies[1].Zone != "west" {
		t.Errorf("proxies %+v", proxies)
	}
	if west.Unheard == nil || failover[0].Unheard != nil { // east's word
		t.Errorf("west %+v, failover %+v", west, failover)
	}
	o := e.overview()
	if o.Proxies != 3 || o.ProxiesConnected != 3 || o.ProxiesUnknown != 3 || o.Zones[1].Unheard == nil || o.Zones[0].Unheard != nil {
		t.Errorf("overview %+v", o.About)
	}

	// Who is no member is not waited for, and not counted.
	e.record("zones", "west", mesh.ZoneStatus{})
	if st, _, _, _ = look(); condition(st).Status != "True" || condition(st).Message != "1 of 1 zones" || st.Zones[1].Unheard.Reason != mesh.UnheardNotJoined {
		t.Errorf("status %+v", st)
	}
}

// The console's list of policies says of which zones it is not known.
func TestUnheardPolicies(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	key := mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindAuthorizationPolicy, Namespace: "shop", Name: "p"}
	e.record("status/east", key.String(), mesh.ResourceStatus{State: mesh.StateApplied, Acked: 1, Total: 1})
	e.record("status/west", key.String(), mesh.ResourceStatus{State: mesh.StateRejected, Message: "no", Acked: 0, Total: 7})
	if p := e.overview().Policies[0]; p.Zones != 2 || p.Total != 8 || p.Unheard != nil || len(p.Notes) != 1 {
		t.Errorf("policy %+v", p)
	}
	e.record("zones", "west", mesh.ZoneStatus{Joined: true, LastSeen: time.Now()})
	if p := e.overview().Policies[0]; p.Zones != 1 || p.Total != 1 || !slices.Equal(p.Unheard, []string{"west"}) || len(p.Notes) != 0 {
		t.Errorf("policy %+v", p)
	}
}
