package peering

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

const toWest, toNorth = 7, 8 // sessions

// among is east between west, which floods it, and north, which is honest; and an ingress of east that has opened a
// session to each.
func among(t *testing.T) (east, west, north *side, a *Agent) {
	east, west, north = newSide(t, "east"), newSide(t, "west"), newSide(t, "north")
	east.knows(west, north)
	a = east.hub.Open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate"})
	to := func(zone string, session uint64) *enrolpb.PeerLink {
		return &enrolpb.PeerLink{Zone: zone, Ingress: "gate", State: enrolpb.PeerLink_REACHABLE, Session: session, Attended: true}
	}
	a.Links(&enrolpb.PeerLinks{Links: []*enrolpb.PeerLink{to("west", toWest), to("north", toNorth)}})
	return east, west, north, a
}

func (a *Agent) hears(t *testing.T, session uint64, w *peerpb.Word) {
	t.Helper()
	raw, err := proto.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	a.Word(&enrolpb.PeerWord{Session: session, Word: raw})
}

func told(t *testing.T, s *federationpb.Statement) *peerpb.Word {
	t.Helper()
	raw, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return &peerpb.Word{Word: &peerpb.Word_Statement{Statement: raw}}
}

func resume(heads ...*peerpb.Head) *peerpb.Word {
	return &peerpb.Word{Word: &peerpb.Word_Resume{Resume: &peerpb.Resume{Heads: heads}}}
}

// hands is what the agent is told now: words by session, and the sessions that it is to end.
func (a *Agent) hands(t *testing.T) (words map[uint64][]*peerpb.Word, ended map[uint64]bool) {
	t.Helper()
	words, ended = map[uint64][]*peerpb.Word{}, map[uint64]bool{}
	for _, n := range a.Notices() {
		p := n.GetPeerWord()
		switch {
		case p == nil:
		case p.GetEnd():
			ended[p.GetSession()] = true
		default:
			w := &peerpb.Word{}
			if err := proto.Unmarshal(p.GetWord(), w); err != nil {
				t.Fatal(err)
			}
			words[p.GetSession()] = append(words[p.GetSession()], w)
		}
	}
	return words, ended
}

// TestAZoneThatDoesntWait: while the store is slow, what one zone sends beyond its window ends its session; little of
// it is held, and the others' words are believed.
func TestAZoneThatDoesntWait(t *testing.T) {
	east, west, north, a := among(t)
	for _, s := range west.says(map[string]int{"pay": 1}) {
		a.hears(t, toWest, told(t, statements.ToProto(s)))
	}
	eventually(t, "west is believed", func() bool { return east.sees(west)["pay"] == 1 })
	east.store.mu.Lock() // the disk is slow
	for _, s := range west.says(map[string]int{"pay": 2}) {
		a.hears(t, toWest, told(t, statements.ToProto(s)))
	}
	junk := told(t, &federationpb.Statement{Zone: "west", Kind: "export", Subject: "x", Incarnation: "life", Sequence: 9, TrustDomain: string(west.td), Payload: make([]byte, 500<<10)})
	held := 0
	for range 200 {
		a.hears(t, toWest, junk)
		east.hub.mu.Lock()
		held = max(held, east.hub.talks[route{a, toWest}].bytes)
		east.hub.mu.Unlock()
	}
	for _, s := range north.says(map[string]int{"pay": 3}) {
		a.hears(t, toNorth, told(t, statements.ToProto(s)))
	}
	east.store.mu.Unlock()
	t.Logf("of 100 MB %d bytes were held at most", held)
	if held > maxArrivedBytes {
		t.Errorf("more than %d", maxArrivedBytes)
	}
	if _, ended := a.hands(t); !ended[toWest] || ended[toNorth] {
		t.Errorf("ended: %v, not west's session alone", ended)
	}
	eventually(t, "north is believed", func() bool { return east.sees(north)["pay"] == 3 })

	// On its next session west is asked again, and what was not taken is taken.
	a.Links(&enrolpb.PeerLinks{Links: []*enrolpb.PeerLink{{Zone: "west", Ingress: "gate", State: enrolpb.PeerLink_REACHABLE, Session: 9, Attended: true}}})
	eventually(t, "west is asked again", func() bool {
		words, _ := a.hands(t)
		return len(words[9]) > 0 && words[9][0].GetResume() != nil
	})
	for _, s := range west.says(map[string]int{"pay": 4}) {
		a.hears(t, 9, told(t, statements.ToProto(s)))
	}
	eventually(t, "west is believed again", func() bool { return east.sees(west)["pay"] == 4 })
}

