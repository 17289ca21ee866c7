package names

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// Hub tells agents which names they answer. Safe for concurrent use.
type Hub struct {
	mu     sync.Mutex
	agents map[*Agent]struct{}
	// tables are by topology.Topology.NamesKey; of says whose is which.
	tables map[string]*enrolpb.ZoneNotice
	of     map[mesh.ProxyID]string
}

// NewHub makes a hub that has nothing to tell.
func NewHub() *Hub {
	return &Hub{agents: map[*Agent]struct{}{}, tables: map[string]*enrolpb.ZoneNotice{}, of: map[mesh.ProxyID]string{}}
}

// Know takes in what names there are now, once their listeners are published. A table that is as before keeps its notice, so
// that nobody is told again.
func (h *Hub) Know(t *topology.Topology) {
	tables, of := map[string]*enrolpb.ZoneNotice{}, map[mesh.ProxyID]string{}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range t.Workloads {
		if w.Spec.VirtualAddresses == nil {
			continue
		}
		key := t.NamesKey(w)
		of[w.ProxyID()] = key
		if tables[key] != nil {
			continue
		}
		tables[key] = notice(t.Names(w))
		if old := h.tables[key]; old != nil && proto.Equal(old, tables[key]) {
			tables[key] = old
		}
	}
	h.tables, h.of = tables, of
	for a := range h.agents {
		if n := tables[of[a.id]]; n != a.told && n != nil {
			a.signal()
		}
	}
}

func notice(list []topology.Name) *enrolpb.ZoneNotice {
	out := &enrolpb.Names{}
	for _, n := range list {
		out.Names = append(out.Names, &enrolpb.Name{Hosts: append([]string{n.Host}, n.Aliases...), Number: uint32(n.Number)})
	}
	slices.SortFunc(out.Names, func(a, b *enrolpb.Name) int { return int(a.GetNumber()) - int(b.GetNumber()) })
	return &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Names{Names: out}}
}

// Agent is one stream.
type Agent struct {
	hub  *Hub
	id   mesh.ProxyID
	wake chan struct{}
	told *enrolpb.ZoneNotice
}

// Open begins the stream of an agent; Close ends it.
func (h *Hub) Open(id mesh.ProxyID) *Agent {
	a := &Agent{hub: h, id: id, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[a] = struct{}{}
	a.signal() // there may be something to tell already
	return a
}

// Close ends it.
func (a *Agent) Close() {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	delete(a.hub.agents, a)
}

func (a *Agent) signal() {
	select {
	case a.wake <- struct{}{}:
	default: // it is to look already
	}
}

// Wake signals that there may be something to tell.
func (a *Agent) Wake() <-chan struct{} { return a.wake }

// Next is what to tell, nil for nothing: an agent without virtual addresses, or one that knows.
func (a *Agent) Next() *enrolpb.ZoneNotice {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	key, ok := a.hub.of[a.id]
	n := a.hub.tables[key]
	if !ok || n == a.told {
		return nil
	}
	a.told = n
	return n
}
