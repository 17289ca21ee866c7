package telemetry

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/comity-mesh/comity/internal/version"
)

// NewRegistry returns a metrics registry of its own with the process's and the Go runtime's figures and
// comity_build_info{program,version,commit,go}, which is always 1.
func NewRegistry(program string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "comity_build_info",
		Help: "Always 1; the labels say which build is running.",
		ConstLabels: prometheus.Labels{
			"program": program, "version": version.Version, "commit": version.Commit, "go": runtime.Version(),
		},
	})
	build.Set(1)
	r.MustRegister(
		build,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
	)
	return r
}

// Health collects what a program needs to be ready. The zero value is ready to use, and ready.
type Health struct {
	mu     sync.Mutex
	checks []check
}

type check struct {
	name string
	ok   func(context.Context) error
}

// checkLimit bounds one readiness check; they run side by side.
const checkLimit = 2 * time.Second

// Require makes readiness depend on a check. It must be safe to call at any time, from several goroutines,
// and return within 2 seconds of its context's end. Its error is shown to whoever may read /readyz.
func (h *Health) Require(name string, ok func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, check{name, ok})
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready  bool          `json:"ready"`
	Checks []CheckResult `json:"checks"`
}

// CheckResult is one check's part of it.
type CheckResult struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Ready runs all checks, side by side, and returns their results ordered by name.
func (h *Health) Ready(ctx context.Context) Readiness {
	h.mu.Lock()
	checks := slices.Clone(h.checks)
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()

	r := Readiness{Ready: true, Checks: make([]CheckResult, len(checks))}
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			r.Checks[i] = CheckResult{Name: c.name, OK: true}
			if err := c.ok(ctx); err != nil {
				r.Checks[i].OK, r.Checks[i].Error = false, err.Error()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(r.Checks, func(a, b CheckResult) int { return strings.Compare(a.Name, b.Name) })
	r.Ready = !slices.ContainsFunc(r.Checks, func(c CheckResult) bool { return !c.OK })
	return r
}

// Handler serves
//
//	GET /healthz   200 "ok" while the process answers: it says nothing about what it depends on
//	GET /readyz    200 or 503 and a Readiness in JSON
//	GET /metrics   the registry, in Prometheus' and OpenMetrics' text form
func Handler(h *Health, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the reader has gone: nobody to tell
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready := h.Ready(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ready.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(ready) // the reader has gone: nobody to tell
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}
