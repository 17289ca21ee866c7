package fedtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// ErrCrash is what a node says that crashed between a batch and its cursor.
var ErrCrash = errors.New("crashed between the batch and its cursor")

// Node is a store in memory: resources with a log, cursors, statements and statuses. It stands for global
// or a zone.
type Node struct {
	name string

	mu        sync.Mutex
	life      int
	head      mesh.Cursor
	compacted mesh.Revision
	resources map[mesh.Key]mesh.Resource
	log       []federation.Commit
	changed   chan struct{}

	cursors    map[string]mesh.Cursor
	statements map[federation.Subject]*federationpb.Statement
	statuses   map[string]map[string]string // zone, bucket + key -> value
	positions  map[string]Position
	crash      bool // at the next Apply

	// Bad says which specs the node refuses.
	Bad func(mesh.Resource) bool
	// Deleted counts deletions applied by batches.
	Deleted int
}

// Position is how far a zone's status book is kept.
type Position struct {
	Epoch    string
	Sequence uint64
}

// NewNode makes an empty node: "global", or a zone's name.
func NewNode(name string) *Node {
	n := &Node{
		name: name, resources: map[mesh.Key]mesh.Resource{}, changed: make(chan struct{}), cursors: map[string]mesh.Cursor{},
		statements: map[federation.Subject]*federationpb.Statement{}, statuses: map[string]map[string]string{}, positions: map[string]Position{},
	}
	n.NewLife()
	return n
}

// NewLife gives the store another incarnation with a log that begins here, as a restore does.
func (n *Node) NewLife() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life++
	n.head.Incarnation = mesh.Incarnation(fmt.Sprintf("%s-%d", n.name, n.life))
	n.log, n.compacted = nil, n.head.Revision
	n.wake()
}

func (n *Node) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Write puts (spec not nil) or deletes resources of the node's own origin in one revision.
func (n *Node) Write(kind mesh.Kind, name string, spec []byte, zones string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := mesh.Key{Origin: mesh.Origin(n.name), Kind: kind, Namespace: "ns", Name: name}
	old, was := n.resources[k]
	if spec == nil && !was {
		return
	}
	rev := n.head.Revision + 1
	ch := federation.Change{Resource: old, Deleted: spec == nil}
	if spec != nil {
		r := mesh.Resource{Key: k, APIVersion: "test/v1", UID: "u", Generation: old.Generation + 1, Created: old.Created, Changed: rev, Spec: spec}
		if !was {
			r.Created = rev
		} else {
			before := old
			ch.Before = &before
		}
		if zones != "" {
			r.Annotations = map[string]string{mesh.AnnotationZones: zones}
		}
		ch.Resource = r
	}
	n.commit([]federation.Change{ch})
}

// commit appends one revision; the lock is held.
func (n *Node) commit(changes []federation.Change) {
	n.head.Revision++
	for _, ch := range changes {
		if ch.Deleted {
			delete(n.resources, ch.Resource.Key)
		} else {
			n.resources[ch.Resource.Key] = ch.Resource
		}
	}
	n.log = append(n.log, federation.Commit{Cursor: n.head, Changes: changes})
	n.wake()
}

// Compact forgets all but the newest `keep` commits.
func (n *Node) Compact(keep int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.log) > keep {
		cut := len(n.log) - keep
		n.compacted = n.log[cut-1].Cursor.Revision
		n.log = slices.Clone(n.log[cut:])
		n.wake()
	}
}

// CrashAtNextApply makes the next Apply write its batch and fail before the cursor.
func (n *Node) CrashAtNextApply() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.crash = true
}

// Of returns what the node holds of an origin, as far as it concerns a zone ("" for all), by spec.
func (n *Node) Of(origin mesh.Origin, zone string) map[mesh.Key]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[mesh.Key]string{}
	for k, r := range n.resources {
		if k.Origin == origin && (zone == "" || r.InScope(zone)) {
			out[k] = fmt.Sprintf("%d %s %s", r.Changed, r.Annotations[mesh.AnnotationZones], r.Spec)
		}
	}
	return out
}

// Say keeps a statement if it is newer than the one of its subject.
func (n *Node) Say(st *federationpb.Statement) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := federation.SubjectOf(st)
	if old := n.statements[k]; old == nil || federation.Newer(st, old.GetIncarnation(), old.GetSequence()) {
		n.statements[k] = st
	}
}

// Statements returns what the node holds, but for one zone's own if `but` is set.
func (n *Node) Statements(but string) map[federation.Subject]uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[federation.Subject]uint64{}
	for k, st := range n.statements {
		if k.Zone != but {
			out[k] = st.GetSequence()
		}
	}
	return out
}

