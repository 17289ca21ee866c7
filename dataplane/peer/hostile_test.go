package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
)

// come opens a session at a zone's ingress with a certificate and a server name, however wrong. The error is the
// first that shows: of the handshake, the stream, or the first answer.
func come(t *testing.T, to *world, cert *tls.Certificate, serverName string, most uint16) (peerpb.Peering_SessionClient, error) {
	t.Helper()
	raw, err := net.Dial("unix", to.relay.to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	c := tls.Client(raw, &tls.Config{
		ServerName: serverName, NextProtos: []string{"h2"}, MaxVersion: most, InsecureSkipVerify: true, // a thief does not care
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	cc, err := handshake.Once(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	st, err := peerpb.NewPeeringClient(cc).Session(ctx)
	if err == nil {
		err = pingOnce(st)
	}
	return st, err
}

func pingOnce(st peerpb.Peering_SessionClient) error {
	_ = st.Send(&peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Ping{Ping: &peerpb.Ping{Number: 7}}}) // Recv says why not
	f, err := st.Recv()
	if err == nil && f.GetPong().GetNumber() != 7 {
		return errors.New("another answer")
	}
	return err
}

// gate is a certificate of an ingress of the zone.
func (w *world) gate() *tls.Certificate {
	w.t.Helper()
	return w.issue("/fed/zone-ingress/gate", time.Hour, time.Now())
}

func TestWhoMayConnect(t *testing.T) {
	west := newWorld(t, "west").run()
	east, north, stranger := newWorld(t, "east"), newWorld(t, "north"), newWorld(t, "east")
	west.knows(east, north)
	sni := mesh.PeerSNI("east", "west")
	if _, err := come(t, west, east.gate(), sni, 0); err != nil {
		t.Fatalf("an honest peer is refused: %v", err)
	}
	for name, bad := range map[string]struct {
		cert *tls.Certificate
		sni  string
		most uint16
	}{
		"no certificate":                   {nil, sni, 0},
		"another authority's east":         {stranger.gate(), sni, 0},
		"a zone that is not known":         {newWorld(t, "south").gate(), mesh.PeerSNI("south", "west"), 0},
		"west itself":                      {west.gate(), mesh.PeerSNI("west", "west"), 0},
		"a workload":                       {east.issue("/ns/shop/sa/web", time.Hour, time.Now()), sni, 0},
		"a control plane":                  {east.issue("/fed/zone-cp", time.Hour, time.Now()), sni, 0},
		"an ingress's child":               {east.issue("/fed/zone-ingress/gate/x", time.Hour, time.Now()), sni, 0},
		"what only begins like an ingress": {east.issue("/fed/zone-ingressgate", time.Hour, time.Now()), sni, 0},
		"expired":                          {east.issue("/fed/zone-ingress/gate", time.Minute, time.Now().Add(-time.Hour)), sni, 0},
		"another zone's server name":       {east.gate(), mesh.PeerSNI("north", "west"), 0},
		"no server name":                   {east.gate(), "", 0},
		"TLS 1.2":                          {east.gate(), sni, tls.VersionTLS12},
	} {
		if _, err := come(t, west, bad.cert, bad.sni, bad.most); err == nil {
			t.Errorf("%s is let in", name)
		}
	}
	for _, s := range west.Links().GetSessions() {
		if s.GetZone() != "east" || s.GetIngress() != "gate" {
			t.Errorf("%v", s)
		}
	}
}

// TestEndOfTrust: a zone that is not named any more is cut off both ways, and the other zone is not.
func TestEndOfTrust(t *testing.T) {
	east, west := pair(t)
	north := newWorld(t, "north").run()
	north.knows(west)
	west.knows(east, north)
	west.becomes(north, up)
	eventually(t, "both are in touch", func() bool { return len(west.Links().GetSessions()) == 2 && west.link(north).GetSession() != 0 })
	was := west.link(north).GetSession()
	west.knows(north)
	eventually(t, "east is cut off", func() bool {
		l := west.Links()
		return len(l.GetLinks()) == 1 && len(l.GetSessions()) == 1 && l.GetSessions()[0].GetZone() == "north"
	})
	if l := west.link(north); l.GetSession() != was || l.GetState() != up {
		t.Errorf("north noticed: %v", l)
	}
	east.becomes(west, down)
	if _, err := come(t, west, east.gate(), mesh.PeerSNI("east", "west"), 0); err == nil {
		t.Error("east is let in again")
	}

	// New roots end what the old ones vouched for.
	again := newWorld(t, "north")
	west.knows(again)
	eventually(t, "north's old root is gone", func() bool { return len(west.Links().GetSessions()) == 0 })
}

// TestFlood: what a properly certified peer may not do either; each ends that session and no other.
func TestFlood(t *testing.T) {
	east, west := pair(t)
	quiet := make(chan struct{})
	go func() { // the control plane reads slowly
		<-quiet
	}()
	defer close(quiet)
	north := newWorld(t, "north")
	west.knows(east, north)
	ping := &peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Ping{Ping: &peerpb.Ping{}}}
	word := func(n int) *peerpb.PeerFrame {
		return &peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Word{Word: make([]byte, n)}}
	}
	for name, x := range map[string]struct {
		frame *peerpb.PeerFrame
		times int
		code  codes.Code
	}{
		"pings":        {ping, 100_000, codes.ResourceExhausted},
		"words":        {word(10), 100_000, codes.ResourceExhausted},
		"big words":    {word(512 << 10), 1000, codes.ResourceExhausted},
		"a giant word": {word(8 << 20), 1, codes.ResourceExhausted},
		"a pong":       {&peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Pong{Pong: &peerpb.Pong{}}}, 1, codes.Aborted},
		"nothing":      {&peerpb.PeerFrame{}, 1, codes.Aborted},
	} {
		st, err := come(t, west, north.gate(), mesh.PeerSNI("north", "west"), 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		go func() {
			for range x.times {
				if st.Send(x.frame) != nil {
					return
				}
			}
		}()
		for err == nil {
			_, err = st.Recv()
		}
		if status.Code(err) != x.code && !strings.Contains(err.Error(), "larger than max") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l := east.link(west); l.GetState() != up || l.GetSession() == 0 {
		t.Errorf("another zone's ingress suffers: %v", l)
	}
}

// TestCrowd: many silent connections don't keep an honest peer out, and one zone can't take all the room.
func TestCrowd(t *testing.T) {
	west := newWorld(t, "west").run()
	east, north := newWorld(t, "east"), newWorld(t, "north")
	west.knows(east, north)
	for range 3 * maxPending {
		c, err := net.Dial("unix", west.relay.to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	if _, err := come(t, west, east.gate(), mesh.PeerSNI("east", "west"), 0); err != nil {
		t.Fatalf("an honest peer among the silent: %v", err)
	}
	let := 0
	for i := range maxPerZone + 10 {
		cert := north.issue("/fed/zone-ingress/gate-"+string(rune('a'+i/26))+string(rune('a'+i%26)), time.Hour, time.Now())
		if _, err := come(t, west, cert, mesh.PeerSNI("north", "west"), 0); err == nil {
			let++
		}
	}
	if let == 0 || let > maxPerZone {
		t.Errorf("%d sessions of one zone were let in, at most %d are possible", let, maxPerZone)
	}
	if _, err := come(t, west, east.gate(), mesh.PeerSNI("east", "west"), 0); err != nil {
		t.Errorf("the other zone is kept out: %v", err)
	}
}

// TestWords: words arrive as they were said, in their order, both ways; while nobody attends they are dropped.
func TestWords(t *testing.T) {
	east, west := pair(t)
	eventually(t, "west has a session from east", func() bool { return len(west.Links().GetSessions()) == 1 })
	out := east.link(west).GetSession()
	in := west.Links().GetSessions()[0].GetSession()
	const n = 100
	for i := range n {
		east.Say(out, []byte{1, byte(i)})
		west.Say(in, []byte{2, byte(i)})
	}
	for i := range n {
		h := <-west.Words()
		if want := []byte{1, byte(i)}; h.Session != in || !slices.Equal(h.Word, want) {
			t.Fatalf("west heard %v of session %d, not %v of %d", h.Word, h.Session, want, in)
		}
		h = <-east.Words()
		if want := []byte{2, byte(i)}; h.Session != out || !slices.Equal(h.Word, want) {
			t.Fatalf("east heard %v of session %d, not %v of %d", h.Word, h.Session, want, out)
		}
	}
	if !east.link(west).GetAttended() {
		eventually(t, "east knows that west attends", func() bool { return east.link(west).GetAttended() })
	}
	west.Attended(false)
	eventually(t, "east knows that west does not attend", func() bool { return !east.link(west).GetAttended() })
	east.Say(out, []byte("nobody hears it"))
	eventually(t, "it is dropped", func() bool {
		west.mu.Lock()
		defer west.mu.Unlock()
		return west.sessions[in].dropped.Load() == 1
	})
	west.Attended(true)
	east.Say(out, []byte("heard"))
	if h := <-west.Words(); string(h.Word) != "heard" {
		t.Errorf("%q", h.Word)
	}
}

// TestEndedByItsControlPlane: a session that the control plane ends is gone for both, and another takes its place.
func TestEndedByItsControlPlane(t *testing.T) {
	east, west := pair(t)
	eventually(t, "west has a session from east", func() bool { return len(west.Links().GetSessions()) == 1 })
	for _, end := range []func(){
		func() { west.End(west.Links().GetSessions()[0].GetSession()) },
		func() { east.End(east.link(west).GetSession()) },
	} {
		eventually(t, "there is a session", func() bool { return east.link(west).GetSession() != 0 && len(west.Links().GetSessions()) == 1 })
		before := east.link(west).GetSession()
		end()
		eventually(t, "there is another", func() bool { n := east.link(west).GetSession(); return n != 0 && n != before })
	}
	east.End(1 << 60) // there is none
}

// TestRoster: what a zone says badly of one zone spoils nothing of the others.
func TestRoster(t *testing.T) {
	east, west := newWorld(t, "east"), newWorld(t, "west")
	gate := []*enrolpb.PeerIngress{{Id: "gate", Addresses: []string{"127.0.0.1", "not an address"}, Ports: []uint32{0, 70000, 15443}}}
	good := east.as()
	good.Ingresses = gate
	for name, bad := range map[string]*enrolpb.PeerZone{
		"the same twice":   good,
		"its trust domain": {Zone: "other", TrustDomain: string(east.td), Roots: good.GetRoots()},
		"no roots":         {Zone: "west", TrustDomain: string(west.td)},
		"broken roots":     {Zone: "west", TrustDomain: string(west.td), Roots: [][]byte{{1}}},
		"no name":          {TrustDomain: string(west.td), Roots: west.as().GetRoots()},
		"nowhere":          {Zone: "west", TrustDomain: string(west.td), Roots: west.as().GetRoots(), Ingresses: []*enrolpb.PeerIngress{{Id: "gate"}}},
	} {
		r, err := newRoster(&enrolpb.Peers{Zones: []*enrolpb.PeerZone{good, bad}})
		if err == nil {
			t.Errorf("%s: nothing is said about it", name)
		}
		if got := r.targets[Name{"east", "gate"}].attempt(5); !slices.Equal(got, []string{"127.0.0.1:15443"}) || len(r.targets) != 1 {
			t.Errorf("%s: %v", name, r.targets)
		}
	}
}
