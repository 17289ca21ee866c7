package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
)

// world is what is published: a configuration that is consistent in itself.
type world struct {
	clusters map[string]int  // name -> edit
	bare     map[string]bool // clusters without an assignment
	eds      map[string]int
	routes   map[string]item
	listen   map[string]item
	secret   int
	ext      int
}

func newWorld() *world {
	return &world{clusters: map[string]int{}, bare: map[string]bool{}, eds: map[string]int{}, routes: map[string]item{}, listen: map[string]item{}}
}

func (w *world) items() []item {
	var out []item
	for n, e := range w.clusters {
		out = append(out, item{Cluster, n, e, "eds-" + n})
		if !w.bare[n] {
			out = append(out, item{Endpoint, "eds-" + n, w.eds[n], ""})
		}
	}
	for _, r := range w.routes {
		out = append(out, r)
	}
	for _, l := range w.listen {
		out = append(out, l)
	}
	out = append(out, item{Secret, "trust", w.secret, ""}, item{Extension, "x", w.ext, ""})
	return out
}

func (w *world) resources() []envoy.Resource {
	var out []envoy.Resource
	for _, it := range w.items() {
		out = append(out, it.resource())
	}
	return out
}

// mutate makes one random change.
func (w *world) mutate(t *rapid.T, poisoned, bare bool) {
	edit := rapid.IntRange(0, 3)
	if poisoned {
		edit = rapid.OneOf(rapid.IntRange(0, 3), rapid.SampledFrom([]int{0, 1, 2, poison, poison + 1}))
	}
	name := func(prefix string, n int) string {
		return fmt.Sprintf("%s%d", prefix, rapid.IntRange(0, n-1).Draw(t, prefix))
	}
	switch rapid.IntRange(0, 8).Draw(t, "change") {
	case 0, 1:
		n := name("c", 4)
		w.clusters[n] = edit.Draw(t, "edit")
		w.bare[n] = bare && rapid.IntRange(0, 5).Draw(t, "bare") == 0
	case 2:
		n := name("c", 4)
		delete(w.clusters, n)
		for r, it := range w.routes {
			it.refs = strings.Join(slices.DeleteFunc(split2(it.refs), func(s string) bool { return s == n }), ",")
			w.routes[r] = it
		}
	case 3:
		w.eds[name("c", 4)] = edit.Draw(t, "edit")
	case 4, 5:
		var refs []string
		for _, n := range slices.Sorted(maps.Keys(w.clusters)) {
			if rapid.Bool().Draw(t, "ref") {
				refs = append(refs, n)
			}
		}
		n := name("r", 2)
		w.routes[n] = item{Route, n, edit.Draw(t, "edit"), strings.Join(refs, ",")}
	case 6:
		n := name("l", 2)
		refs := []string{"extension:x"}
		for r := range w.routes {
			refs = append(refs, "route:"+r)
		}
		slices.Sort(refs)
		w.listen[n] = item{Listener, n, edit.Draw(t, "edit"), strings.Join(refs, ",")}
	case 7:
		n := name("l", 2)
		delete(w.listen, n)
	case 8:
		w.secret, w.ext = edit.Draw(t, "secret"), rapid.IntRange(0, 3).Draw(t, "ext")
	}
}

// system is a store, a stream and a model of Envoy with the messages between them.
type system struct {
	t      *rapid.T
	store  *Store
	view   ViewKey
	rev    mesh.Revision
	stream *Stream
	envoy  *envoyModel
	up     [][]byte
	down   []*discovery.DeltaDiscoveryResponse
	log    []string
	bytes  int
}

func newSystem(t *rapid.T) *system {
	s := &system{t: t, store: NewStore(time.Now), view: "v", stream: NewStream(nil), envoy: newEnvoyModel()}
	s.flush()
	return s
}

// flush puts what both sides want to send on the wire.
func (s *system) flush() {
	for _, r := range s.envoy.out {
		b, err := proto.Marshal(r)
		if err != nil {
			s.t.Fatal(err)
		}
		s.up = append(s.up, b)
	}
	s.envoy.out = nil
	for _, r := range s.stream.Take() {
		m := new(discovery.DeltaDiscoveryResponse)
		b := r.Buffers().Materialize()
		if len(b) != r.Size() {
			s.t.Fatalf("size %d, want %d", r.Size(), len(b))
		}
		s.bytes += len(b)
		if err := proto.Unmarshal(b, m); err != nil {
			s.t.Fatal(err)
		}
		s.down = append(s.down, m)
	}
}