func (n *Node) statementList() []*federationpb.Statement {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.statements))
}

// Statuses returns what is kept of a zone.
func (n *Node) Statuses(zone string) map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.statuses[zone])
}

// end is one end of a session: the node toward one peer. It implements federation.Host.
type end struct {
	node   *Node
	peer   string      // key of the cursor
	origin mesh.Origin // of what the peer sends
	relay  func(*federationpb.Statement)
	seen   map[string]bool // of a full inventory being received
}

func (e *end) Follow(_ context.Context, from mesh.Cursor) (federation.Log, error) {
	e.node.mu.Lock()
	defer e.node.mu.Unlock()
	if from.Incarnation != e.node.head.Incarnation || from.Revision < e.node.compacted || from.Revision > e.node.head.Revision {
		return nil, federation.ErrLogGone
	}
	return &follower{e.node, from}, nil
}

type follower struct {
	node *Node
	at   mesh.Cursor
}

func (f *follower) Close() {}

func (f *follower) Next(ctx context.Context) (federation.Commit, error) {
	for {
		f.node.mu.Lock()
		if f.at.Incarnation != f.node.head.Incarnation || f.at.Revision < f.node.compacted {
			f.node.mu.Unlock()
			return federation.Commit{}, federation.ErrLogGone
		}
		if f.at.Revision < f.node.head.Revision {
			c := f.node.log[f.at.Revision-f.node.compacted]
			f.node.mu.Unlock()
			f.at = c.Cursor
			return c, nil
		}
		ch := f.node.changed
		f.node.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return federation.Commit{}, ctx.Err()
		}
	}
}

func (e *end) Snapshot(_ context.Context, begin func(mesh.Cursor), add func([]mesh.Resource) error) error {
	e.node.mu.Lock()
	at, all := e.node.head, slices.Collect(maps.Values(e.node.resources))
	e.node.mu.Unlock()
	begin(at)
	for part := range slices.Chunk(all, 3) {
		if err := add(part); err != nil {
			return err
		}
	}
	return nil
}

func (e *end) Apply(_ context.Context, b federation.Batch) ([]federation.Refusal, error) {
	n := e.node
	n.mu.Lock()
	defer n.mu.Unlock()
	var refused []federation.Refusal
	var changes []federation.Change
	named := maps.Clone(b.Keep)
	if named == nil {
		named = map[mesh.Key]struct{}{}
	}
	for _, r := range b.Puts {
		named[r.Key] = struct{}{}
		if n.Bad != nil && n.Bad(r) {
			refused = append(refused, federation.Refusal{Key: r.Key, Revision: r.Changed, Code: federation.CodeInvalid, Reason: "bad"})
			continue
		}
		changes = append(changes, federation.Change{Resource: r})
	}
	gone := b.Deletes
	if b.Snapshot {
		for k := range n.resources {
			if _, ok := named[k]; !ok && k.Origin == e.origin {
				gone = append(gone, k)
			}
		}
	}
	for _, k := range gone {
		if r, ok := n.resources[k]; ok {
			n.Deleted++
			changes = append(changes, federation.Change{Resource: r, Deleted: true})
		}
	}
	if len(changes) > 0 {
		n.commit(changes)
	}
	if n.crash {
		n.crash = false
		return nil, ErrCrash
	}
	n.cursors[e.peer] = b.Cursor
	return refused, nil
}

func (e *end) Statement(_ context.Context, st *federationpb.Statement) (string, error) {
	e.node.Say(st)
	if e.relay != nil {
		e.relay(st)
	}
	return "", nil
}

func (e *end) Status(_ context.Context, r *federationpb.StatusReport) error {
	n := e.node
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.statuses[e.peer]
	if m == nil {
		m = map[string]string{}
		n.statuses[e.peer] = m
	}
	if r.GetFull() && e.seen == nil {
		e.seen = map[string]bool{}
	}
	for _, rec := range r.GetRecords() {
		k := rec.GetBucket() + " " + rec.GetKey()
		if e.seen != nil {
			e.seen[k] = true
		}
		if len(rec.GetValue()) == 0 {
			delete(m, k)
			continue
		}
		m[k] = string(rec.GetValue())
	}
	if r.GetMore() {
		return nil
	}
	if e.seen != nil {
		maps.DeleteFunc(m, func(k, _ string) bool { return !e.seen[k] })
		e.seen = nil
	}
	n.positions[e.peer] = Position{r.GetEpoch(), r.GetSequence()}
	return nil
}

func (e *end) Handle(context.Context, federation.Effect) error { return nil }
