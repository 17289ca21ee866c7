package ads

import (
	"context"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// Observer is told what proxies do. All calls come from one goroutine, in the order of the events, and
// may take their time: acknowledgements that pile up meanwhile are merged to the newest of each proxy.
// Functions that are nil are passed over.
type Observer struct {
	// OnAck says that a proxy has acknowledged everything of a view at a revision of the zone's store.
	OnAck func(proxy mesh.ProxyID, view snapshot.ViewKey, revision mesh.Revision)
	// OnReject says that a proxy refuses a resource, which is in quarantine for the view from now on.
	OnReject func(Rejection)
	// OnRefuse says that a proxyless client refuses a part of what it was sent. It keeps what it had of that; others
	// of its view are not concerned.
	OnRefuse func(Proxy)
	// OnLift says that a quarantine ended because the resource was changed or removed.
	OnLift func(snapshot.Lifted)
	// OnConnect and OnDisconnect follow the streams. A proxy that comes back at once on a newer stream
	// may show as two OnConnect in a row.
	OnConnect    func(Proxy)
	OnDisconnect func(Proxy)
}

// Rejection is one resource that one proxy refuses.
type Rejection struct {
	Proxy   mesh.ProxyID
	View    snapshot.ViewKey
	Type    snapshot.Type
	Name    string
	Version string
	Error   string // Envoy's own words, at most 1 KiB
	Sources []mesh.Key
}

// events is the queue before the observer. It is bounded by the number of proxies and of resources:
// of each proxy's acknowledgements and connections it keeps the newest, of each rejection one.
type events struct {
	mu    sync.Mutex
	order []any // keys of pending, oldest first
	heads map[any]func()
	wake  chan struct{}
}

func newEvents() *events {
	return &events{heads: make(map[any]func()), wake: make(chan struct{}, 1)}
}

type (
	ackKey struct { // of a stream: an acknowledgement must not overtake the end of an older one
		proxy mesh.ProxyID
		since time.Time
	}
	connectionKey struct {
		proxy mesh.ProxyID
		since time.Time
		up    bool
	}
	liftKey   snapshot.Lifted
	refuseKey mesh.ProxyID
	rejectKey struct {
		view          snapshot.ViewKey
		typ           snapshot.Type
		name, version string
	}
)

// add queues a call; a pending one with the same key is replaced and keeps its place.
func (q *events) add(key any, call func()) {
	q.mu.Lock()
	if _, pending := q.heads[key]; !pending {
		q.order = append(q.order, key)
	}
	q.heads[key] = call
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run delivers until ctx ends.
func (q *events) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		for ctx.Err() == nil {
			call, ok := q.next()
			if !ok {
				break
			}
			call()
		}
	}
}

func (q *events) next() (func(), bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		q.order = nil
		return nil, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	call := q.heads[key]
	delete(q.heads, key)
	return call, true
}
