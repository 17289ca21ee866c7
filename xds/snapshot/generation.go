package snapshot

import (
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/comity-mesh/comity/mesh"
)

// Generation is the whole of one view at one moment. It is immutable but for a memo of the frames that
// lead to it, and comparable with the generations of other views.
type Generation struct {
	// View is whose generation it is, Revision the revision of the zone's store that it reflects.
	View     ViewKey
	Revision mesh.Revision
	// Made is when it was published, for the measure of how long it took to arrive.
	Made time.Time

	num  uint64 // ascending over all views of a store
	sets [typeCount]set
	bad  map[*Entry]struct{} // quarantined in the view

	mu    sync.Mutex
	steps map[stepKey]*step
}

// set is what a generation holds of one type, sorted by name. Two sets with the same stamp are the
// same; the empty set has stamp 0.
type set struct {
	stamp   uint64
	entries []*Entry
}

func byName(e *Entry, name string) int { return strings.Compare(e.Name, name) }

func (s set) find(name string) *Entry {
	if i, ok := slices.BinarySearchFunc(s.entries, name, byName); ok {
		return s.entries[i]
	}
	return nil
}

func (s set) has(e *Entry) bool { return s.find(e.Name) == e }

// Entries lists what the generation holds of a type, sorted by name. The caller must not change it.
func (g *Generation) Entries(t Type) []*Entry { return g.sets[t].entries }

// Find returns the entry of a type and name, or nil.
func (g *Generation) Find(t Type, name string) *Entry { return g.sets[t].find(name) }

func (g *Generation) quarantined(e *Entry) bool {
	_, ok := g.bad[e]
	return ok
}

// step is what leads from one generation's set of a type to another's.
type step struct {
	changed *Frame   // added and changed entries; nil if none
	follow  *Frame   // of clusters: the endpoints of the changed ones; nil if none
	gone    []string // names that are no longer there
	whole   bool     // the frames are in one piece
}

// asWhole is the step with its frames in one piece.
func (s *step) asWhole() *step {
	return &step{changed: s.changed.asWhole(), follow: s.follow.asWhole(), gone: s.gone, whole: true}
}

type stepKey struct {
	typ  Type
	from uint64 // stamp of the set that the client has; 0 for nothing at all
}

// maxSteps bounds the memo of a generation; streams further apart than this build their own frames.
const maxSteps = 64

// stepFrom returns the way from an older set of a type to the one of g. It is built once for all
// streams that go the same way. From the second on they share frames in one piece, which are cheaper to send: many views have one
// stream, and would keep a copy of all its resources.
func (g *Generation) stepFrom(t Type, from set) *step {
	key := stepKey{t, from.stamp}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.steps[key]; s != nil {
		if !s.whole {
			s = s.asWhole()
			g.steps[key] = s
		}
		return s
	}
	s := g.makeStep(t, from)
	if g.steps == nil {
		g.steps = make(map[stepKey]*step)
	}
	if len(g.steps) < maxSteps {
		g.steps[key] = s
	}
	return s
}

func (g *Generation) makeStep(t Type, from set) *step {
	var changed []*Entry
	s := new(step)
	old := from.entries
	for _, e := range g.sets[t].entries {
		if len(old) > 0 && old[0] == e { // of most of them nothing need be read
			old = old[1:]
			continue
		}
		for len(old) > 0 && old[0].Name < e.Name {
			s.gone = append(s.gone, old[0].Name)
			old = old[1:]
		}
		if len(old) > 0 && old[0].Name == e.Name {
			if old[0] != e {
				changed = append(changed, e)
			}
			old = old[1:]
			continue
		}
		changed = append(changed, e)
	}
	for _, e := range old {
		s.gone = append(s.gone, e.Name)
	}
	if all := g.sets[t].entries; len(changed) == len(all) {
		changed = all // which is there anyway
	}
	if len(changed) > 0 {
		s.changed = looseFrame(t, changed, nil)
	}
	if t == Cluster {
		if follow := g.endpointsOf(changed); len(follow) > 0 {
			s.follow = looseFrame(Endpoint, follow, nil)
		}
	}
	return s
}

// endpointsOf lists the assignments of clusters, each once.
func (g *Generation) endpointsOf(clusters []*Entry) []*Entry {
	var out []*Entry
	for _, c := range clusters {
		if c.endpoints == "" {
			continue
		}
		if e := g.sets[Endpoint].find(c.endpoints); e != nil {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	if out = slices.Compact(out); len(out) == len(g.sets[Endpoint].entries) {
		return g.sets[Endpoint].entries
	}
	return out
}

// Frame is a response but for its nonce. It is immutable and shared.
type Frame struct {
	Type    Type
	Entries []*Entry
	Removed []string
	bufs    mem.BufferSlice // its wire form; nil while it is made of the entries' at each sending
}

// asWhole is the same frame in one piece, for many streams; nil stays nil.
func (f *Frame) asWhole() *Frame {
	if f == nil {
		return nil
	}
	whole := *f
	whole.bufs = mem.BufferSlice{mem.SliceBuffer(f.wire().Materialize())}
	return &whole
}

// looseFrame makes a frame out of the entries' own bytes.
func looseFrame(t Type, entries []*Entry, removed []string) *Frame {
	return &Frame{Type: t, Entries: entries, Removed: removed}
}

// wire is the wire form.
func (f *Frame) wire() mem.BufferSlice {
	if f.bufs != nil {
		return f.bufs
	}
	out := make(mem.BufferSlice, 0, len(f.Entries)*len(Entry{}.wire)+2) // the nonce comes last
	for _, e := range f.Entries {
		out = append(out, e.wire[:]...)
	}
	var tail []byte
	for _, name := range f.Removed {
		tail = protowire.AppendTag(tail, responseRemoved, protowire.BytesType)
		tail = protowire.AppendString(tail, name)
	}
	tail = protowire.AppendTag(tail, responseTypeURL, protowire.BytesType)
	tail = protowire.AppendString(tail, f.Type.URL())
	return append(out, mem.SliceBuffer(tail))
}

// Response is a frame under the nonce of one stream.
type Response struct {
	*Frame
	Nonce string
	size  int
}

// Buffers is the wire form of the DeltaDiscoveryResponse.
func (r *Response) Buffers() mem.BufferSlice {
	tail := make([]byte, 0, sizeBytes(responseNonce, len(r.Nonce)))
	tail = protowire.AppendTag(tail, responseNonce, protowire.BytesType)
	tail = protowire.AppendString(tail, r.Nonce)
	out := r.wire()
	if r.bufs != nil {
		out = slices.Clip(out) // others have it too
	}
	out = append(out, mem.SliceBuffer(tail))
	r.size = out.Len()
	return out
}

// Size is the length in bytes of what Buffers made, 0 before.
func (r *Response) Size() int { return r.size }
