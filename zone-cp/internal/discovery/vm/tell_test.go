package vm

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// agentStream is the zone's end of a stream whose other end is the test.
type agentStream struct {
	ctx     context.Context
	reports chan *enrolpb.AgentReport
	notices chan *enrolpb.ZoneNotice
}

func (s *agentStream) Context() context.Context { return s.ctx }

func (s *agentStream) Recv() (*enrolpb.AgentReport, error) {
	if r, ok := <-s.reports; ok {
		return r, nil
	}
	return nil, io.EOF
}

func (s *agentStream) Send(n *enrolpb.ZoneNotice) error {
	s.notices <- n
	return nil
}

// What is to be severed is told to those that attend, and to those that come later; nothing is told of nothing.
func TestSever(t *testing.T) {
	table := NewTable(DefaultLease, DefaultForgetAfter)
	agent := func(name string) *agentStream {
		s := &agentStream{t.Context(), make(chan *enrolpb.AgentReport, 1), make(chan *enrolpb.ZoneNotice, 8)}
		done := make(chan struct{})
		peer := &Peer{Proxy: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: name}, Identity: "spiffe://a.example/ns/shop/sa/web"}
		go func() {
			defer close(done)
			if err := table.Attend(peer, s, nil, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		}()
		t.Cleanup(func() { close(s.reports); <-done })
		s.reports <- &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Health{Health: &enrolpb.Health{}}}
		if n := <-s.notices; n.GetAccepted() == nil {
			t.Fatalf("%s was told %v", name, n)
		}
		return s
	}
	early := agent("early")
	table.Sever([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:15443")})
	late := agent("late")
	for name, s := range map[string]*agentStream{"early": early, "late": late} {
		n := <-s.notices
		if list := n.GetSever().GetAddresses(); len(list) != 1 || list[0].GetIp() != "192.0.2.1" || list[0].GetPort() != 15443 {
			t.Errorf("%s was told %v", name, n)
		}
	}
	table.Sever([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:15443"), netip.MustParseAddrPort("[2001:db8::1]:15443")})
	if list := (<-early.notices).GetSever().GetAddresses(); len(list) != 2 || list[1].GetIp() != "2001:db8::1" {
		t.Errorf("then %v", list)
	}
}

// What an agent says of connections that it can't end is seen until it takes it back.
func TestUnseveredIsSeen(t *testing.T) {
	table := NewTable(DefaultLease, DefaultForgetAfter)
	s := table.open(web, "spiffe://a.example/ns/shop/sa/web", func(error) {})
	for _, why := range []string{"operation not permitted", ""} {
		if _, err := s.take(&Peer{Proxy: web}, &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Health{
			Health: &enrolpb.Health{Healthy: true, EnvoyReady: true, Unsevered: why},
		}}, nil); err != nil {
			t.Fatal(err)
		}
		if a := table.Picture().Agents[web]; a.Unsevered != why || !a.Healthy {
			t.Errorf("said %q, seen %+v", why, a)
		}
	}
}

// A drain is told once, also on a new stream, and so is its end.
func TestDrainIsTold(t *testing.T) {
	table := NewTable(DefaultLease, DefaultForgetAfter)
	s := table.open(web, "spiffe://a.example/ns/shop/sa/web", func(error) {})
	if err := s.workload(policy.Workload{}, nil); err != nil {
		t.Fatal(err)
	}
	agent := &agentStream{notices: make(chan *enrolpb.ZoneNotice, 8)}
	more := s.tell(agent)
	expect := func(want ...bool) {
		t.Helper()
		for _, w := range want {
			select {
			case n := <-agent.notices:
				if d, ok := n.GetNotice().(*enrolpb.ZoneNotice_Drain); !ok || d.Drain != w {
					t.Errorf("it was told %v", n)
				}
			default:
				t.Error("it was told nothing")
			}
		}
		if len(agent.notices) > 0 {
			t.Errorf("it was told more: %v", <-agent.notices)
		}
	}
	expect()
	for _, draining := range []bool{true, false, true} {
		if err := table.Drain(web, draining); err != nil {
			t.Fatal(err)
		}
		<-more
		more = s.tell(agent)
		expect(draining)
	}
	s = table.open(web, "spiffe://a.example/ns/shop/sa/web", func(error) {})
	s.tell(agent)
	expect(true)
}
