package metrics

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/internal/signals"
)

const (
	ownPrefix   = "comity_"
	envoyPrefix = "envoy_"
	// scrapeTime bounds one answer to Prometheus.
	scrapeTime = 5 * time.Second
)

// Config of an Exporter.
type Config struct {
	// Own are the agent's metrics.
	Own prometheus.Gatherer
	// Envoy writes the answer of Envoy's admin interface to a GET of a path; nil where there is no Envoy.
	Envoy func(ctx context.Context, path string, w io.Writer) error
	// Self is asked at each scrape: a proxy learns who it is when it is enrolled.
	Self func() Self
	// Application is the URL of the application's own metrics; empty: it has none.
	Application string
	Log         *slog.Logger
}

// Exporter answers Prometheus for a proxy, in its text form or OpenMetrics. It is an http.Handler. With the query parameter
// include=envoy the answer has all that Envoy counts, too.
type Exporter struct {
	config  Config
	traffic *Traffic
	app     *application

	mu  sync.Mutex
	was string // what was wrong with the application when it was asked last
}

// NewExporter makes one.
func NewExporter(c Config) *Exporter {
	return &Exporter{config: c, traffic: NewTraffic(), app: newApplication(c.Application)}
}

// ServeHTTP answers with what there is: whatever is missing fails nothing else.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeTime)
	defer cancel()
	var app []*dto.MetricFamily
	var asking sync.WaitGroup
	asking.Go(func() { app = e.application(ctx) })
	proxy := append(e.own(), e.envoy(ctx, r.URL.Query().Get("include") == "envoy")...)
	asking.Wait()
	given := func(f []*dto.MetricFamily) prometheus.Gatherer {
		return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return f, nil })
	}
	// What contradicts what came before, as a series told twice, is left out by the library, and the rest is told.
	all, err := prometheus.Gatherers{given(proxy), given(app)}.Gather()
	if err != nil {
		e.config.Log.Debug("metrics contradict each other", "reason", err)
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	enc := expfmt.NewEncoder(w, format)
	for _, f := range all {
		if err := enc.Encode(f); err != nil {
			return // the reader has gone
		}
	}
	if c, ok := enc.(expfmt.Closer); ok {
		_ = c.Close() // as above
	}
}

// own are the agent's metrics. Those of its process have its name before theirs, so that they are not taken for the application's.
func (e *Exporter) own() []*dto.MetricFamily {
	out, err := e.config.Own.Gather()
	if err != nil {
		e.config.Log.Warn("some of the agent's metrics can't be read", "reason", err)
	}
	for _, f := range out {
		if !strings.HasPrefix(f.GetName(), ownPrefix) {
			f.Name = proto.String(ownPrefix + "agent_" + f.GetName())
		}
	}
	return out
}

// application asks the application, and says whether it answered.
func (e *Exporter) application(ctx context.Context) []*dto.MetricFamily {
	if e.app == nil {
		return nil
	}
	out, err := e.app.read(ctx)
	up, now := 1.0, ""
	if err != nil {
		up, now, out = 0, err.Error(), nil
	}
	e.mu.Lock()
	news := now != e.was
	e.was = now
	e.mu.Unlock()
	if news && err != nil {
		e.config.Log.Warn("the application's metrics can't be read", "reason", err)
	}
	return append(out, &dto.MetricFamily{
		Name: proto.String(signals.AppUp), Help: proto.String("1 if the application's own metrics are in this answer."),
		Type: dto.MetricType_GAUGE.Enum(), Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: proto.Float64(up)}}},
	})
}

// envoy is what Envoy counts, in our words and, if wanted, in its own.
func (e *Exporter) envoy(ctx context.Context, raw bool) []*dto.MetricFamily {
	if e.config.Envoy == nil {
		return nil
	}
	of, pairs := e.pairs(ctx)
	out := append(pairs, e.traffic.names.state(of)...)
	out = append(out, rules(of)...)
	if f := authorization(of); f != nil {
		out = append(out, f)
	}
	if raw {
		for f := range maps.Values(of) {
			out = append(out, f)
		}
	}
	return out
}

// pairs are what Envoy counts, and the metrics of pairs that are made of it; nil if it does not answer.
func (e *Exporter) pairs(ctx context.Context) (of families, pairs []*dto.MetricFamily) {
	// An Envoy that is asked collects the histograms of its threads, and answers before it has them.
	_ = e.config.Envoy(ctx, "/stats?usedonly&filter="+url.QueryEscape("^$"), io.Discard)
	if of = e.ask(ctx, ""); of == nil {
		return nil, nil
	}
	again := func() families { return e.ask(ctx, `^cluster\..*upstream_rq_[1-5]xx$`) }
	return of, e.traffic.Read(e.config.Self(), of, again)
}

// ask returns what Envoy counted, of what the filter matches; nothing if it is not there, which comity_agent_envoy_ready says.
func (e *Exporter) ask(ctx context.Context, filter string) families {
	var b bytes.Buffer
	if err := e.config.Envoy(ctx, "/stats/prometheus?usedonly&filter="+url.QueryEscape(filter), &b); err != nil {
		e.config.Log.Debug("Envoy's metrics can't be read", "reason", err)
		return nil
	}
	out, err := parse(&b)
	if err != nil {
		e.config.Log.Warn("Envoy's metrics can't be understood", "reason", err)
	}
	return out
}