// TestAZoneThatDoesntRead: words that wait for one zone take no room from another's, and none is lost while its session
// goes on.
func TestAZoneThatDoesntRead(t *testing.T) {
	east, _, _, a := among(t)
	services := map[string]int{}
	for i := range 300 {
		services[fmt.Sprintf("s%03d", i)] = 1
	}
	east.says(services)
	eventually(t, "both are asked", func() bool {
		east.hub.mu.Lock()
		defer east.hub.mu.Unlock()
		return !east.hub.talks[route{a, toWest}].ask && !east.hub.talks[route{a, toNorth}].ask
	})
	east.hub.mu.Lock()
	for range maxUnread + 1 {
		east.hub.say(route{a, toWest}, ready())
	}
	east.hub.mu.Unlock()
	a.hears(t, toNorth, resume())
	var north []*peerpb.Word
	over := map[uint64]bool{}
	eventually(t, "north is answered", func() bool {
		words, ended := a.hands(t)
		if len(words[toWest]) > 0 {
			t.Errorf("%d words for a session that was ended", len(words[toWest]))
		}
		for n := range ended {
			over[n] = true
		}
		for _, w := range words[toNorth] {
			if w.GetStatement() != nil {
				north = append(north, w)
			}
		}
		return len(north) == maxUnanswered
	})
	if !over[toWest] || over[toNorth] {
		t.Errorf("ended: %v, not west's session alone", over)
	}
}

// TestAZoneThatAsksAgainAndAgain: it is answered once a second whatever it holds, a report of what can be reached
// doesn't wait for it, and who goes on loses the session.
func TestAZoneThatAsksAgainAndAgain(t *testing.T) {
	east, _, _, a := among(t)
	services := map[string]int{}
	for i := range 500 {
		services[fmt.Sprintf("s%03d", i)] = 1
	}
	east.says(services)
	var heads []*peerpb.Head
	for i := range 5 * maxHeads {
		heads = append(heads, &peerpb.Head{Kind: "e", Subject: fmt.Sprint(i)})
	}
	word := resume(heads...)
	b := east.hub.Open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate2"})
	worst := time.Duration(0)
	for range maxRepeats {
		a.hears(t, toWest, word)
		if _, ended := a.hands(t); len(ended) != 0 { // it reads, however slow this machine is
			t.Errorf("ended: %v", ended)
		}
		at := time.Now()
		b.Links(link("north", enrolpb.PeerLink_UNREACHABLE))
		worst = max(worst, time.Since(at))
	}
	t.Logf("a report waited %s at most", worst)
	for range 10 * maxRepeats {
		a.hears(t, toWest, resume())
	}
	if _, ended := a.hands(t); !ended[toWest] || ended[toNorth] {
		t.Errorf("ended: %v, not west's session alone", ended)
	}
}

type countedLog struct{ bytes, lines atomic.Int64 }

func (c *countedLog) Write(b []byte) (int, error) {
	c.bytes.Add(int64(len(b)))
	c.lines.Add(1)
	return len(b), nil
}

// TestRefusalsAreLoggedInBounds: another zone's reasons are clipped, printable and few.
func TestRefusalsAreLoggedInBounds(t *testing.T) {
	east, _, _, a := among(t)
	var log countedLog
	east.hub.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	services := map[string]int{}
	for i := range 30 {
		services[fmt.Sprintf("s%03d", i)] = 1
	}
	east.says(services)
	a.hears(t, toWest, resume())
	reason := strings.Repeat("\n", 100) + strings.Repeat("no ", 100<<10)
	refused := 0
	eventually(t, "all are refused", func() bool {
		words, _ := a.hands(t)
		for _, w := range words[toWest] {
			s := &federationpb.Statement{}
			if w.GetStatement() == nil {
				continue
			}
			if err := proto.Unmarshal(w.GetStatement(), s); err != nil {
				t.Fatal(err)
			}
			refused++
			a.hears(t, toWest, &peerpb.Word{Word: &peerpb.Word_Taken{Taken: &peerpb.Taken{Refused: reason, Head: &peerpb.Head{
				Kind: s.GetKind(), Subject: s.GetSubject(), Incarnation: s.GetIncarnation(), Sequence: s.GetSequence(),
			}}}})
		}
		return refused >= 30
	})
	if n, bytes := log.lines.Load(), log.bytes.Load(); n == 0 || n > logBurst || bytes > n*(maxText+300) {
		t.Errorf("%d lines, %d bytes for %d refusals", n, bytes, refused)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"a\nb\x1b[31m": "ab[31m", "ok\xff": "ok", strings.Repeat("é", maxText): strings.Repeat("é", maxText/2), "": ""} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
