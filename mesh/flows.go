package mesh

import (
	"fmt"
	"slices"
	"time"
)

// Bounds of a Top.
const (
	TopMinInterval = time.Second
	TopMaxInterval = time.Minute
	TopMaxTime     = 30 * time.Minute
)

// Top asks how much passes between pairs.
type Top struct {
	Milliseconds int    `json:"ms,omitempty"`      // between two answers; 0 is TopMinInterval
	ByProxy      bool   `json:"byProxy,omitempty"` // each proxy's by itself, instead of all of a zone added up
	By           string `json:"by,omitempty"`      // who asks, for logs
}

// Interval is the time between two answers.
func (t Top) Interval() time.Duration {
	if t.Milliseconds == 0 {
		return TopMinInterval
	}
	return time.Duration(t.Milliseconds) * time.Millisecond
}

// Check says what is wrong with what others wrote.
func (t Top) Check() error {
	if i := t.Interval(); i < TopMinInterval || i > TopMaxInterval {
		return fmt.Errorf("the interval must be from %s to %s", TopMinInterval, TopMaxInterval)
	}
	return nil
}

// Flows is what passed in one interval, or of a zone that has just begun to tell, who tells. Whatever passes while somebody listens is
// in one Flows.
type Flows struct {
	Zone string `json:"zone,omitempty"`
	// Milliseconds over which it passed.
	Milliseconds int64  `json:"ms"`
	Flows        []Flow `json:"flows,omitempty"`
	// Proxies is how many were asked and answered; Problems are those that were asked and can't answer, or why the zone can't.
	Proxies  int          `json:"proxies"`
	Problems []TapProblem `json:"problems,omitempty"`
}

// FlowKey says between whom; its words are the labels of the metrics (internal/signals).
type FlowKey struct {
	Proxy                string `json:"proxy,omitempty"` // ProxyID of who tells, if proxies are told apart
	Reporter             string `json:"reporter"`
	Source               string `json:"source"`
	SourceNamespace      string `json:"sourceNamespace"`
	SourceZone           string `json:"sourceZone"`
	Destination          string `json:"destination"`
	DestinationNamespace string `json:"destinationNamespace"`
	DestinationZone      string `json:"destinationZone"`
	Protocol             string `json:"protocol"`
}

// Compare orders keys by destination, then source, then the rest.
func (k FlowKey) Compare(o FlowKey) int {
	return slices.Compare(k.words(), o.words())
}

func (k FlowKey) words() []string {
	return []string{
		k.DestinationNamespace, k.Destination, k.DestinationZone, k.SourceNamespace, k.Source, k.SourceZone, k.Reporter, k.Protocol, k.Proxy,
	}
}

// Flow is what passed between a pair: how much the metrics of the same names grew.
type Flow struct {
	FlowKey
	Requests   map[string]uint64 `json:"requests,omitempty"`   // by class: "2xx"
	GRPCErrors map[string]uint64 `json:"grpcErrors,omitempty"` // by status: "UNAVAILABLE"
	// Durations counts requests by how long they took: those of Durations[i] took at most Bounds[i] seconds, and more than the bound
	// before; the last, which has no bound, longer than all.
	Bounds      []float64 `json:"bounds,omitempty"`
	Durations   []uint64  `json:"durations,omitempty"`
	Connections uint64    `json:"connections,omitempty"` // of TCP, that began
	Open        uint64    `json:"open,omitempty"`        // of TCP, now
	Sent        uint64    `json:"sent,omitempty"`        // bytes of TCP
	Received    uint64    `json:"received,omitempty"`
}

// Empty reports whether nothing passed and nothing is open.
func (f Flow) Empty() bool {
	return len(f.Requests) == 0 && len(f.GRPCErrors) == 0 && len(f.Durations) == 0 && f.Connections+f.Open+f.Sent+f.Received == 0
}

// Add adds what another flow of the same pair has.
func (f *Flow) Add(o Flow) {
	f.Requests, f.GRPCErrors = addCounts(f.Requests, o.Requests), addCounts(f.GRPCErrors, o.GRPCErrors)
	if len(f.Durations) == 0 {
		f.Bounds, f.Durations = o.Bounds, append([]uint64(nil), o.Durations...)
	} else {
		for i, n := range o.Durations { // all proxies have the same bounds; of those of another release what there is
			if i < len(f.Durations) {
				f.Durations[i] += n
			}
		}
	}
	f.Connections += o.Connections
	f.Open += o.Open
	f.Sent += o.Sent
	f.Received += o.Received
}

// Since is what was added to earlier totals; those that are smaller now have begun anew. What is open is open now.
func (f Flow) Since(earlier Flow) Flow {
	f.Requests, f.GRPCErrors = countsSince(f.Requests, earlier.Requests), countsSince(f.GRPCErrors, earlier.GRPCErrors)
	some, durations := false, make([]uint64, len(f.Durations))
	for i, n := range f.Durations {
		if durations[i] = n; i < len(earlier.Durations) {
			durations[i] = since(n, earlier.Durations[i])
		}
		some = some || durations[i] > 0
	}
	if f.Durations = durations; !some {
		f.Bounds, f.Durations = nil, nil
	}
	f.Connections, f.Sent, f.Received = since(f.Connections, earlier.Connections), since(f.Sent, earlier.Sent), since(f.Received, earlier.Received)
	return f
}

func since(now, earlier uint64) uint64 {
	if now < earlier {
		return now
	}
	return now - earlier
}

func countsSince(now, earlier map[string]uint64) map[string]uint64 {
	var out map[string]uint64
	for k, n := range now {
		if n = since(n, earlier[k]); n > 0 {
			out = addCounts(out, map[string]uint64{k: n})
		}
	}
	return out
}

func addCounts(into, more map[string]uint64) map[string]uint64 {
	for k, n := range more {
		if into == nil {
			into = map[string]uint64{}
		}
		into[k] += n
	}
	return into
}
