package publish

import (
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// withdrawn knows since when the endpoints that are published are without a drained workload. It is read by others
// than the publisher.
type withdrawn struct {
	mu    sync.Mutex
	since map[mesh.ProxyID]time.Time
}

// published notes which workloads are drained in what was just published in full.
func (w *withdrawn) published(workloads []topology.Workload, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[mesh.ProxyID]time.Time{}
	for _, x := range workloads {
		if !x.Draining {
			continue
		}
		id := x.ProxyID()
		if next[id] = now; !w.since[id].IsZero() {
			next[id] = w.since[id]
		}
	}
	w.since = next
}

// Withdrawn counts the connected proxies of the zone, and those that have acknowledged endpoints without a drained
// workload: requests from other zones come through this zone's ingresses, so there is nobody else to ask. done
// says that such endpoints are published and all have.
func (p *Publisher) Withdrawn(workload mesh.ProxyID) (acked, total int, done bool) {
	p.withdrawn.mu.Lock()
	since := p.withdrawn.since[workload]
	p.withdrawn.mu.Unlock()
	list := p.server.Proxies()
	for _, x := range list {
		if !since.IsZero() && (x.Current || x.Settled.After(since)) {
			acked++
		}
	}
	return acked, len(list), !since.IsZero() && acked == len(list)
}
