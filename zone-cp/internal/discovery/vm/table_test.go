package vm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

var web = mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-1"}

// run keeps a table's time inside a bubble.
func run(t *testing.T, table *Table) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		table.keepTime(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func only(t *testing.T, table *Table) (found, healthy bool) {
	t.Helper()
	p := table.Picture()
	if len(p.Workloads) == 0 {
		return false, false
	}
	return true, p.Workloads[0].Healthy
}

func expect(t *testing.T, table *Table, found, healthy bool) {
	t.Helper()
	synctest.Wait()
	if f, h := only(t, table); f != found || h != healthy {
		t.Fatalf("known %v healthy %v, want %v %v", f, h, found, healthy)
	}
}

func attend(t *testing.T, table *Table) *Session {
	t.Helper()
	s := table.open(web, "spiffe://a.example/ns/shop/sa/web", func(error) {})
	if err := s.workload(policy.Workload{ServiceAccount: "web", Address: "127.0.0.1", InboundPort: 9000}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.health(true, "", "1.40.0", "", nil, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		run(t, table)
		s := attend(t, table)
		expect(t, table, true, true)
		for range 10 { // heartbeats
			time.Sleep(DefaultLease / 3)
			if err := s.health(true, "", "1.40.0", "", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, table, true, true)
		time.Sleep(DefaultLease/2 - time.Millisecond)
		expect(t, table, true, true)
		time.Sleep(2 * time.Millisecond)
		expect(t, table, true, false)
		time.Sleep(DefaultLease/2 + time.Millisecond)
		expect(t, table, true, false)
		if !table.Picture().Workloads[0].Lost {
			t.Error("it does not count as lost")
		}
		time.Sleep(DefaultForgetAfter + time.Millisecond)
		expect(t, table, false, false)
	})
}

// What was lost and comes back is as before, leases and all; an ingress is not missed.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		run(t, table)
		attend(t, table).lost()
		gate := table.open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate"}, "spiffe://a.example/fed/zone-ingress/gate", func(error) {})
		if err := gate.ingress(discovery.Ingress{}); err != nil {
			t.Fatal(err)
		}
		gate.lost()
		time.Sleep(DefaultForgetAfter / 2)
		expect(t, table, true, false)
		if n := len(table.Picture().Ingresses); n != 0 {
			t.Errorf("%d ingresses", n)
		}
		s := attend(t, table)
		expect(t, table, true, true)
		if table.Picture().Workloads[0].Lost {
			t.Error("it came back and counts as lost")
		}
		time.Sleep(DefaultLease/2 + time.Millisecond)
		expect(t, table, true, false)
		if err := s.leave(); err != nil {
			t.Fatal(err)
		}
		expect(t, table, false, false)
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		if err := table.Drain(web, true); !errors.Is(err, ErrUnknown) {
			t.Errorf("drained nobody: %v", err)
		}
		s := attend(t, table)
		if err := table.Drain(web, true); err != nil {
			t.Fatal(err)
		}
		s.lost()
		attend(t, table)
		if p := table.Picture(); !p.Workloads[0].Draining || !p.Agents[web].Draining {
			t.Error("a new stream ended the drain")
		}
		if err := table.Drain(web, false); err != nil || table.Picture().Workloads[0].Draining {
			t.Errorf("not undrained: %v", err)
		}
	})
}

func TestHeartbeatsAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		run(t, table)
		s := attend(t, table)
		<-table.Changed()
		<-table.dirty
		for range 5 {
			time.Sleep(DefaultLease / 3)
			if err := s.health(true, "", "1.40.0", "", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		select {
		case <-table.Changed():
			t.Fatal("a heartbeat changed the picture")
		case <-table.dirty:
			t.Fatal("a heartbeat wants to be written")
		default:
		}
	})
}

func TestBrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		run(t, table)
		attend(t, table).lost()
		time.Sleep(lostAfter / 2)
		expect(t, table, true, true)
		s := attend(t, table) // back in time
		time.Sleep(lostAfter)
		expect(t, table, true, true)
		s.lost()
		time.Sleep(lostAfter + time.Millisecond)
		expect(t, table, true, false)
	})
}

func TestFencing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(DefaultLease, DefaultForgetAfter)
		run(t, table)
		var cause error
		old := table.open(web, "spiffe://a.example/ns/shop/sa/web", func(err error) { cause = err })
		fresh := attend(t, table)
		if !errors.Is(cause, ErrFenced) {
			t.Fatalf("the older stream was ended by %v", cause)
		}
		if err := old.health(false, "", "", "", nil, nil); !errors.Is(err, ErrFenced) {
			t.Fatalf("the fenced stream still speaks: %v", err)
		}
		old.lost()
		time.Sleep(2 * lostAfter)
		expect(t, table, true, true)
		if err := fresh.leave(); err != nil {
			t.Fatal(err)
		}
		expect(t, table, false, false)
		fresh.lost()
	})
}

func TestRefusesBadReports(t *testing.T) {
	in := mesh.Ingress{Host: "10.0.0.1", Ports: []uint16{15443}}
	if err := CheckIngress(in); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]mesh.Ingress{
		"no ports":    {Host: "10.0.0.1"},
		"port 0":      {Host: "10.0.0.1", Ports: []uint16{0}},
		"no host":     {Ports: []uint16{1}},
		"odd host":    {Host: "a b", Ports: []uint16{1}},
		"many lanes":  {Host: "a", Ports: make([]uint16, 17)},
		"long source": {Host: "a", Ports: []uint16{1}, Source: string(make([]byte, 300))},
	} {
		if CheckIngress(bad) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	var _ discovery.Source = (*Table)(nil)
}

// TestSecretsOfAnIngress: what is wrong with secrets of an ingress's machine is part of the picture, and nothing else tells it again.
func TestSecretsOfAnIngress(t *testing.T) {
	table := NewTable(DefaultLease, DefaultForgetAfter)
	s := table.open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate"}, "spiffe://a.example/fed/zone-ingress/gate", func(error) {})
	if err := s.ingress(discovery.Ingress{IngressProxy: topology.IngressProxy{Name: "gate"}}); err != nil {
		t.Fatal(err)
	}
	wrong := secretsOf(&enrolpb.Health{Secrets: []*enrolpb.Secret{{Name: "secret/shop/www", Problem: "it is not there"}}})
	for range 2 {
		if err := s.health(true, "", "", "", wrong, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := table.Picture().Ingresses[0].Secrets; len(got) != 1 || got["secret/shop/www"] != "it is not there" {
		t.Errorf("%v", got)
	}
	<-table.Changed()
	if err := s.health(true, "", "", "", wrong, nil); err != nil {
		t.Fatal(err)
	}
	if len(table.Changed()) != 0 {
		t.Error("the same is told again")
	}
}
