package fedtest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// Mesh is a global with zones and their sessions.
type Mesh struct {
	Global *Node
	Zones  map[string]*Zone

	mu    sync.Mutex
	links map[string]*federation.GlobalLink
	epoch uint64
}

// Zone is a node with what it reports and its present session.
type Zone struct {
	*Node
	Book     *federation.StatusBook
	statuses map[string]string // what the book holds
	seq      uint64
	books    int

	pipe *Pipe
	link *federation.ZoneLink
	wg   sync.WaitGroup
	errs chan error
}

// NewMesh makes a global and zones that are not connected.
func NewMesh(zones ...string) *Mesh {
	m := &Mesh{Global: NewNode("global"), Zones: map[string]*Zone{}, links: map[string]*federation.GlobalLink{}}
	for _, name := range zones {
		z := &Zone{Node: NewNode(name), errs: make(chan error, 1024)}
		z.NewBook()
		m.Zones[name] = z
	}
	return m
}

// NewBook begins another life of the status book, as a new process does. What it held is gone.
func (z *Zone) NewBook() {
	z.books++
	z.Book = federation.NewStatusBook(fmt.Sprintf("%s-book-%d", z.name, z.books))
	z.statuses = map[string]string{}
}

// SetStatus puts a status, or removes it if the value is empty.
func (z *Zone) SetStatus(key, value string) {
	k := federation.BucketProxies + " " + key
	if value == "" {
		delete(z.statuses, k)
	} else {
		z.statuses[k] = value
	}
	z.Book.Set(federation.BucketProxies, key, []byte(value))
}

// Export makes the next statement about a subject.
func (z *Zone) Export(subject string, withdrawn bool) {
	z.seq++
	st := &federationpb.Statement{
		Kind: federation.StatementExport, Zone: z.name, Subject: subject, Incarnation: "life", Sequence: z.seq, Withdrawn: withdrawn,
	}
	z.Say(st)
	if z.link != nil {
		z.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	}
}

// Connect opens a session over a Pipe of that buffer and hold; one that is open is cut first.
func (m *Mesh) Connect(ctx context.Context, name string, buffer int, hold time.Duration) {
	z := m.Zones[name]
	m.Disconnect(name)
	p := NewPipe(buffer, hold)
	z.pipe = p

	z.mu.Lock()
	cfg := federation.ZoneConfig{
		Zone: name, Incarnation: "life", Version: "test", Down: z.cursors["global"], UpHead: z.head, Statuses: z.Book,
	}
	z.mu.Unlock()
	for _, st := range z.statementList() {
		if st.GetZone() != name {
			cfg.Heads = append(cfg.Heads, federation.HeadOf(st))
		}
	}
	zs := federation.NewZoneSession(cfg)
	for _, st := range z.statementList() {
		if st.GetZone() == name {
			zs.Offer(st)
		}
	}
	z.link = federation.NewZoneLink(zs, &end{node: z.Node, peer: "global", origin: mesh.OriginGlobal})
	z.wg.Go(func() {
		z.errs <- z.link.Run(ctx, p.Zone())
		p.Cut()
	})
	z.wg.Go(func() {
		z.errs <- m.serve(ctx, name, p)
		p.Cut()
	})
}

// serve is global's side of a connection.
func (m *Mesh) serve(ctx context.Context, name string, p *Pipe) error {
	first, err := p.Global().Recv()
	if err != nil {
		return err
	}
	g := m.Global
	m.mu.Lock()
	m.epoch++
	g.mu.Lock()
	at := g.positions[name]
	cfg := federation.GlobalConfig{
		Zone: name, Incarnation: g.head.Incarnation, Epoch: m.epoch, Up: g.cursors[name], StatusEpoch: at.Epoch, StatusSequence: at.Sequence,
	}
	g.mu.Unlock()
	for _, st := range g.statementList() {
		if st.GetZone() == name {
			cfg.Heads = append(cfg.Heads, federation.HeadOf(st))
		}
	}
	gs, err := federation.NewGlobalSession(cfg, first.GetHello())
	if err != nil {
		m.mu.Unlock()
		return err
	}
	link := federation.NewGlobalLink(gs, &end{node: g, peer: name, origin: mesh.Origin(name), relay: m.relay})
	m.links[name] = link
	gs.RelayAll(g.statementList())
	m.mu.Unlock()
	err = link.Run(ctx, p.Global())
	m.mu.Lock()
	if m.links[name] == link {
		delete(m.links, name)
	}
	m.mu.Unlock()
	return err
}

func (m *Mesh) relay(st *federationpb.Statement) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.links {
		l.Do(func(s *federation.GlobalSession) { s.Relay(st) })
	}
}

// Disconnect cuts a zone's session and waits for both ends.
func (m *Mesh) Disconnect(name string) {
	z := m.Zones[name]
	if z.pipe != nil {
		z.pipe.Cut()
		z.wg.Wait()
		z.pipe, z.link = nil, nil
	}
}

// Errors takes the errors with which sessions ended so far.
func (m *Mesh) Errors() []error {
	var out []error
	for _, z := range m.Zones {
		for len(z.errs) > 0 {
			out = append(out, <-z.errs)
		}
	}
	return out
}

// Converged reports what differs, nil for nothing.
func (m *Mesh) Converged() error {
	for name, z := range m.Zones {
		if want, have := m.Global.Of(mesh.OriginGlobal, name), z.Of(mesh.OriginGlobal, ""); !maps.Equal(want, have) {
			return fmt.Errorf("zone %s has %v of global, not %v", name, have, want)
		}
		if want, have := z.Of(mesh.Origin(name), ""), m.Global.Of(mesh.Origin(name), ""); !maps.Equal(want, have) {
			return fmt.Errorf("global has %v of zone %s, not %v", have, name, want)
		}
		if want, have := m.Global.Statements(name), z.Statements(name); !maps.Equal(want, have) {
			return fmt.Errorf("zone %s has the statements %v, not %v", name, have, want)
		}
		if have := m.Global.Statuses(name); !maps.Equal(z.statuses, have) {
			return fmt.Errorf("global has the statuses %v of zone %s, not %v", have, name, z.statuses)
		}
		for k, seq := range z.Node.Statements("") {
			if k.Zone == name && m.Global.Statements("")[k] != seq {
				return fmt.Errorf("global has statement %v at %d, not %d", k, m.Global.Statements("")[k], seq)
			}
		}
	}
	return nil
}
