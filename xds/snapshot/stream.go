package snapshot

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// Stream decides what one delta-ADS stream is sent. It is a pure state machine: feed it with Request
// and Advance, then Take what is to be sent, in that order. It is not safe for concurrent use.
//
// The rules it keeps (Envoy 1.40, measured):
//
//   - Clusters are followed by their endpoints in the same burst. Listeners, routes and extensions wait
//     for the ACK of the clusters; what is gone waits for theirs, clusters last. (A listener goes
//     together with the new ones, because two can't share an address for a moment.)
//   - One push is outstanding per type; what changes meanwhile is one push afterwards. Answers to
//     subscriptions are outside this rule and are given at once.
//   - What the client says it has from an earlier stream is not sent again, except where an earlier stream ended
//     in the middle of a refusal, and except endpoints while clusters may wait for them, though it had them: Envoy
//     holds its request for clusters back while one of them does, and each cluster that is sent will.
//   - A refused response is sent again in parts until the resources at fault are found (Verdicts).
type Stream struct {
	gen      *Generation // newest of the view; nil until there is one
	settled  *Generation // newest that is acknowledged in full
	types    [typeCount]typeState
	seq      uint64
	out      []Response
	backlog  []Request // while there is no generation
	suspects Suspects
	verdicts []Verdict
	unknown  uint64
	resumed  bool // the client came with versions of an earlier stream
	replied  bool // the client has answered something, so it has asked for all it had
}

// Suspects are names of which it is not known what a proxy has, because it refused a response that
// contained them: parts of it may be in force without a version. They outlive the stream.
type Suspects map[Type]map[string]struct{}

// Verdict is one entry that the proxy refuses, and why in its own words.
type Verdict struct {
	Entry *Entry
	Error string
}

// typeState is where a stream stands with one type.
type typeState struct {
	subscribed bool
	resumed    bool // the client came with versions of an earlier stream
	full       bool // the client has nothing: send all
	pushing    int  // pushes among sent, 0 or 1
	// at is what the client was sent in sum, acked what it confirmed; at the newest generation with the
	// same content.
	at, acked *Generation
	dirty     map[string]struct{} // to send again whatever `at` says
	gone      []goneName          // to be removed when nothing refers to them any more
	only      map[string]struct{} // of a wildcard type that is asked for by name: those names
	sent      []sentFrame         // not yet answered, oldest first
	probe     *probe
}

// goneName is a name that generation `since` no longer has.
type goneName struct {
	name  string
	since uint64
}

type sentKind uint8

const (
	answer sentKind = iota
	push
	trial
)

type sentFrame struct {
	seq   uint64
	kind  sentKind
	frame *Frame
	at    *Generation // of a push: where its ACK brings the client
}

// Bounds of what a client can make a stream hold.
const (
	maxUnanswered = 1024
	maxBacklog    = 64
)

var (
	errUnanswered = errors.New("too many responses without an ACK")
	errBacklog    = errors.New("too many requests before there is a configuration")
)

// NewStream starts a stream of a proxy about whose earlier streams suspects are left; it takes them over.
func NewStream(suspects Suspects) *Stream {
	if suspects == nil {
		suspects = make(Suspects)
	}
	return &Stream{suspects: suspects}
}

// Suspects returns what the next stream of the proxy must not take for granted: responses that were
// refused, and those without an answer, which may have been. They are a copy, because a stream that was
// closed may still be given a generation that was on its way.
func (s *Stream) Suspects() Suspects {
	for t := range s.types {
		for _, f := range s.types[t].sent {
			s.suspect(Type(t), f.frame)
		}
	}
	out := make(Suspects, len(s.suspects))
	for t, names := range s.suspects {
		out[t] = maps.Clone(names)
	}
	return out
}

// Ready reports whether there is a configuration to answer from.
func (s *Stream) Ready() bool { return s.gen != nil }

// Advance gives the stream the newest generation of its view, or one of another view.
func (s *Stream) Advance(g *Generation) error {
	if g == s.gen {
		return nil
	}
	s.gen = g
	backlog := s.backlog
	s.backlog = nil
	for i := range backlog {
		if err := s.Request(&backlog[i]); err != nil {
			return err
		}
	}
	s.pump()
	return nil
}

