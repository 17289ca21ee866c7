package envoy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/comity-mesh/comity/dataplane/metrics"
	"github.com/comity-mesh/comity/internal/signals"
)

// exporter is what the agent of a proxy tells Prometheus.
func (w *world) exporter(t *testing.T, name, application string) *metrics.Exporter {
	t.Helper()
	p := w.sidecar(t, name)
	zone := w.zones[0]
	if name == "pay-1" || name == "gate" {
		zone = w.zones[1]
	}
	return metrics.NewExporter(metrics.Config{
		Own: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Application: application,
		Self: func() metrics.Self {
			return metrics.Self{Role: p.id.Role, Identity: fmt.Sprintf("spiffe://%s/ns/shop/sa/%s", zone.TrustDomain, name), Zone: zone.Zone}
		},
		Envoy: func(ctx context.Context, path string, to io.Writer) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
			if err != nil {
				return err
			}
			r, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			_, err = io.Copy(to, r.Body)
			return err
		},
	})
}

// scraped is one answer to Prometheus.
type scraped map[string]*dto.MetricFamily

func scrape(t *testing.T, e *metrics.Exporter) scraped {
	t.Helper()
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	p := expfmt.NewTextParser(model.LegacyValidation)
	got, err := p.TextToMetricFamilies(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sum adds up the series whose labels have the values, given as "name=value"; of a histogram it is how many were observed.
func (s scraped) sum(name string, labels ...string) float64 {
	var sum float64
	for _, m := range s[name].GetMetric() {
		has := map[string]bool{}
		for _, l := range m.GetLabel() {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		ok := true
		for _, l := range labels {
			ok = ok && has[l]
		}
		if ok {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// text is the series of some metrics, for messages.
func (s scraped) text(prefix string) string {
	var b strings.Builder
	for name, f := range s {
		if strings.HasPrefix(name, prefix) {
			_, _ = expfmt.MetricFamilyToText(&b, f)
		}
	}
	return b.String()
}

// is fails unless series add up to a number.
func (s scraped) is(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	if got := s.sum(name, labels...); got != want {
		t.Errorf("%s%v is %v, not %v, of\n%s", name, labels, got, want, s.text(name))
	}
}

// TestMetricsOfPairs: of 100 requests with 5 errors both ends tell 100 and 5, with who asked whom from zone to zone, however often a
// request was tried and whoever answered it.
func TestMetricsOfPairs(t *testing.T) {
	w := newWorld(t)
	web, pay := w.exporter(t, "web", ""), w.exporter(t, "pay-1", "")
	h := client(t, false)
	for i := range 100 {
		c := call{to: payHost}
		if i%20 == 0 {
			c.header = map[string]string{doStatus: "500"}
		}
		if _, err := w.tryWith(t, h, c); err != nil {
			t.Fatal(err)
		}
	}
	toPay := []string{"destination=pay", "destination_namespace=shop", "destination_zone=two", "source_zone=one", "protocol=http"}
	client := append(toPay, "reporter=client", "source=web", "source_namespace=shop")
	server := append(toPay, "reporter=server", "source=unknown", "source_namespace=unknown")
	got := scrape(t, web)
	got.is(t, 100, signals.Requests)
	got.is(t, 100, signals.Requests, client...)
	got.is(t, 5, signals.Requests, append(client, "code_class=5xx")...)
	got.is(t, 95, signals.Requests, append(client, "code_class=2xx")...)
	got.is(t, 100, signals.RequestDuration, client...)
	got = scrape(t, pay)
	got.is(t, 100, signals.Requests, server...)
	got.is(t, 5, signals.Requests, append(server, "code_class=5xx")...)
	got.is(t, 100, signals.RequestDuration, server...)
	// Envoy measures whole milliseconds.
	w.call(t, call{to: payHost, header: map[string]string{doDelay: "40ms"}})
	for _, at := range []*metrics.Exporter{web, pay} {
		if sum := scrape(t, at)[signals.RequestDuration].GetMetric()[0].GetHistogram().GetSampleSum(); sum < 0.04 || sum > 100 {
			t.Errorf("101 requests, one of 40 ms, took %v s", sum)
		}
	}
}
