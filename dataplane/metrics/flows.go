package metrics

import (
	"context"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

// Follow tells in each interval how much the metrics of pairs grew, the same that Prometheus is told, until ctx ends, with nil, or emit
// fails. The first is empty: what passes from then on is in one of the next. An Envoy that does not answer is told of when it does.
func (e *Exporter) Follow(ctx context.Context, t mesh.Top, emit func(mesh.Flows) error) error {
	if err := t.Check(); err != nil {
		return err
	}
	before, began := e.totals(ctx), time.Now()
	if err := emit(mesh.Flows{}); err != nil {
		return err
	}
	tick := time.NewTicker(t.Interval())
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := e.totals(ctx)
		if now == nil {
			continue
		}
		if before == nil { // what passed until now is of no interval
			before, began = now, time.Now()
			continue
		}
		out := mesh.Flows{Milliseconds: time.Since(began).Milliseconds()}
		for key, n := range now {
			if f := n.Since(before[key]); !f.Empty() {
				out.Flows = append(out.Flows, f)
			}
		}
		before, began = now, time.Now()
		if err := emit(out); err != nil {
			return err
		}
	}
}

// totals are the metrics of pairs, nil if Envoy does not answer.
func (e *Exporter) totals(ctx context.Context) map[mesh.FlowKey]mesh.Flow {
	ctx, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	of, pairs := e.pairs(ctx)
	if of == nil {
		return nil
	}
	out := map[mesh.FlowKey]mesh.Flow{}
	for _, f := range pairs {
		for _, m := range f.GetMetric() {
			l := labelled{}
			for _, p := range m.GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			key := mesh.FlowKey{
				Reporter: l[signals.Reporter], Protocol: l[signals.Protocol],
				Source: l[signals.Source], SourceNamespace: l[signals.SourceNamespace], SourceZone: l[signals.SourceZone],
				Destination: l[signals.Destination], DestinationNamespace: l[signals.DestinationNamespace], DestinationZone: l[signals.DestinationZone],
			}
			flow := out[key]
			flow.FlowKey = key
			flow.Add(flowOf(f.GetName(), l, m))
			out[key] = flow
		}
	}
	return out
}

// flowOf is what one series says.
func flowOf(name string, l labelled, m *dto.Metric) (f mesh.Flow) {
	n := uint64(m.GetCounter().GetValue())
	switch name {
	case signals.Requests:
		f.Requests = map[string]uint64{l[signals.CodeClass]: n}
	case signals.GRPCErrors:
		f.GRPCErrors = map[string]uint64{l[signals.GRPCStatus]: n}
	case signals.TCPConnections:
		f.Connections = n
	case signals.TCPOpen:
		f.Open = uint64(m.GetGauge().GetValue())
	case signals.TCPBytes:
		if l[signals.Direction] == signals.Sent {
			f.Sent = n
		} else {
			f.Received = n
		}
	case signals.RequestDuration:
		h := m.GetHistogram()
		var below uint64
		for _, b := range h.GetBucket() {
			if math.IsInf(b.GetUpperBound(), 1) {
				break // it is the last, and has no bound
			}
			f.Bounds = append(f.Bounds, b.GetUpperBound())
			f.Durations = append(f.Durations, b.GetCumulativeCount()-below)
			below = b.GetCumulativeCount()
		}
		f.Durations = append(f.Durations, h.GetSampleCount()-below)
	}
	return f
}