// Request takes a request of the client. An error means that the stream should be closed.
func (s *Stream) Request(r *Request) error {
	t, ok := ParseType(r.TypeURL)
	if !ok {
		s.unknown++
		return nil
	}
	if s.gen == nil {
		if len(s.backlog) == maxBacklog {
			return errBacklog
		}
		s.backlog = append(s.backlog, *r)
		return nil
	}
	st := &s.types[t]
	if len(st.sent) > maxUnanswered {
		return errUnanswered
	}
	switch {
	case !st.subscribed:
		s.begin(t, r)
	default:
		if r.Nonce != "" {
			s.reply(t, r)
		}
		if len(r.Subscribe) > 0 {
			s.subscribe(t, r.Subscribe)
		}
		for _, name := range r.Unsubscribe {
			delete(st.only, name)
		}
	}
	s.pump()
	return nil
}

// Take returns what is to be sent now, in order.
func (s *Stream) Take() []Response {
	out := s.out
	s.out = nil
	return out
}

// Verdicts returns the entries found to be refused since the last call. The type stands still until
// Advance brings a generation without them.
func (s *Stream) Verdicts() []Verdict {
	v := s.verdicts
	s.verdicts = nil
	return v
}

// Settled returns the newest generation that the client has acknowledged in full, nil before the first.
func (s *Stream) Settled() *Generation { return s.settled }

// Unknown counts requests for types that are not served.
func (s *Stream) Unknown() uint64 { return s.unknown }

// Waiting reports whether a response is without its ACK.
func (s *Stream) Waiting() bool {
	for t := range s.types {
		if len(s.types[t].sent) > 0 {
			return true
		}
	}
	return false
}