// judge does what the server does with verdicts.
func (s *system) judge() {
	for range 100 {
		v := s.stream.Verdicts()
		if len(v) == 0 {
			return
		}
		for _, v := range v {
			s.store.Quarantine(s.view, []*Entry{v.Entry})
		}
		s.advance()
	}
	s.t.Fatal("verdicts without end")
}

func (s *system) advance() {
	g := s.store.Current(s.view)
	if g == nil {
		return
	}
	if last := s.stream.Generation(); last != nil && last.View != g.View && g.Before(last) {
		g = s.store.Renew(s.view)
	}
	if err := s.stream.Advance(g); err != nil {
		s.t.Fatal(err)
	}
	s.judge()
	s.flush()
}

func (s *system) serve() {
	if len(s.up) == 0 {
		return
	}
	r := new(Request)
	if err := UnmarshalRequest(s.up[0], r); err != nil {
		s.t.Fatal(err)
	}
	s.up = s.up[1:]
	s.note("server <- %s sub=%v unsub=%v irv=%v nonce=%s refused=%v", short(r.TypeURL), r.Subscribe, r.Unsubscribe, r.Initial, r.Nonce, r.Refused)
	if err := s.stream.Request(r); err != nil {
		s.t.Fatal(err)
	}
	s.judge()
	s.flush()
}

func (s *system) deliver() {
	if len(s.down) == 0 {
		return
	}
	r := s.down[0]
	s.down = s.down[1:]
	var names []string
	for _, e := range r.Resources {
		names = append(names, e.Name+"="+e.Version)
	}
	s.note("envoy <- %s %v removed=%v nonce=%s", short(r.TypeUrl), names, r.RemovedResources, r.Nonce)
	s.envoy.receive(r)
	s.flush()
}

func short(url string) string { return url[strings.LastIndex(url, ".")+1:] }

func (s *system) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *system) reconnect(fresh bool) {
	s.note("reconnect fresh=%v", fresh)
	s.up, s.down = nil, nil
	suspects := s.stream.Suspects()
	s.stream = NewStream(suspects)
	if fresh {
		old := s.envoy
		s.envoy = newEnvoyModel()
		s.envoy.semantic, s.envoy.violations = old.semantic, old.violations
	} else {
		s.envoy.connect()
	}
	s.advance()
	s.flush()
}

func (s *system) publish(w *world) {
	s.rev++
	s.note("publish %d to %s: %v", s.rev, s.view, w.items())
	own := rapid.Permutation(w.resources()).Draw(s.t, "resources")
	var parts []*Part
	for range rapid.IntRange(0, 2).Draw(s.t, "parts") {
		n := rapid.IntRange(0, len(own)).Draw(s.t, "part")
		part, err := s.store.Part(own[n:])
		if err != nil {
			s.t.Fatal(err)
		}
		own, parts = own[:n], append(parts, part)
	}
	if _, err := s.store.Publish(s.view, s.rev, own, parts...); err != nil {
		s.t.Fatal(err)
	}
	if rapid.IntRange(0, 3).Draw(s.t, "again") == 0 { // nothing differs but the revision
		s.rev++
		s.store.Advance(s.view, s.rev)
	}
	s.advance()
}

// drain lets everything arrive.
func (s *system) drain() {
	for range 5000 {
		if len(s.up)+len(s.down) == 0 {
			return
		}
		s.serve()
		s.deliver()
	}
	s.t.Fatalf("no end of messages\n%s", s.story())
}

func (s *system) story() string { return strings.Join(s.log, "\n") }

