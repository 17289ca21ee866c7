package peer

import (
	"fmt"
	"net"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
)

const (
	up   = enrolpb.PeerLink_REACHABLE
	down = enrolpb.PeerLink_UNREACHABLE
)

func pair(t *testing.T) (east, west *world) {
	t.Helper()
	east, west = newWorld(t, "east").run(), newWorld(t, "west").run()
	west.knows(east)
	east.knows(west)
	east.becomes(west, up)
	west.becomes(east, up)
	return east, west
}

// TestProbe: killed, and swallowed by the network; both are noticed in the timeout, and so is the return.
func TestProbe(t *testing.T) {
	east, west := pair(t)
	eventually(t, "the round trip is measured", func() bool { return east.link(west).GetRttUs() > 0 })
	for range 3 {
		port := west.relay.port
		west.relay.kill()
		noticed := east.becomes(west, down)
		if noticed < defaultTimeout {
			t.Errorf("it took only %s: a moment's interruption would do", noticed)
		}
		if east.link(west).GetReason() == "" || east.link(west).GetSession() != 0 {
			t.Errorf("%v", east.link(west))
		}
		west.relay.listen(net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		t.Logf("kill: noticed in %s, return in %s", noticed, east.becomes(west, up))
	}
	for range 3 {
		west.relay.swallow(true)
		noticed := east.becomes(west, down)
		west.relay.swallow(false)
		t.Logf("black hole: noticed in %s, return in %s", noticed, east.becomes(west, up))
	}
	eventually(t, "a session is open again", func() bool { return east.link(west).GetSession() != 0 })
}

// TestBlinks: the end of a session alone says nothing about the ingress.
func TestBlinks(t *testing.T) {
	east, west := pair(t)
	east.patient, west.patient = true, true
	west.knows(east)
	east.knows(west)
	for range 5 {
		eventually(t, "a session is open", func() bool { return len(west.Links().GetSessions()) == 1 })
		was := east.link(west).GetSession()
		west.mu.Lock()
		for n := range west.inbound {
			west.sessions[n].end(fmt.Errorf("for the test"))
		}
		west.mu.Unlock()
		eventually(t, "another session is open", func() bool {
			l := east.link(west)
			if l.GetState() != up {
				t.Fatalf("a lost session made it %s: %s", l.GetState(), l.GetReason())
			}
			return l.GetSession() != 0 && l.GetSession() != was
		})
	}
}
