package envoy_test

import (
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
)

func one(t *testing.T, p ir.Proxy) envoy.Resource {
	t.Helper()
	out, err := envoy.Build(p)
	if err != nil || len(out) != 1 {
		t.Fatalf("%v, %v", out, err)
	}
	return out[0]
}

// TestVersion: a version says what a resource is, not why it is there.
func TestVersion(t *testing.T) {
	c := ir.Cluster{Name: "a", Protocol: ir.Bytes, ConnectTimeout: 250}
	first := one(t, ir.Proxy{Clusters: []ir.Cluster{c}})
	c.Sources = ir.Sources{{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: "a"}}
	blamed := one(t, ir.Proxy{Clusters: []ir.Cluster{c}})
	if blamed.Version != first.Version || len(blamed.Version) != 32 || len(blamed.Sources) != 1 {
		t.Errorf("%+v", blamed)
	}
	c.ConnectTimeout++
	if other := one(t, ir.Proxy{Clusters: []ir.Cluster{c}}); other.Version == first.Version {
		t.Error("a change kept the version")
	}
}

// TestValidate: what Envoy would refuse is found before, also inside of an Any.
func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		proxy ir.Proxy
		says  string
	}{
		"a cluster without a name":                      {ir.Proxy{Clusters: []ir.Cluster{{Protocol: ir.Bytes}}}, "Name"},
		"a route without a path":                        {ir.Proxy{Routes: []ir.RouteTable{{Name: "r", Hosts: []ir.VirtualHost{{Name: "h", Domains: []string{"*"}, Routes: []ir.Route{{Backends: []ir.Backend{{Cluster: "c", Weight: 1}}}}}}}}}, "PathSpecifier"},
		"a filter without a stat prefix, within an Any": {ir.Proxy{Listeners: []ir.Listener{{Name: "l", Address: "::1", Port: 1, Chains: []ir.Chain{{Name: "c", TCP: &ir.TCP{Cluster: "x"}}}}}}, "StatPrefix"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := envoy.Validate([]envoy.Resource{one(t, c.proxy)})
			if len(bad) != 1 || !strings.Contains(bad[0].Err.Error(), c.says) {
				t.Errorf("%v", bad)
			}
		})
	}
}

// TestMistakesOfTranslate: an IR that means nothing is an error, not a guess.
func TestMistakesOfTranslate(t *testing.T) {
	both := ir.Chain{Name: "c", HTTP: &ir.HTTP{}, TCP: &ir.TCP{}}
	blind := ir.Chain{Name: "c", ServerNames: []string{"a"}, TCP: &ir.TCP{StatPrefix: "s", Cluster: "x"}}
	for _, c := range []ir.Chain{both, {Name: "c"}, blind} {
		if _, err := envoy.Build(ir.Proxy{Listeners: []ir.Listener{{Name: "l", Chains: []ir.Chain{c}}}}); err == nil {
			t.Errorf("%+v was built", c)
		}
	}
}