// check compares what Envoy has with what the view says it shall have.
func (s *system) check() {
	s.t.Helper()
	fail := func(format string, args ...any) {
		s.t.Helper()
		s.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), s.story())
	}
	g := s.store.Current(s.view)
	if len(s.envoy.warming) > 0 {
		fail("clusters %v never got their endpoints", s.envoy.warming)
	}
	for _, t := range Types() {
		want := map[string]string{}
		for _, e := range g.Entries(t) {
			if !t.wildcard() && !s.envoy.wanted[t][e.Name] {
				continue
			}
			r := new(discovery.DeltaDiscoveryResponse)
			if err := proto.Unmarshal(mem.BufferSlice(e.wire[:]).Materialize(), r); err != nil {
				s.t.Fatal(err)
			}
			want[e.Name] = string(r.Resources[0].Resource.Value)
			if read(t, r.Resources[0].Resource.Value).poison {
				fail("%s %s %s is refused and yet in force", t, e.Name, e.Version)
			}
		}
		have := map[string]string{}
		for n, c := range s.envoy.have[t] {
			if _, listed := want[n]; !listed && !t.wildcard() {
				continue // Envoy ignores removals of what it still names
			}
			have[n] = c.bytes
		}
		if !maps.Equal(want, have) {
			fail("%s: envoy has %q, want %q", t, slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
		}
	}
	if got := s.stream.Settled(); got == nil || got.Revision != s.rev || got.View != s.view {
		fail("settled at %+v, want revision %d of %s", got, s.rev, s.view)
	}
	if s.stream.Waiting() {
		fail("still waiting")
	}
}

// TestEnvoyEndsWithTheView drives random histories: whatever the interleaving of publications, messages,
// cuts and restarts, Envoy ends with what the view says, and on the way nothing names what is not there.
func TestEnvoyEndsWithTheView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSystem(t)
		worlds := map[ViewKey]*world{"v": newWorld(), "w": newWorld()}
		history(t, s, worlds, false)
		if len(s.envoy.violations) > 0 {
			t.Fatalf("%v\n%s", s.envoy.violations, s.story())
		}
	})
}

// TestRefusedResourcesStayAlone is the same with resources that Envoy refuses.
func TestRefusedResourcesStayAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSystem(t)
		s.envoy.semantic = rapid.Bool().Draw(t, "semantic")
		worlds := map[ViewKey]*world{"v": newWorld()}
		history(t, s, worlds, true)
		for _, v := range s.envoy.violations {
			// A route may name a cluster that is in quarantine; a response must be well-formed all the same.
			if strings.Contains(v, "twice") || strings.Contains(v, "both") {
				t.Fatalf("%s\n%s", v, s.story())
			}
		}
	})
}

func history(t *rapid.T, s *system, worlds map[ViewKey]*world, poisoned bool) {
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 19).Draw(t, "step") {
		case 0, 1, 2, 3, 4:
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				worlds[s.view].mutate(t, poisoned, true)
			}
			s.publish(worlds[s.view])
		case 5:
			w := worlds[s.view]
			if s.store.Current(s.view) == nil || len(w.clusters) == 0 {
				break
			}
			n := rapid.SampledFrom(slices.Sorted(maps.Keys(w.clusters))).Draw(t, "cluster")
			w.eds[n], w.bare[n] = rapid.IntRange(0, 3).Draw(t, "edit"), false
			s.publish(w)
		case 6:
			s.reconnect(rapid.IntRange(0, 3).Draw(t, "fresh") == 0)
		case 7:
			if len(worlds) > 1 && rapid.IntRange(0, 3).Draw(t, "move") == 0 {
				if s.view == "v" {
					s.view = "w"
				} else {
					s.view = "v"
				}
				s.note("assign %s", s.view)
				s.publishIfNew(worlds[s.view])
			}
		default:
			if rapid.Bool().Draw(t, "side") {
				s.serve()
			} else {
				s.deliver()
			}
		}
	}
	s.publish(worlds[s.view])
	s.drain()
	s.check()
	before := s.bytes
	// Nothing changed: a reconnect sends nothing but that there is nothing.
	s.reconnect(false)
	g := s.store.Current(s.view)
	limit := 160 // "there are none" of clusters and listeners
	for _, e := range g.Entries(Cluster) {
		if g.Find(Endpoint, "eds-"+e.Name) == nil {
			limit += 160 // "there are no endpoints"
		}
	}
	s.drain()
	s.check()
	if sent := s.bytes - before; sent > limit {
		t.Fatalf("a reconnect with nothing changed sent %d bytes, want at most %d\n%s", sent, limit, s.story())
	}
}

func (s *system) publishIfNew(w *world) {
	if s.store.Current(s.view) == nil {
		s.publish(w)
		return
	}
	s.advance()
}
