package mesh_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
)

var label = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?`)

func TestTextFormsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := mesh.Key{Origin: mesh.Origin(label.Draw(t, "origin")), Kind: mesh.KindService, Name: label.Draw(t, "name")}
		if rapid.Bool().Draw(t, "namespaced") {
			key.Namespace = label.Draw(t, "namespace")
		}
		if got, err := mesh.ParseKey(key.String()); err != nil || got != key {
			t.Fatalf("%q: %v, %v", key, got, err)
		}
		cursor := mesh.Cursor{Incarnation: mesh.Incarnation(label.Draw(t, "incarnation")), Revision: mesh.Revision(rapid.Uint64Range(0, 1<<63-1).Draw(t, "revision"))}
		if got, err := mesh.ParseCursor(cursor.String()); err != nil || got != cursor {
			t.Fatalf("%q: %v, %v", cursor, got, err)
		}
		proxy := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: label.Draw(t, "ns"), Name: label.Draw(t, "proxy")}
		if got, err := mesh.ParseProxyID(proxy.String()); err != nil || got != proxy {
			t.Fatalf("%q: %v, %v", proxy, got, err)
		}
	})
}

func TestTextFormsThatAreNone(t *testing.T) {
	for _, s := range []string{"", "a", "a/b", "a/b/c", "/b/c/d", "a//c/d", "a/b/c/", "a/b/c/d/e"} {
		if k, err := mesh.ParseKey(s); err == nil {
			t.Errorf("key %q was read as %+v", s, k)
		}
	}
	for _, s := range []string{"x", ":1", "x:", "x:-1", "x:9223372036854775808", "x:1.0"} {
		if c, err := mesh.ParseCursor(s); err == nil {
			t.Errorf("cursor %q was read as %+v", s, c)
		}
	}
	for _, s := range []string{"", "sidecar", "sidecar~shop", "sidecar~shop~", "king~shop~web", "sidecar~a~b~c"} {
		if p, err := mesh.ParseProxyID(s); err == nil {
			t.Errorf("proxy %q was read as %+v", s, p)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"global", "mesh", "svc", "local", "", "A", "a.b", "-a", "a-", strings.Repeat("a", 64)} {
		if mesh.CheckZoneName(s) == nil {
			t.Errorf("%q may name a zone", s)
		}
	}
	for _, s := range []string{"a", "aws-east", "0", strings.Repeat("a", 63)} {
		if err := mesh.CheckZoneName(s); err != nil {
			t.Error(err)
		}
	}
	port := mesh.ServicePort{Zone: "west", Namespace: "shop", Service: "pay", Port: 8080}
	if got, want := port.SNI("east"), "east.8080.pay.shop.west.mesh"; got != want {
		t.Errorf("SNI %s, want %s", got, want)
	}
	if got, want := mesh.TrustDomain("west.example").WorkloadID("shop", "pay"), "spiffe://west.example/ns/shop/sa/pay"; got != want {
		t.Errorf("identity %s, want %s", got, want)
	}
}

func TestScope(t *testing.T) {
	for list, want := range map[string]bool{"": true, "  ": true, "west": true, "east, west": true, "east": false, "wes": false, ",": false} {
		r := mesh.Resource{Annotations: map[string]string{mesh.AnnotationZones: list}}
		if got := r.InScope("west"); got != want {
			t.Errorf("scope %q reaches west: %v, want %v", list, got, want)
		}
	}
}
