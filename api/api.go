package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// Mode says whose store is served.
type Mode string

// The modes.
const (
	ModeGlobal Mode = "global"
	ModeZone   Mode = "zone"
)

// Config of New. Store, Mode and Tokens are required; in ModeZone, ZoneName too.
type Config struct {
	Store store.Store
	// Origin owns what is written here. It follows from Mode and ZoneName and may be left empty.
	Origin   mesh.Origin
	Mode     Mode
	ZoneName string
	Tokens   *Tokens
	// Log and Registerer may be nil.
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Version    string // of the program, for the OpenAPI document
	// OnApply, when not nil, is told of every write that was committed, in the request's goroutine.
	OnApply func(ctx context.Context, r store.Result)
	// Check, when not nil, says what else is wrong with a resource that policy.Validate finds valid.
	Check func(r mesh.Resource) []policy.FieldError
	// Admit, when not nil, has the last word on a write that is valid by itself: what it finds wrong refuses the
	// request, as a wrong field does.
	Admit func(ctx context.Context, w store.Write) ([]policy.FieldError, error)
	// Inspect, when not nil, asks a proxy of a zone what it runs: what is "config", "stats" or "clusters".
	Inspect func(ctx context.Context, zone string, proxy mesh.ProxyID, what string) ([]byte, error)
	// Tap, when not nil, shows live requests in a zone until nothing more is to come, ctx ends or emit fails.
	Tap func(ctx context.Context, zone string, t mesh.Tap, emit func(mesh.TapEvent) error) error
	// Top, when not nil, tells what passes between pairs in a zone, as Tap does.
	Top func(ctx context.Context, zone string, t mesh.Top, emit func(mesh.Flows) error) error
	// Routes, when not nil, adds operations below /api/v1. They are authenticated like all others: a viewer
	// may GET, an admin may do everything.
	Routes func(huma.API, Authorizer)
	// Stopping, when not nil, is closed when the program stops: watches and status streams end, and their
	// readers resume elsewhere, while all other requests go on to their end.
	Stopping <-chan struct{}
	// Uplink, in ModeZone, says how the zone stands to global, in the words that global has for it; changed closes
	// when that may have changed.
	Uplink func() (now mesh.ZoneStatus, changed <-chan struct{})
	// LeafTTL, in ModeZone, is how long a proxy's certificate lives; 0 means identity.LeafTTL.
	LeafTTL time.Duration
	// MaxStreams bounds watches and status streams at one time; 0 means 512.
	MaxStreams int
	// MaxStreamsOfToken bounds those of one token, so that nobody takes them all; 0 means 32.
	MaxStreamsOfToken int
}

type server struct {
	cfg      Config
	authz    Authorizer
	failures failureLimits
	metrics  metrics
	streams  streams
	board    *board
	api      huma.API
	mux      *http.ServeMux
}

// New returns the handler of the API: /api/v1 and /openapi.json. Streams end when their request's
// context does, or when the store closes.
func New(cfg Config) (http.Handler, error) {
	switch {
	case cfg.Store == nil || cfg.Tokens == nil:
		return nil, errors.New("api: a store and tokens are required")
	case cfg.Mode == ModeGlobal && cfg.ZoneName == "" && (cfg.Origin == "" || cfg.Origin == mesh.OriginGlobal):
		cfg.Origin = mesh.OriginGlobal
	case cfg.Mode == ModeZone && cfg.ZoneName != "" && (cfg.Origin == "" || cfg.Origin == mesh.Origin(cfg.ZoneName)):
		cfg.Origin = mesh.Origin(cfg.ZoneName)
	default:
		return nil, errors.New("api: mode, zone name and origin don't fit together")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 512
	}
	if cfg.MaxStreamsOfToken == 0 {
		cfg.MaxStreamsOfToken = 32
	}
	s := &server{cfg: cfg, streams: streams{most: cfg.MaxStreams, each: cfg.MaxStreamsOfToken, open: map[string]int{}}, mux: http.NewServeMux()}
	s.board = &board{s: s}
	if err := s.metrics.init(cfg.Registerer); err != nil {
		return nil, err
	}
	s.api = humago.New(s.mux, s.humaConfig())
	s.registerKinds()
	s.registerRest()
	if cfg.Routes != nil {
		cfg.Routes(s.api, s.authz)
	}
	s.describe()
	return s.recovered(s.secured(s.measured(s.authenticate(s.routed())))), nil
}

