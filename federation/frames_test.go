package federation_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

func zoneSession(t testing.TB, down mesh.Cursor) *federation.ZoneSession {
	t.Helper()
	s := federation.NewZoneSession(federation.ZoneConfig{
		Zone: "east", Incarnation: "life", Down: down, UpHead: mesh.Cursor{Incarnation: "e", Revision: 1}, Statuses: federation.NewStatusBook("book"),
	})
	if f, ok := s.Next(); !ok || f.GetHello() == nil {
		t.Fatal("no hello")
	}
	if err := s.Receive(&federationpb.GlobalFrame{Frame: &federationpb.GlobalFrame_Welcome{Welcome: &federationpb.GlobalWelcome{
		Protocol: federation.Protocol, Incarnation: "g", Epoch: 1,
	}}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func globalSession(t testing.TB) *federation.GlobalSession {
	t.Helper()
	s, err := federation.NewGlobalSession(
		federation.GlobalConfig{Zone: "east", Incarnation: "g", Epoch: 1, Up: mesh.Cursor{Incarnation: "e", Revision: 1}},
		&federationpb.ZoneHello{Protocol: federation.Protocol, Zone: "east", Incarnation: "life", UpHead: &federationpb.Cursor{Incarnation: "e", Revision: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := s.Next(); !ok || f.GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	return s
}

func res(origin mesh.Origin, name string, rev mesh.Revision, spec string) mesh.Resource {
	return mesh.Resource{
		Key: mesh.Key{Origin: origin, Kind: "HTTPRoute", Namespace: "shop", Name: name}, APIVersion: "v1", UID: "u",
		Generation: 1, Created: 1, Changed: rev, CreatedAt: time.UnixMilli(1), ChangedAt: time.UnixMilli(2), Spec: []byte(spec),
	}
}

// A revision larger than a frame crosses in frames within bounds and is applied as one.
func TestLargeRevisionIsOneBatch(t *testing.T) {
	g, z := globalSession(t), zoneSession(t, mesh.Cursor{Incarnation: "g", Revision: 1})
	g.BeginSnapshot(mesh.Cursor{Incarnation: "g", Revision: 1})
	g.EndSnapshot()
	var c federation.Commit
	c.Cursor = mesh.Cursor{Incarnation: "g", Revision: 2}
	for i := range 40 {
		c.Changes = append(c.Changes, federation.Change{Resource: res("global", fmt.Sprintf("r%d", i), 2, `"`+strings.Repeat("x", 100<<10)+`"`)})
	}
	c.Changes = append(c.Changes, federation.Change{Resource: res("global", "huge", 2, `"`+strings.Repeat("x", 2<<20)+`"`)})
	carry := func() (batches []federation.Batch) {
		for {
			f, ok := g.Next()
			if !ok {
				return batches
			}
			if n := proto.Size(f); n > federation.MaxFrameResources+4096 {
				t.Errorf("a frame of %d bytes", n)
			}
			if err := z.Receive(f); err != nil {
				t.Fatal(err)
			}
			for _, e := range z.Effects() {
				if a, ok := e.(federation.Apply); ok {
					batches = append(batches, a.Batch)
				}
			}
		}
	}
	if b := carry(); len(b) != 1 || !b[0].Snapshot {
		t.Fatalf("snapshot: %+v", b)
	}
	g.Commit(c)
	b := carry()
	if len(b) != 1 || len(b[0].Puts) != 40 || b[0].Cursor != c.Cursor {
		t.Fatalf("%d batches", len(b))
	}
	refused := false
	for _, e := range g.Effects() {
		if r, ok := e.(federation.Refused); ok {
			refused = r.Refusal.Code == federation.CodeTooLarge && r.Refusal.Key.Name == "huge"
		}
	}
	if !refused {
		t.Error("the resource that is too large was not refused alone")
	}
}

func down(f any) *federationpb.GlobalFrame {
	switch m := f.(type) {
	case *federationpb.Changes:
		return &federationpb.GlobalFrame{Frame: &federationpb.GlobalFrame_Changes{Changes: m}}
	case *federationpb.SnapshotBegin:
		return &federationpb.GlobalFrame{Frame: &federationpb.GlobalFrame_SnapshotBegin{SnapshotBegin: m}}
	case *federationpb.SnapshotEnd:
		return &federationpb.GlobalFrame{Frame: &federationpb.GlobalFrame_SnapshotEnd{SnapshotEnd: m}}
	case *federationpb.Ack:
		return &federationpb.GlobalFrame{Frame: &federationpb.GlobalFrame_Ack{Ack: m}}
	}
	return &federationpb.GlobalFrame{}
}

func TestZoneRefusesWhatBreaksTheLog(t *testing.T) {
	at := mesh.Cursor{Incarnation: "g", Revision: 5}
	cur := func(rev uint64) *federationpb.Cursor { return &federationpb.Cursor{Incarnation: "g", Revision: rev} }
	put := []*federationpb.Resource{federation.ResourceToProto(res("global", "a", 6, `{}`))}
	for name, frames := range map[string][]any{
		"a gap":                       {&federationpb.Changes{From: 6, Revision: 7, Put: put}},
		"a change of another one":     {&federationpb.Changes{From: 5, Revision: 6, Put: put, More: true}, &federationpb.Changes{From: 5, Revision: 7}},
		"an end without a begin":      {&federationpb.SnapshotEnd{Cursor: cur(6)}},
		"a count that is wrong":       {&federationpb.SnapshotBegin{Cursor: cur(6)}, &federationpb.Changes{Put: put, More: true}, &federationpb.SnapshotEnd{Cursor: cur(6), Count: 2}},
		"another end":                 {&federationpb.SnapshotBegin{Cursor: cur(6)}, &federationpb.SnapshotEnd{Cursor: cur(7)}},
		"a snapshot of another life":  {&federationpb.SnapshotBegin{Cursor: &federationpb.Cursor{Incarnation: "x", Revision: 9}}},
		"a deletion in a snapshot":    {&federationpb.SnapshotBegin{Cursor: cur(6)}, &federationpb.Changes{Deleted: []*federationpb.Key{federation.KeyToProto(res("global", "a", 6, "").Key)}}},
		"an ack of what was not sent": {&federationpb.Ack{Cursor: &federationpb.Cursor{Incarnation: "e", Revision: 1}}},
		"nothing":                     {nil},
	} {
		z := zoneSession(t, at)
		z.Effects()
		var err error
		for _, f := range frames {
			if err = z.Receive(down(f)); err != nil {
				break
			}
		}
		if !errors.Is(err, federation.ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		for _, e := range z.Effects() {
			if _, ok := e.(federation.Apply); ok {
				t.Errorf("%s: something was applied", name)
			}
		}
	}
	// A frame again is passed over; a cursor of another life is followed by nothing but a snapshot.
	z := zoneSession(t, at)
	if err := z.Receive(down(&federationpb.Changes{From: 3, Revision: 5, Put: put})); err != nil {
		t.Errorf("a duplicate: %v", err)
	}
	z = zoneSession(t, mesh.Cursor{Incarnation: "old", Revision: 5})
	if err := z.Receive(down(&federationpb.Changes{From: 5, Revision: 6, Put: put})); !errors.Is(err, federation.ErrProtocol) {
		t.Errorf("changes after another life: %v", err)
	}
}

// What is refused inside a batch is refused alone: another origin, a malformed key, a spec that is no JSON.
func TestRefusedAlone(t *testing.T) {
	z := zoneSession(t, mesh.Cursor{Incarnation: "g", Revision: 5})
	z.Effects()
	f := &federationpb.Changes{From: 5, Revision: 6}
	for _, r := range []mesh.Resource{res("global", "good", 6, `{}`), res("west", "a", 6, `{}`), res("global", "Bad Name", 6, `{}`), res("global", "b", 6, `{`)} {
		f.Put = append(f.Put, federation.ResourceToProto(r))
	}
	if err := z.Receive(down(f)); err != nil {
		t.Fatal(err)
	}
	e := z.Effects()
	if a, ok := e[0].(federation.Apply); !ok || len(a.Batch.Puts) != 1 || a.Batch.Puts[0].Name != "good" {
		t.Fatalf("%+v", e)
	}
	z.Applied(nil)
	nacks := map[string]string{}
	for {
		f, ok := z.Next()
		if !ok {
			t.Fatal("no ack")
		}
		if n := f.GetNack(); n != nil {
			nacks[n.GetKey().GetName()] = n.GetCode()
		}
		if f.GetAck() != nil {
			break
		}
	}
	if len(nacks) != 3 || nacks["a"] != federation.CodeNotAllowed || nacks["b"] != federation.CodeInvalid || nacks["Bad Name"] != federation.CodeInvalid {
		t.Errorf("%v", nacks)
	}
}

// FuzzFrames feeds both ends with sequences of frames: no panic, no batch after a violation, and bounded
// replies.
func FuzzFrames(f *testing.F) {
	seed := func(list ...proto.Message) {
		var b []byte
		for _, m := range list {
			x, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			b = append(b, byte(len(x)>>8), byte(len(x)))
			b = append(b, x...)
		}
		f.Add(b)
	}
	put := []*federationpb.Resource{federation.ResourceToProto(res("east", "a", 6, `{}`))}
	seed(down(&federationpb.Changes{From: 1, Revision: 2, Put: put, More: true}), down(&federationpb.Changes{From: 1, Revision: 2}))
	seed(down(&federationpb.SnapshotBegin{Cursor: &federationpb.Cursor{Incarnation: "e", Revision: 3}}), down(&federationpb.Changes{Put: put}),
		down(&federationpb.SnapshotEnd{Cursor: &federationpb.Cursor{Incarnation: "e", Revision: 3}, Count: 1}))
	seed(&federationpb.ZoneFrame{Frame: &federationpb.ZoneFrame_Statement{Statement: &federationpb.Statement{Zone: "east", Kind: "export", Incarnation: "i", Sequence: 1}}})
	seed(&federationpb.ZoneFrame{Frame: &federationpb.ZoneFrame_Status{Status: &federationpb.StatusReport{Epoch: "x", Sequence: 3, Full: true, Records: []*federationpb.StatusRecord{{Bucket: "proxies", Key: "k", Value: []byte("v")}}}}})
	seed(&federationpb.ZoneFrame{Frame: &federationpb.ZoneFrame_Ping{Ping: &federationpb.Ping{Nonce: 1}}}, down(&federationpb.Ack{Cursor: &federationpb.Cursor{Incarnation: "g", Revision: 2}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, z := globalSession(t), zoneSession(t, mesh.Cursor{Incarnation: "g", Revision: 1})
		g.BeginSnapshot(mesh.Cursor{Incarnation: "g", Revision: 2})
		g.EndSnapshot()
		for {
			if _, ok := g.Next(); !ok {
				break
			}
		}
		var gErr, zErr error
		for len(data) >= 2 {
			n := min(int(data[0])<<8|int(data[1]), len(data)-2)
			frame := data[2 : 2+n]
			data = data[2+n:]
			up, dn := &federationpb.ZoneFrame{}, &federationpb.GlobalFrame{}
			if gErr == nil && proto.Unmarshal(frame, up) == nil {
				gErr = feed(t, g, func() error { return g.Receive(up) })
			}
			if zErr == nil && proto.Unmarshal(frame, dn) == nil {
				zErr = feed(t, z, func() error { return z.Receive(dn) })
			}
		}
	})
}

func feed(t *testing.T, s interface {
	Effects() []federation.Effect
	Applied([]federation.Refusal)
}, receive func() error) error {
	err := receive()
	if err != nil && !errors.Is(err, federation.ErrProtocol) {
		t.Fatalf("an error that is no violation: %v", err)
	}
	for _, e := range s.Effects() {
		if a, ok := e.(federation.Apply); ok {
			if err != nil {
				t.Fatal("a batch out of a violation")
			}
			for _, r := range a.Batch.Puts {
				if federation.CheckResource(r) != nil {
					t.Fatalf("a malformed resource reached the store: %+v", r)
				}
			}
			s.Applied(nil)
		}
	}
	return err
}

// TestHeadsAreAskedForOnlyIfTheyDiffer: a zone that holds what global would relay says so in a few bytes.
func TestHeadsAreAskedForOnlyIfTheyDiffer(t *testing.T) {
	statement := func(zone string, sequence uint64) *federationpb.Statement {
		return &federationpb.Statement{Kind: federation.StatementExport, Zone: zone, Subject: "shop/pay", Incarnation: "life", Sequence: sequence}
	}
	all := []*federationpb.Statement{statement("north", 3), statement("south", 7), statement("east", 9)}
	for name, held := range map[string][]*federationpb.Statement{
		"all":   {statement("south", 7), statement("north", 3)},
		"older": {statement("south", 6), statement("north", 3)},
		"some":  {statement("north", 3)},
		"none":  nil,
		"more":  {statement("south", 7), statement("north", 3), statement("west", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := federation.ZoneConfig{Zone: "east", Incarnation: "life", UpHead: mesh.Cursor{Incarnation: "e", Revision: 1}, Statuses: federation.NewStatusBook("book")}
			for _, st := range held {
				cfg.Heads = append(cfg.Heads, federation.HeadOf(st))
			}
			zone := federation.NewZoneSession(cfg)
			hello, _ := zone.Next()
			if len(hello.GetHello().GetHeads()) > 0 {
				t.Error("heads in the hello")
			}
			global, err := federation.NewGlobalSession(federation.GlobalConfig{Zone: "east", Incarnation: "g", Epoch: 1}, hello.GetHello())
			if err != nil {
				t.Fatal(err)
			}
			global.RelayAll(all)
			// Both ends until nobody has anything to say.
			got, asked := map[string]uint64{}, false
			for quiet := false; !quiet; {
				quiet = true
				for f, ok := global.Next(); ok; f, ok = global.Next() {
					quiet, asked = false, asked || f.GetWelcome().GetWantHeads()
					if st := f.GetStatement(); st != nil {
						got[st.GetZone()] = st.GetSequence()
					}
					if err := zone.Receive(f); err != nil {
						t.Fatal(err)
					}
				}
				for f, ok := zone.Next(); ok; f, ok = zone.Next() {
					quiet = false
					if err := global.Receive(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := map[string]uint64{}
			for _, st := range all {
				if st.GetZone() != "east" && !slices.ContainsFunc(held, func(h *federationpb.Statement) bool { return proto.Equal(h, st) }) {
					want[st.GetZone()] = st.GetSequence()
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("sent %v, want %v", got, want)
			}
			if wantAsked := name != "all" && name != "none"; asked != wantAsked {
				t.Errorf("asked for heads: %v", asked)
			}
		})
	}
	// Nobody may answer what was not asked.
	global, err := federation.NewGlobalSession(federation.GlobalConfig{Zone: "east", Incarnation: "g", Epoch: 1},
		&federationpb.ZoneHello{Protocol: federation.Protocol, Zone: "east", Incarnation: "life", UpHead: &federationpb.Cursor{Incarnation: "e", Revision: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if err := global.Receive(&federationpb.ZoneFrame{Frame: &federationpb.ZoneFrame_Heads{Heads: &federationpb.StatementHeads{}}}); !errors.Is(err, federation.ErrProtocol) {
		t.Errorf("heads that were not asked for: %v", err)
	}
}
