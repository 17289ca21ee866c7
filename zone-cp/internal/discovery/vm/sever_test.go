package vm

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
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
		peer := Peer{Proxy: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: name}, Identity: "spiffe://a.example/ns/shop/sa/web"}
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