func (s *server) humaConfig() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Comity", Version: s.cfg.Version,
				Description: "The resources of a Comity mesh, at global or at a zone.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas:         registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}},
			},
			Security: []map[string][]string{{"token": {}}},
		},
		OpenAPIPath: "/openapi",
		Formats: map[string]huma.Format{
			"application/json": huma.DefaultJSONFormat,
			"json":             huma.DefaultJSONFormat,
		},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{transformError},
	}
}

// routed answers what no operation matches as a problem, and hands over the rest.
func (s *server) routed() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody+1)
		h, pattern := s.mux.Handler(r)
		if pattern != "" {
			s.mux.ServeHTTP(w, r)
			return
		}
		probe := &probe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			fail(probe.status, CodeMethod, "", "%s is not possible here", r.Method).with("Allow", probe.header.Get("Allow")).write(w)
			return
		}
		p := fail(http.StatusNotFound, CodeNotFound, "see /openapi.json for what there is", "there is nothing at %.200s", r.URL.Path)
		if rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/"); ok {
			word, _, _ := strings.Cut(rest, "/")
			if k, known := policy.Lookup(word); known && word != k.Plural {
				p.Try = "write " + k.Plural
			}
		}
		p.write(w)
	})
}

// probe sees what the mux would answer.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

// secured sets the headers that keep a browser from doing more with an answer than showing it.
func (s *server) secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// recovered turns a panic into a 500 and a log line. It should never happen.
func (s *server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
				panic(v)
			}
			s.cfg.Log.ErrorContext(r.Context(), "a request panicked", "panic", v, "path", r.URL.Path, "stack", string(debug.Stack()))
			fail(http.StatusInternalServerError, CodeInternal, "see the control plane's log", "something is wrong on our side").write(w)
		}()
		next.ServeHTTP(w, r)
	})
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
	refused  prometheus.Counter
	streams  prometheus.Gauge
}

func (m *metrics) init(r prometheus.Registerer) error {
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "comity_api_requests_total", Help: "Requests by method and status code."}, []string{"method", "code"})
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "comity_api_request_seconds", Help: "Duration of requests that are no streams.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	})
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{Name: "comity_api_unauthenticated_total", Help: "Requests without a valid token."})
	m.streams = prometheus.NewGauge(prometheus.GaugeOpts{Name: "comity_api_streams", Help: "Watches and status streams now open."})
	if r == nil {
		return nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.refused, m.streams} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

// recorder remembers the status for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (s *server) measured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		if rec.status == 0 {
			rec.status = http.StatusOK
		}
		// The method is the client's to choose; a label must not be.
		method := "other"
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
			method = r.Method
		}
		s.metrics.requests.WithLabelValues(method, strconv.Itoa(rec.status)).Inc()
		if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
			s.metrics.seconds.Observe(time.Since(start).Seconds())
		}
	})
}

// reply is an answer of JSON, with headers.
func reply(status int, header map[string]string, v any) (*huma.StreamResponse, error) {
	var body bytes.Buffer
	if v != nil {
		enc := json.NewEncoder(&body)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return nil, err
		}
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		for k, v := range header {
			ctx.SetHeader(k, v)
		}
		if v != nil {
			ctx.SetHeader("Content-Type", "application/json")
		}
		ctx.SetStatus(status)
		_, _ = ctx.BodyWriter().Write(body.Bytes()) // the client has gone
	}}, nil
}

// handle wraps a handler so that its errors are problems.
func handle[I any](s *server, f func(context.Context, *I) (*huma.StreamResponse, error)) func(context.Context, *I) (*huma.StreamResponse, error) {
	return func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, problemOf(ctx, s.cfg.Log, err)
		}
		return out, nil
	}
}
