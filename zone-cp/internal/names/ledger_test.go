package names

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
)

// TestAddressesStay: a name keeps its number over restarts, and one that is gone leaves it to nobody for a week.
func TestAddressesStay(t *testing.T) {
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	open := func() *Ledger {
		t.Helper()
		l, err := OpenLedger(t.Context(), s, "east")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	keep := func(l *Ledger, at time.Time) {
		t.Helper()
		if err := l.Keep(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	l := open()
	first := l.Number([]string{"a.mesh", "b.mesh"})
	if len(first) != 2 || first["a.mesh"] == first["b.mesh"] {
		t.Fatal(first)
	}
	// Another name that would have the same number has the next one, and keeps it where the order is another.
	rival := rivalOf("a.mesh")
	taken := l.Number([]string{rival})[rival]
	if taken == first["a.mesh"] {
		t.Fatalf("two names have number %d", taken)
	}
	l.Number([]string{"a.mesh", "b.mesh", rival})
	keep(l, now)
	_, before, err := s.ListRecords(t.Context(), Bucket+"/east", "")
	if err != nil {
		t.Fatal(err)
	}
	l.Number([]string{"a.mesh", "b.mesh", rival})
	keep(l, now)
	if _, after, err := s.ListRecords(t.Context(), Bucket+"/east", ""); err != nil || after != before {
		t.Errorf("what did not change was written again: %v", err)
	}

	l = open()
	if got := l.Number([]string{rival, "b.mesh"}); got[rival] != taken || got["b.mesh"] != first["b.mesh"] {
		t.Errorf("after a restart %v, before %v and %d", got, first, taken)
	}
	keep(l, now) // a is gone
	for _, c := range []struct {
		after time.Duration
		free  bool
	}{{time.Hour, false}, {reservedFor + time.Hour, true}} {
		l = open()
		l.Number([]string{rival, "b.mesh"})
		keep(l, now.Add(c.after))
		other := rivalOf("a.mesh", rival)
		if got := l.Number([]string{other})[other]; (got == first["a.mesh"]) != c.free {
			t.Errorf("%s after it was gone its number %d is given away: %d", c.after, first["a.mesh"], got)
		}
	}
}

// rivalOf finds a name that would have the same number, and is none of others.
func rivalOf(host string, others ...string) string {
	number := func(h string) uint16 { return new(topology.Numbers).Of([]string{h})[h] }
	want := number(host)
next:
	for i := 0; ; i++ {
		h := fmt.Sprintf("rival-%d.mesh", i)
		for _, o := range others {
			if o == h {
				continue next
			}
		}
		if number(h) == want {
			return h
		}
	}
}

// TestHub: an agent is told what is there, and again when it has changed, and only if it asked for addresses.
func TestHub(t *testing.T) {
	h := NewHub()
	know := func(services ...string) {
		in := topology.Input{Zone: "east", TrustDomain: "east.example"}
		for _, s := range services {
			in.Resources = append(in.Resources, mesh.Resource{
				Key:  mesh.Key{Origin: "east", Kind: mesh.KindService, Namespace: "shop", Name: s},
				Spec: []byte(`{"selector":{"app":"x"},"ports":[{"port":80}]}`),
			})
		}
		for i, v := range []*mesh.VirtualAddresses{{Block: mesh.DefaultVirtualBlock}, nil} {
			in.Workloads = append(in.Workloads, topology.Workload{
				Namespace: "shop", Name: fmt.Sprintf("w%d", i), Identity: "spiffe://east.example/ns/shop/sa/w",
				Spec: mesh.Workload{Address: "10.0.0.1", InboundPort: uint16(1000 + i), VirtualAddresses: v},
			})
		}
		topo, _ := topology.Build(in)
		h.Know(topo)
	}
	id := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "w0"}
	a := h.Open(id)
	defer a.Close()
	plain := h.Open(mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "w1"})
	defer plain.Close()
	if <-a.Wake(); a.Next() != nil {
		t.Error("something is told before anything is known")
	}
	told := func(services ...string) {
		t.Helper()
		know(services...)
		select {
		case <-a.Wake():
		default:
			t.Fatal("nobody is woken")
		}
		n := a.Next().GetNames().GetNames()
		if len(n) != len(services) {
			t.Errorf("%v is told of %v", n, services)
		}
		if plain.Next() != nil {
			t.Error("who has no addresses is told of them")
		}
	}
	told("a", "b")
	know("b", "a")
	select {
	case <-a.Wake():
		t.Error("it is told again of what it knows")
	default:
	}
	told("a")
	told()
	again := h.Open(id)
	defer again.Close()
	if n := again.Next(); n == nil || len(n.GetNames().GetNames()) != 0 {
		t.Errorf("a new stream is told %v", n)
	}
}
