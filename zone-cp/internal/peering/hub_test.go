package peering

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// side is a zone's control plane, of which only what concerns peering is there: real book, ledger, store, signatures.
type side struct {
	t      *testing.T
	name   string
	td     mesh.TrustDomain
	path   string
	root   *identity.Authority
	signer *identity.StatementSigner
	store  *counting
	book   *imports.Book
	ledger *exports.Ledger
	hub    *Hub
	stop   func()
}

// counting counts the writes of statements.
type counting struct {
	*sqlitestore.Store
	mu     sync.Mutex
	writes int
}

func (c *counting) PutRecords(ctx context.Context, bucket string, w ...store.RecordWrite) (uint64, error) {
	if bucket != linkBucket("east") && bucket != linkBucket("west") {
		c.mu.Lock()
		c.writes++
		c.mu.Unlock()
	}
	return c.Store.PutRecords(ctx, bucket, w...)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

func newSide(t *testing.T, name string) *side {
	t.Helper()
	s := &side{t: t, name: name, td: mesh.TrustDomain(name + ".example"), path: filepath.Join(t.TempDir(), "zone.db")}
	now := time.Now()
	var err error
	if s.root, err = identity.NewRoot(s.td, now); err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ParseID(s.td.ZoneCPID())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := s.root.Sign(key.Public(), id, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.TLSCertificate(issued.Chain, key)
	s.signer = identity.NewStatementSigner(func() (*tls.Certificate, error) { return cert, nil })
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// start starts the control plane from its disk.
func (s *side) start() {
	s.t.Helper()
	db, err := sqlitestore.Open(s.t.Context(), s.path, sqlitestore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.store = &counting{Store: db}
	if s.book, err = imports.Open(s.t.Context(), s.store, s.name, s.root.Bundle(1), time.Now()); err != nil {
		s.t.Fatal(err)
	}
	if s.ledger, err = exports.OpenLedger(s.t.Context(), s.store, s.name, s.td, "life", s.signer); err != nil {
		s.t.Fatal(err)
	}
	s.hub, err = Open(s.t.Context(), Config{
		Zone: s.name, Records: s.store, Book: s.book, Statements: s.ledger.All, Statuses: federation.NewStatusBook("00"),
		Connected: func() bool { return false }, TrustUntil: func(_ policy.TrustSettings, now time.Time) time.Time { return now.Add(time.Hour) },
		Log: slog.New(slog.NewTextHandler(testLog{s.t}, nil)).With("zone", s.name),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	hub := s.hub
	go func() { defer close(done); _ = hub.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		_ = db.Close()
	})
}

// says makes the services the zone's exports, and offers what is new.
func (s *side) says(services map[string]int) []identity.Statement {
	s.t.Helper()
	in := exports.Input{Bundle: s.root.Bundle(1), Zone: &policy.Zone{Namespaces: []string{"shop"}}}
	for name, ready := range services {
		in.Exports = append(in.Exports, mesh.Export{Namespace: "shop", Service: name, Ready: ready, Total: max(ready, 1), Identities: []string{s.td.WorkloadID("shop", name)}})
	}
	claims, _, err := exports.Compute(in)
	if err != nil {
		s.t.Fatal(err)
	}
	fresh, err := s.ledger.Set(s.t.Context(), claims, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	s.hub.Offer(fresh)
	return fresh
}

// knows tells the zone who else there is, and what global vouches for of them: the first bundle.
func (s *side) knows(others ...*side) {
	t := &topology.Topology{Zone: s.name, Roots: map[mesh.TrustDomain][]byte{}, Zones: []topology.Zone{{Name: s.name, TrustDomain: s.td, Local: true}}}
	for _, o := range others {
		t.Roots[o.td] = o.root.Bundle(1).PEM()
		if _, met := s.book.Trust().Zone(o.name); !met {
			s.vouched(o)
		}
		t.Zones = append(t.Zones, topology.Zone{Name: o.name, TrustDomain: o.td, Ingresses: []topology.RemoteIngress{
			{Ingress: mesh.Ingress{ID: "gate", Host: "127.0.0.1", Ports: []uint16{1}, Peers: true}, Addresses: []string{"127.0.0.1"}},
		}})
	}
	s.hub.Know(t)
}

func (s *side) vouched(o *side) {
	s.t.Helper()
	raw, err := o.root.Bundle(1).Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	now := time.Now()
	first, err := o.signer.Sign(identity.Statement{
		Kind: identity.KindBundle, Zone: o.name, TrustDomain: o.td, Incarnation: "life", Sequence: 1, Subject: string(o.td),
		Issued: now, LeaseUntil: now.Add(time.Hour), Payload: raw,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.book.Receive(s.t.Context(), first, imports.ByGlobal, now); err != nil {
		s.t.Fatal(err)
	}
}

// sees is what the zone believes that another exports: ready by service.
func (s *side) sees(o *side) map[string]int {
	out := map[string]int{}
	for _, r := range s.book.Picture(map[string]policy.Zone{o.name: {Namespaces: []string{"shop"}}}, time.Time{}, time.Now()).Remotes {
		for _, e := range r.Exports {
			out[e.Service] = e.Ready
		}
	}
	return out
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		case <-again.C:
		}
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// wire is two ingresses, one of each zone, and the session that east's has opened at west's. It carries words as the
// agents do.
type wire struct {
	t          *testing.T
	east, west *Agent
	session    uint64
	stop       func()

	mu    sync.Mutex
	words int
	bytes int
	told  int // of the words, statements and their answers
}

func connect(t *testing.T, east, west *side) *wire {
	w := &wire{t: t, session: 7}
	w.attendEast(east)
	w.attendWest(west)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, from := range []bool{true, false} {
		wg.Go(func() { w.carry(ctx, from) })
	}
	w.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(w.stop)
	return w
}

// attendEast has east's ingress attend its control plane, anew if it did so before.
func (w *wire) attendEast(s *side) {
	a := s.hub.Open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate"})
	w.mu.Lock()
	w.east = a
	w.mu.Unlock()
	a.Links(&enrolpb.PeerLinks{Links: []*enrolpb.PeerLink{{Zone: "west", Ingress: "gate", State: enrolpb.PeerLink_REACHABLE, Session: w.session, Attended: true, RttUs: 1234}}})
}

func (w *wire) attendWest(s *side) {
	a := s.hub.Open(mesh.ProxyID{Role: mesh.RoleIngress, Name: "gate"})
	w.mu.Lock()
	w.west = a
	w.mu.Unlock()
	a.Links(&enrolpb.PeerLinks{Sessions: []*enrolpb.PeerSession{{Session: w.session, Zone: "east", Ingress: "gate"}}})
}

func (w *wire) agent(east bool) *Agent {
	w.mu.Lock()
	defer w.mu.Unlock()
	if east {
		return w.east
	}
	return w.west
}

func (w *wire) carry(ctx context.Context, fromEast bool) {
	again := time.NewTicker(time.Millisecond) // who attends may be another
	defer again.Stop()
	for {
		from := w.agent(fromEast)
		select {
		case <-ctx.Done():
			return
		case <-from.Wake():
		case <-again.C:
			continue
		}
		for _, n := range from.Notices() {
			if p := n.GetPeerWord(); p != nil {
				w.mu.Lock()
				w.words++
				w.bytes += len(p.GetWord())
				var word peerpb.Word
				if err := proto.Unmarshal(p.GetWord(), &word); err != nil {
					w.t.Error(err)
				}
				if word.GetStatement() != nil || word.GetTaken() != nil {
					w.told++
				}
				w.mu.Unlock()
				w.agent(!fromEast).Word(p)
			}
		}
	}
}

func (w *wire) carried() (words, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.words, w.bytes
}

func (w *wire) exchanged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// TestStatementsWithoutGlobal: what a zone says arrives, changes, goes, and stays gone, over restarts of either side.
func TestStatementsWithoutGlobal(t *testing.T) {
	east, west := newSide(t, "east"), newSide(t, "west")
	east.knows(west)
	west.knows(east)
	services := map[string]int{}
	for i := range 200 { // more than may be under way at once
		services[fmt.Sprintf("s%03d", i)] = 1
	}
	west.says(services)
	w := connect(t, east, west)
	eventually(t, "east sees all that west offers", func() bool { return len(east.sees(west)) == 200 })
	if len(west.sees(east)) != 0 {
		t.Error("west was told though it did not ask")
	}
	services["s007"] = 5
	west.says(services)
	eventually(t, "east sees the change", func() bool { return east.sees(west)["s007"] == 5 })
	old := west.ledger.All()
	delete(services, "s008")
	west.says(services)
	gone := func() bool { _, ok := east.sees(west)["s008"]; return !ok }
	eventually(t, "s008 is gone", gone)

	// Nothing that is old revives it, by whichever way.
	for _, s := range old {
		if err := east.book.Receive(t.Context(), s, imports.ByGlobal, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if !gone() {
		t.Error("what was withdrawn is back")
	}

	// Restarts: whoever was away asks again, and is told what it lacks.
	for range 3 {
		before, beforeBytes := w.carried()
		east.stop()
		services["s009"]++
		west.says(services)
		east.start()
		east.knows(west)
		if len(east.sees(west)) != 199 {
			t.Fatalf("%d services are known after the restart", len(east.sees(west)))
		}
		w.attendEast(east)
		eventually(t, "east sees what changed meanwhile", func() bool { return east.sees(west)["s009"] == services["s009"] })
		after, afterBytes := w.carried()
		t.Logf("east's restart: %d words, %d bytes", after-before, afterBytes-beforeBytes)

		west.stop()
		west.start()
		west.knows(east)
		w.attendWest(west)
		services["s010"]++
		west.says(services)
		eventually(t, "east sees what changed after west's restart", func() bool { return east.sees(west)["s010"] == services["s010"] })
	}
	if !gone() {
		t.Error("what was withdrawn is back after the restarts")
	}
}

// TestTwoWaysCostOnce: what has come by global already is neither sent nor written again.
func TestTwoWaysCostOnce(t *testing.T) {
	east, west := newSide(t, "east"), newSide(t, "west")
	east.knows(west)
	west.knows(east)
	west.says(map[string]int{"pay": 1})
	for _, s := range west.ledger.All() {
		if err := east.book.Receive(t.Context(), s, imports.ByGlobal, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	<-east.book.Changed()
	before := east.store.count()
	w := connect(t, east, west)
	eventually(t, "west was asked", func() bool {
		west.hub.mu.Lock()
		defer west.hub.mu.Unlock()
		y := west.hub.replies[route{w.west, w.session}]
		return y != nil && y.speaker != nil
	})
	fresh := west.says(map[string]int{"pay": 2})
	eventually(t, "east sees the change", func() bool { return east.sees(west)["pay"] == 2 })
	if got := east.store.count() - before; got != 1 {
		t.Errorf("%d writes for one change", got)
	}
	eventually(t, "east has answered", func() bool { return w.exchanged() >= 2 })
	if n := w.exchanged(); n != 2 {
		t.Errorf("%d words for one change, not the statement and its answer", n)
	}
	<-east.book.Changed()
	before = east.store.count()
	for _, s := range fresh {
		if err := east.book.Receive(t.Context(), s, imports.ByGlobal, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-east.book.Changed():
		t.Error("what was known already causes a build")
	default:
	}
	if got := east.store.count() - before; got != 0 {
		t.Errorf("%d writes for what was known", got)
	}
	if h := east.book.Heard("west"); h.By != imports.ByPeer {
		t.Errorf("heard by %s, not first by the peer", h.By)
	}
}

// TestHostileWords: another zone's control plane can't speak for a third, nor for this zone, nor unasked.
func TestHostileWords(t *testing.T) {
	east, west, north := newSide(t, "east"), newSide(t, "west"), newSide(t, "north")
	east.knows(west, north)
	west.knows(east)
	w := connect(t, east, west)
	north.says(map[string]int{"pay": 1})
	said := func(a *Agent, session uint64, st identity.Statement) {
		raw, err := proto.Marshal(statements.ToProto(st))
		if err != nil {
			t.Fatal(err)
		}
		word, err := proto.Marshal(&peerpb.Word{Word: &peerpb.Word_Statement{Statement: raw}})
		if err != nil {
			t.Fatal(err)
		}
		a.Word(&enrolpb.PeerWord{Session: session, Word: word})
	}
	for _, st := range north.ledger.All() {
		said(w.east, w.session, st) // genuine, but not west's to say
		said(w.east, 99, st)        // over a session that there is not
	}
	forged := north.ledger.All()[0]
	forged.Zone = "west"
	said(w.east, w.session, forged)
	own := identity.Statement{Kind: federation.StatementExport, Zone: "east", TrustDomain: east.td, Incarnation: "life", Sequence: 1 << 60, Subject: "shop/x"}
	said(w.east, w.session, own)
	w.east.Word(&enrolpb.PeerWord{Session: w.session, Word: []byte("no word")})
	// Answers to what was never asked.
	taken, err := proto.Marshal(&peerpb.Word{Word: &peerpb.Word_Taken{Taken: &peerpb.Taken{Head: &peerpb.Head{Kind: "export", Subject: "shop/x", Sequence: 3}}}})
	if err != nil {
		t.Fatal(err)
	}
	w.east.Word(&enrolpb.PeerWord{Session: w.session, Word: taken})
	w.west.Word(&enrolpb.PeerWord{Session: w.session, Word: taken})

	west.says(map[string]int{"pay": 1})
	eventually(t, "what is true still arrives", func() bool { return east.sees(west)["pay"] == 1 })
	if len(east.sees(north)) != 0 || east.book.Heard("north").By != imports.ByGlobal {
		t.Error("west spoke for north")
	}
	// A zone that is believed no more is told nothing.
	eventually(t, "all is answered", func() bool {
		west.hub.mu.Lock()
		defer west.hub.mu.Unlock()
		y := west.hub.replies[route{w.west, w.session}]
		return y != nil && y.speaker != nil && y.speaker.Unanswered() == 0
	})
	west.knows()
	before, _ := w.carried()
	east.hub.mu.Lock()
	east.hub.ask("west")
	east.hub.mu.Unlock()
	west.says(map[string]int{"pay": 1, "other": 1})
	eventually(t, "east has asked", func() bool { n, _ := w.carried(); return n > before })
	if n, _ := w.carried(); n != before+1 {
		t.Errorf("%d words, though east is nobody to west", n-before)
	}
}

func link(zone string, s enrolpb.PeerLink_State) *enrolpb.PeerLinks {
	return &enrolpb.PeerLinks{Links: []*enrolpb.PeerLink{{Zone: zone, Ingress: "gate", State: s, Reason: "test"}}}
}

// TestVerdict: all probers must agree; no word is none against an ingress; a prober that goes takes nothing back at once.
func TestVerdict(t *testing.T) {
	east, west := newSide(t, "east"), newSide(t, "west")
	east.knows(west)
	unreachable := func() bool {
		r := []topology.Remote{{Zone: "west", Ingresses: []topology.RemoteIngress{{Ingress: mesh.Ingress{ID: "gate"}}}}}
		east.hub.Fill(r)
		return r[0].Ingresses[0].Unreachable
	}
	expect := func(what string, want bool) {
		t.Helper()
		if unreachable() != want {
			t.Fatalf("%s: unreachable is %v", what, !want)
		}
	}
	signalled := func(what string) {
		t.Helper()
		select {
		case <-east.hub.Changed():
		case <-time.After(10 * time.Second):
			t.Fatal(what + ": nobody was told")
		}
	}
	expect("nobody probes", false)
	one, two := east.hub.Open(mesh.ProxyID{Name: "one"}), east.hub.Open(mesh.ProxyID{Name: "two"})
	expect("nobody has looked", false)
	one.Links(link("west", enrolpb.PeerLink_UNKNOWN))
	expect("nobody knows", false)
	one.Links(link("west", enrolpb.PeerLink_UNREACHABLE))
	signalled("the only prober finds nobody")
	expect("the only prober that has looked", true)
	two.Links(link("west", enrolpb.PeerLink_REACHABLE))
	signalled("the second finds it")
	expect("they don't agree", false)
	two.Links(link("west", enrolpb.PeerLink_UNREACHABLE))
	signalled("both find nobody")
	expect("they agree", true)
	eventually(t, "it is on disk", func() bool {
		_, err := east.store.GetRecord(t.Context(), Bucket, "west/gate")
		return err == nil
	})
	statusOf := func() mesh.LinkStatus {
		r, err := east.store.GetRecord(t.Context(), linkBucket("east"), "west")
		var s mesh.LinkStatus
		if err == nil {
			err = json.Unmarshal(r.Value, &s)
		}
		if err != nil {
			return mesh.LinkStatus{}
		}
		return s
	}
	eventually(t, "the status says so", func() bool { s := statusOf(); return s.Probed && !s.Reachable && s.Reason == "test" })
	one.Close()
	two.Close()
	expect("the probers are gone, and are back in a moment", true)
	east.stop()
	east.start()
	expect("after a restart, before anybody has looked", true)
	east.knows(west)
	again := east.hub.Open(mesh.ProxyID{Name: "one"})
	again.Links(link("west", enrolpb.PeerLink_REACHABLE))
	signalled("it is found")
	expect("found again", false)
	eventually(t, "the status says so", func() bool { s := statusOf(); return s.Reachable && s.Reason == "" })
	eventually(t, "and the disk", func() bool {
		_, err := east.store.GetRecord(t.Context(), Bucket, "west/gate")
		return err != nil
	})
	east.knows()
	eventually(t, "a zone that is gone has no status", func() bool { return statusOf().To == "" })
}

// TestStaleness: while the control planes are in touch what is held is current; then it is as old as that.
func TestStaleness(t *testing.T) {
	east, west := newSide(t, "east"), newSide(t, "west")
	east.knows(west)
	west.knows(east)
	west.says(map[string]int{"pay": 1})
	w := connect(t, east, west)
	of := func() mesh.LinkStatus {
		for _, s := range east.hub.Links() {
			return s
		}
		return mesh.LinkStatus{}
	}
	eventually(t, "it is current", func() bool {
		s := of()
		return s.Current && s.HeardBy == "peer" && !s.HeardAt.IsZero() && s.RTTMillis == 1.23
	})
	if s := of(); s.TrustUntil.IsZero() {
		t.Error("global is away, and it is not said how long west is trusted")
	}
	heard := of().HeardAt
	w.east.Links(&enrolpb.PeerLinks{Links: []*enrolpb.PeerLink{{Zone: "west", Ingress: "gate", State: enrolpb.PeerLink_REACHABLE, Session: w.session}}})
	eventually(t, "it was current until now", func() bool { s := of(); return !s.Current && s.HeardAt.After(heard) })
}

// TestHeldStatementsOnDisk: what came from a peer is where what came from global is.
func TestHeldStatementsOnDisk(t *testing.T) {
	east, west := newSide(t, "east"), newSide(t, "west")
	east.knows(west)
	west.knows(east)
	west.says(map[string]int{"pay": 1})
	connect(t, east, west)
	eventually(t, "east sees it", func() bool { return east.sees(west)["pay"] == 1 })
	list, err := fedstore.Statements(t.Context(), east.store, "west")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if federation.SubjectOf(s) == (federation.Subject{Zone: "west", Kind: federation.StatementExport, Subject: "shop/pay"}) {
			return
		}
	}
	t.Errorf("%v", list)
}