// begin takes the first request of a type.
func (s *Stream) begin(t Type, r *Request) {
	st := &s.types[t]
	st.subscribed, st.resumed, st.at = true, len(r.Initial) > 0, s.gen
	s.resumed = s.resumed || st.resumed
	all := len(r.Subscribe) == 0 || slices.Contains(r.Subscribe, "*")
	if all && t.wildcard() {
		if len(r.Initial) > 0 {
			s.resume(t, s.gen.sets[t].entries, r.Initial)
			return
		}
		st.full = true // a new Envoy waits for an answer, even if there is nothing
		s.resume(t, nil, nil)
		return
	}
	if t.wildcard() {
		st.only = make(map[string]struct{}, len(r.Subscribe))
	}
	if len(r.Initial) == 0 || t == Endpoint && !s.clustersStand() {
		s.subscribe(t, r.Subscribe)
		if all {
			st.full = true
		}
		return
	}
	had := make(map[string]struct{}, len(r.Initial))
	for _, nv := range r.Initial {
		had[nv.Name] = struct{}{}
	}
	var known []*Entry
	var fresh []string
	for _, name := range r.Subscribe {
		if _, ok := had[name]; !ok {
			fresh = append(fresh, name)
		} else if e := s.gen.sets[t].find(name); e != nil {
			known = append(known, e)
			if st.only != nil {
				st.only[name] = struct{}{}
			}
		} else if t == Endpoint {
			fresh = append(fresh, name) // there are none; that is an answer, where a removal would be none
		}
	}
	if t == Endpoint {
		r.Initial = slices.DeleteFunc(r.Initial, func(nv NameVersion) bool { return s.gen.sets[t].find(nv.Name) == nil })
	}
	slices.SortFunc(known, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	if len(fresh) > 0 {
		s.subscribe(t, fresh)
	}
	s.resume(t, slices.Compact(known), r.Initial)
}

// clustersStand reports whether the client has asked for its clusters in this stream and needs none of them anew: none
// of them waits for endpoints, then, nor will.
func (s *Stream) clustersStand() bool {
	c := &s.types[Cluster]
	return c.resumed && len(c.sent) == 0 && len(c.dirty) == 0
}

// resume compares what the client has with what it shall have, and marks the difference.
func (s *Stream) resume(t Type, want []*Entry, have []NameVersion) {
	st := &s.types[t]
	slices.SortFunc(have, func(a, b NameVersion) int { return strings.Compare(a.Name, b.Name) })
	suspects := s.suspects[t]
	for len(want) > 0 || len(have) > 0 {
		switch {
		case len(have) == 0 || (len(want) > 0 && want[0].Name < have[0].Name):
			st.mark(want[0].Name)
			want = want[1:]
		case len(want) == 0 || have[0].Name < want[0].Name:
			if s.gen.sets[t].find(have[0].Name) == nil {
				st.gone = append(st.gone, goneName{strings.Clone(have[0].Name), s.gen.num})
			}
			have = have[1:]
		default:
			if _, suspect := suspects[want[0].Name]; suspect || have[0].Version != want[0].Version {
				st.mark(want[0].Name)
			}
			want, have = want[1:], have[1:]
		}
	}
	for name := range suspects {
		if s.gen.sets[t].find(name) == nil && !slices.ContainsFunc(st.gone, func(g goneName) bool { return g.name == name }) {
			st.gone = append(st.gone, goneName{name, s.gen.num})
		}
	}
}

func (st *typeState) mark(name string) {
	if st.dirty == nil {
		st.dirty = make(map[string]struct{})
	}
	st.dirty[name] = struct{}{}
}

// subscribe answers for names, at once: something may be warming that waits for them.
func (s *Stream) subscribe(t Type, names []string) {
	st := &s.types[t]
	var entries []*Entry
	var removed []string
	for _, name := range names {
		if name == "*" {
			if t.wildcard() {
				st.only, st.full = nil, true
			}
			continue
		}
		if st.only != nil {
			st.only[strings.Clone(name)] = struct{}{}
		}
		// What the client already knows of comes from the generation it is at: newer routes may name
		// clusters that it does not have yet.
		e := st.at.sets[t].find(name)
		if e == nil || s.gen.quarantined(e) {
			if e = s.gen.sets[t].find(name); e != nil {
				st.mark(name) // ahead of `at`, which would hide a later change back
			}
		}
		switch {
		case e != nil:
			entries = append(entries, e)
		case t == Endpoint:
			entries = append(entries, s.filler(name))
		default:
			removed = append(removed, strings.Clone(name))
		}
	}
	if len(entries) == 0 && len(removed) == 0 {
		return
	}
	slices.SortFunc(entries, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	entries = slices.CompactFunc(entries, func(a, b *Entry) bool { return a.Name == b.Name })
	slices.Sort(removed)
	s.send(t, answer, looseFrame(t, entries, slices.Compact(removed)), nil)
}

func (s *Stream) filler(name string) *Entry {
	var in interner // not worth sharing: a name that nobody knows
	return in.filler(strings.Clone(name))
}

func (s *Stream) send(t Type, kind sentKind, f *Frame, at *Generation) {
	s.seq++
	st := &s.types[t]
	st.sent = append(st.sent, sentFrame{seq: s.seq, kind: kind, frame: f, at: at})
	if kind == push {
		st.pushing++
	}
	nonce := make([]byte, 0, 24)
	nonce = strconv.AppendUint(nonce, s.gen.num, 36)
	nonce = append(nonce, '.')
	nonce = strconv.AppendUint(nonce, s.seq, 36)
	s.out = append(s.out, Response{Frame: f, Nonce: string(nonce)})
}

// reply takes an ACK or NACK. A nonce that is not outstanding is stale and means nothing.
func (s *Stream) reply(t Type, r *Request) {
	s.replied = true
	st := &s.types[t]
	_, tail, _ := strings.Cut(r.Nonce, ".")
	seq, err := strconv.ParseUint(tail, 36, 64)
	if err != nil {
		return
	}
	i := slices.IndexFunc(st.sent, func(f sentFrame) bool { return f.seq == seq })
	if i < 0 {
		return
	}
	f := st.sent[i]
	if st.sent = slices.Delete(st.sent, i, i+1); len(st.sent) == 0 {
		st.sent = nil // an idle stream holds nothing
	}
	if f.kind == push {
		st.pushing--
	}
	if r.Refused {
		s.refused(t, f, r.Error)
		return
	}
	for _, e := range f.frame.Entries {
		if !e.proven.Load() {
			e.proven.Store(true)
		}
	}
	s.cleared(t, f.frame)
	switch f.kind {
	case trial:
		st.probe.trying = nil
	case push:
		if st.probe == nil {
			st.acked = f.at
		}
	}
}

// pump sends whatever may be sent now.
func (s *Stream) pump() {
	if s.gen == nil {
		return
	}
	for t := range s.types {
		if s.types[t].probe != nil {
			s.try(Type(t))
		}
	}
	for t := range s.types {
		s.confirm(Type(t))
	}
	s.push(Secret, s.gen)
	s.push(Cluster, s.gen)
	s.push(Endpoint, s.gen)
	clusters := &s.types[Cluster]
	for _, t := range [...]Type{Listener, Route, Extension} {
		st := &s.types[t]
		switch {
		case st.full, !clusters.subscribed && !s.resumed:
			// A client that comes back while its clusters warm asks for them later than for all else.
			s.push(t, s.gen)
		case clusters.acked != nil && st.at != nil && clusters.acked.num >= st.at.num:
			s.push(t, clusters.acked)
		}
	}
	s.remove()
	s.settle()
}

// push brings one type from where the client is to a generation, if it is not waiting for an ACK.
func (s *Stream) push(t Type, to *Generation) {
	st := &s.types[t]
	if !st.subscribed || st.pushing > 0 || st.probe != nil {
		return
	}
	var f *Frame
	var follow *Frame
	switch {
	case st.full:
		way := to.stepFrom(t, set{})
		if f = way.changed; f == nil {
			f = looseFrame(t, nil, nil) // "there is nothing" is an answer too
		}
		st.full, st.dirty = false, nil
		if s.types[Endpoint].subscribed {
			follow = way.follow
		}
	case st.at.sets[t].stamp != to.sets[t].stamp || len(st.dirty) > 0:
		f, follow = s.delta(t, to)
	}
	if t == Listener && len(st.gone) > 0 {
		f = withRemoved(f, st.takeGone(math.MaxUint64))
	}
	st.at = to
	if f == nil {
		s.confirm(t)
		return
	}
	s.send(t, push, f, to)
	if follow != nil && s.types[Endpoint].subscribed {
		s.follow(to, follow)
	}
}

// follow sends the endpoints of clusters that were just sent: Envoy takes a changed cluster into
// service only when endpoints arrive after it.
func (s *Stream) follow(to *Generation, f *Frame) {
	if len(f.Entries) == 0 {
		return
	}
	st := &s.types[Endpoint]
	if st.pushing == 0 && st.probe == nil && !st.full && len(st.dirty) == 0 && st.at != to {
		if way := to.stepFrom(Endpoint, st.at.sets[Endpoint]); way.changed == nil || within(way.changed.Entries, f.Entries) {
			s.delta(Endpoint, to) // for what is gone; the rest is in the frame
			st.at = to
			s.send(Endpoint, push, f, to)
			return
		}
	}
	s.send(Endpoint, answer, f, nil)
	if st.at.sets[Endpoint].stamp == to.sets[Endpoint].stamp {
		return
	}
	for _, e := range f.Entries {
		if !st.at.sets[Endpoint].has(e) {
			st.mark(e.Name) // it is ahead of `at`, which would hide a later change back
		}
	}
}

// within reports whether a sorted list is part of another.
func within(part, of []*Entry) bool {
	for _, e := range part {
		if i, ok := slices.BinarySearchFunc(of, e.Name, byName); !ok || of[i] != e {
			return false
		}
	}
	return true
}

// delta is the frame from where the client is to a generation, shared where nothing is special about
// the client. It takes over what is gone and uses up what is dirty.
func (s *Stream) delta(t Type, to *Generation) (f, follow *Frame) {
	st := &s.types[t]
	way := to.stepFrom(t, st.at.sets[t])
	st.gone = slices.DeleteFunc(st.gone, func(g goneName) bool { return to.sets[t].find(g.name) != nil })
	for _, name := range way.gone {
		st.gone = append(st.gone, goneName{name, to.num})
	}
	if len(st.dirty) == 0 && st.only == nil {
		return way.changed, way.follow
	}
	var entries []*Entry
	if way.changed != nil {
		entries = slices.Clone(way.changed.Entries)
	}
	for name := range st.dirty {
		if e := to.sets[t].find(name); e != nil {
			entries = append(entries, e)
		} else if t == Endpoint {
			entries = append(entries, s.filler(name)) // a cluster that is about to go may wait for it
		}
	}
	st.dirty = nil
	if st.only != nil {
		entries = slices.DeleteFunc(entries, func(e *Entry) bool { _, ok := st.only[e.Name]; return !ok })
	}
	if len(entries) == 0 {
		return nil, nil
	}
	slices.SortFunc(entries, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	entries = slices.Compact(entries)
	if t == Cluster {
		if eds := to.endpointsOf(entries); len(eds) > 0 {
			follow = looseFrame(Endpoint, eds, nil)
		}
	}
	return looseFrame(t, entries, nil), follow
}

func withRemoved(f *Frame, removed []string) *Frame {
	if len(removed) == 0 {
		return f
	}
	var entries []*Entry
	if f != nil {
		entries = f.Entries
	}
	return looseFrame(Listener, entries, removed)
}

// takeGone takes the names that were gone by a generation, sorted.
func (st *typeState) takeGone(by uint64) []string {
	var names []string
	rest := st.gone[:0]
	for _, g := range st.gone {
		if g.since <= by {
			names = append(names, g.name)
		} else {
			rest = append(rest, g)
		}
	}
	if st.gone = rest; len(rest) == 0 {
		st.gone = nil
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// remove sends what is gone and no longer referred to, clusters after what may name them.
func (s *Stream) remove() {
	pending := false
	for t := range s.types {
		pending = pending || len(s.types[t].gone) > 0
	}
	if !pending {
		return
	}
	by := s.released()
	if by == 0 && !s.replied && !s.Waiting() && s.types[Cluster].subscribed {
		// It came back with all it needed, so it was told nothing, and has not said anything since: its answer to
		// nothing says that its questions have all come.
		s.send(Cluster, answer, looseFrame(Cluster, nil, nil), nil)
	}
	for _, t := range [...]Type{Route, Extension, Secret, Cluster, Endpoint} {
		st := &s.types[t]
		if len(st.gone) == 0 || st.pushing > 0 || st.probe != nil {
			continue
		}
		if t == Endpoint && s.types[Cluster].subscribed {
			if len(s.types[Cluster].gone) > 0 {
				continue
			}
			by = min(by, s.types[Cluster].at.num) // a cluster's endpoints go after it
		}
		if names := st.takeGone(by); len(names) > 0 {
			s.send(t, push, looseFrame(t, nil, names), st.at)
		}
	}
}

// released is the newest generation whose listeners, routes and extensions are all in force, so that
// nothing refers to what was gone by then.
func (s *Stream) released() uint64 {
	by := uint64(math.MaxUint64)
	for _, t := range [...]Type{Listener, Route, Extension} {
		st := &s.types[t]
		switch {
		case !st.subscribed:
			// One that comes back asks for all it had before it acknowledges anything, so its question may
			// still be on its way.
			if s.replied {
				continue
			}
			some := len(s.gen.sets[t].entries) > 0
			if t == Listener && (some || s.types[Cluster].resumed) || some && s.types[Listener].resumed {
				return 0
			}
		case st.acked == nil:
			return 0
		default:
			by = min(by, st.acked.num)
		}
	}
	return by
}

// confirm notes that the client has all it was sent of a type.
func (s *Stream) confirm(t Type) {
	st := &s.types[t]
	if !st.subscribed || len(st.sent) > 0 || st.probe != nil || st.full || len(st.dirty) > 0 {
		return
	}
	st.acked = st.at
	if len(st.gone) == 0 {
		delete(s.suspects, t)
	}
}

// settle finds the newest generation that is in force in full.
func (s *Stream) settle() {
	var oldest *Generation
	for t := range s.types {
		st := &s.types[t]
		if !st.subscribed {
			if Type(t).wildcard() && len(s.gen.sets[t].entries) > 0 {
				return
			}
			continue
		}
		switch {
		case st.acked == nil:
			return
		case len(st.gone) > 0:
			return
		case oldest == nil || st.acked.num < oldest.num:
			oldest = st.acked
		}
	}
	if oldest != nil && (s.settled == nil || oldest.num > s.settled.num) {
		s.settled = oldest
	}
}

// Revision is the revision of the newest generation that is acknowledged in full, 0 before the first.
func (s *Stream) Revision() mesh.Revision {
	if s.settled == nil {
		return 0
	}
	return s.settled.Revision
}

// Generation is the newest that the stream was given, nil before the first.
func (s *Stream) Generation() *Generation { return s.gen }

// Distrust adds names of which it is not known what the client has.
func (s *Stream) Distrust(t Type, names map[string]struct{}) {
	for name := range names {
		if s.suspects[t] == nil {
			s.suspects[t] = make(map[string]struct{}, len(names))
		}
		s.suspects[t][name] = struct{}{}
	}
}
