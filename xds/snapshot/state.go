package snapshot

import (
	"slices"
	"strconv"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/comity-mesh/comity/mesh"
)

// State decides what one state-of-the-world stream is sent: that of a client that is no Envoy. Like Stream it is a pure
// state machine, fed with Request and Advance.
//
// The rules it keeps (xDS protocol; grpc-go 1.85):
//
//   - A request names all that its client wants of a type. "*" is all there is; so is a first request for clusters or
//     listeners without names.
//   - An answer with clusters or listeners, or with everything, holds all that was asked for and exists: what is missing
//     is gone. Else it holds what is new, and a name that does not exist gets no answer.
//   - One answer is outstanding per type. A request with another nonce than its own is older than it, and its
//     client will ask again.
//   - A client that refuses a part of an answer keeps what it had of that and takes the rest. Nothing is sent again
//     until something changes: others of the same view may well take it.
type State struct {
	gen     *Generation
	settled *Generation
	types   [typeCount]stateOf
	seq     uint64
	out     []Response
}

// stateOf is where a client stands with one type.
type stateOf struct {
	subscribed bool
	names      []string // that it wants, sorted; "*" alone for all
	asked      bool     // it waits for an answer, even if nothing has changed
	sent       map[string]*Entry
	waiting    string // nonce of the outstanding answer, empty for none
	last       string // nonce of the last answer
	at         *Generation
	acked      *Generation
	refused    bool // the last answer was
}

const everything = "*"

func (st *stateOf) all() bool { return len(st.names) == 1 && st.names[0] == everything }

// NewState starts a stream.
func NewState() *State { return &State{} }

// Advance gives the stream the newest generation of its view, or one of another view.
func (s *State) Advance(g *Generation) error {
	if g == nil || g == s.gen {
		return nil
	}
	s.gen = g
	s.pump()
	return nil
}

// Request takes a request of the client.
func (s *State) Request(r *Request) error {
	t, ok := ParseType(r.TypeURL)
	if !ok {
		return nil
	}
	st := &s.types[t]
	first := !st.subscribed
	if !first && r.Nonce != "" && r.Nonce != st.last {
		return nil
	}
	if st.waiting != "" && r.Nonce == st.waiting {
		st.waiting, st.refused = "", r.Refused
		if !r.Refused {
			st.acked = st.at
			for _, e := range st.sent {
				e.proven.Store(true)
			}
		}
	}
	names := slices.Compact(slices.Sorted(slices.Values(r.Subscribe)))
	if len(names) == 0 && t.wildcard() && (first || st.all()) || slices.Contains(names, everything) {
		names = []string{everything}
	}
	for _, n := range names {
		if _, had := slices.BinarySearch(st.names, n); !had {
			st.asked = true
		}
	}
	st.subscribed, st.names = true, names
	for n := range st.sent {
		if _, wanted := slices.BinarySearch(names, n); !wanted && !st.all() {
			delete(st.sent, n) // it forgets what it does not ask for
		}
	}
	s.pump()
	return nil
}

// Take returns what is to be sent now, in order.
func (s *State) Take() []Response {
	out := s.out
	s.out = nil
	return out
}

// Verdicts are none: what one client refuses is no reason to keep it from the others.
func (s *State) Verdicts() []Verdict { return nil }

// Suspects are none: a new stream is sent everything.
func (s *State) Suspects() Suspects { return nil }

// Distrust has nothing to remember, as Suspects.
func (s *State) Distrust(Type, map[string]struct{}) {}

// Settled returns the newest generation that the client has acknowledged in full, nil before the first.
func (s *State) Settled() *Generation { return s.settled }

// Generation is the newest that the stream was given, nil before the first.
func (s *State) Generation() *Generation { return s.gen }

// Revision is the revision of the newest generation that is acknowledged in full, 0 before the first.
func (s *State) Revision() mesh.Revision {
	if s.settled == nil {
		return 0
	}
	return s.settled.Revision
}

// pump sends what may be sent now, and notes what is settled by it.
func (s *State) pump() {
	if s.gen == nil {
		return
	}
	var oldest *Generation
	for t := range s.types {
		st := &s.types[t]
		if !st.subscribed {
			continue
		}
		if st.waiting == "" {
			s.push(Type(t), st)
		}
		if st.acked == nil {
			return
		}
		if oldest == nil || st.acked.num < oldest.num {
			oldest = st.acked
		}
	}
	if oldest != nil && (s.settled == nil || oldest.num > s.settled.num) {
		s.settled = oldest
	}
}

// push brings a type to the newest generation.
func (s *State) push(t Type, st *stateOf) {
	want, whole := s.wanted(t, st), t.wildcard() || st.all()
	var entries []*Entry
	same := len(want) == len(st.sent)
	for _, e := range want {
		if had := st.sent[e.Name]; had != e {
			same = false
		} else if !whole {
			continue
		}
		entries = append(entries, e)
	}
	if same && !(st.asked && whole) || len(entries) == 0 && !whole {
		st.sent, st.at, st.asked = named(want), s.gen, false
		if !st.refused {
			st.acked = s.gen
		}
		return
	}
	st.sent, st.at, st.asked = named(want), s.gen, false
	s.seq++
	nonce := strconv.FormatUint(s.gen.num, 36) + "." + strconv.FormatUint(s.seq, 36)
	st.waiting, st.last = nonce, nonce
	s.out = append(s.out, Response{Frame: stateFrame(t, entries, strconv.FormatUint(s.gen.num, 36)), Nonce: nonce})
}

// wanted lists what the client asks for of a type and exists, sorted by name.
func (s *State) wanted(t Type, st *stateOf) []*Entry {
	if st.all() {
		return s.gen.sets[t].entries
	}
	var out []*Entry
	for _, n := range st.names {
		if e := s.gen.sets[t].find(n); e != nil {
			out = append(out, e)
		}
	}
	return out
}

func named(list []*Entry) map[string]*Entry {
	out := make(map[string]*Entry, len(list))
	for _, e := range list {
		out[e.Name] = e
	}
	return out
}

// stateFrame makes a DiscoveryResponse but for its nonce. It has the numbers of the delta variant; only
// its resources come without name and version, and all of them have one version.
func stateFrame(t Type, entries []*Entry, version string) *Frame {
	const versionInfo = 1
	f := &Frame{Type: t, Entries: entries, bufs: make(mem.BufferSlice, 0, 3*len(entries)+1)}
	for _, e := range entries {
		head, value := e.any()
		tag := protowire.AppendTag(nil, responseResources, protowire.BytesType)
		tag = protowire.AppendVarint(tag, uint64(len(head)+len(value)))
		f.bufs = append(f.bufs, mem.SliceBuffer(tag), mem.SliceBuffer(head), e.wire[1])
	}
	tail := protowire.AppendTag(nil, versionInfo, protowire.BytesType)
	tail = protowire.AppendString(tail, version)
	tail = protowire.AppendTag(tail, responseTypeURL, protowire.BytesType)
	tail = protowire.AppendString(tail, t.URL())
	f.bufs = append(f.bufs, mem.SliceBuffer(tail))
	return f
}
