package api

import (
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// TestPlaintextOfProxies: what several proxies say of one port is one line, which has watched for as long as the last of them.
func TestPlaintextOfProxies(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC) }
	port := func(since, last int, callers ...mesh.PlaintextCaller) []mesh.PlaintextPort {
		return []mesh.PlaintextPort{{Namespace: "shop", Service: "pay", Port: 8080, Since: at(since), Last: at(last), Requests: 2, Callers: callers, Others: 1}}
	}
	list := sumPlaintext([]mesh.ProxyStatus{
		{Zone: "west", Plaintext: port(1, 9)},
		{Zone: "east", Plaintext: port(5, 6, mesh.PlaintextCaller{Address: "10.0.0.7", Requests: 1, Last: at(6)})},
		{Zone: "east", Plaintext: port(2, 8, mesh.PlaintextCaller{Address: "10.0.0.7", Requests: 2, Last: at(8)}, mesh.PlaintextCaller{Address: "10.0.0.8", Requests: 1, Last: at(9)})},
		{Zone: "east"},
	})
	if len(list) != 2 || list[0].Zone != "east" || list[1].Zone != "west" {
		t.Fatalf("%+v", list)
	}
	east := list[0]
	if east.Proxies != 2 || !east.Since.Equal(at(5)) || !east.Last.Equal(at(8)) || east.Requests != 4 || east.Others != 2 || len(east.Callers) != 2 ||
		east.Callers[0].Address != "10.0.0.8" || east.Callers[1].Requests != 3 {
		t.Errorf("%+v", east)
	}
}
