package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/console"
	"github.com/comity-mesh/comity/global-cp/internal/fedserver"
	"github.com/comity-mesh/comity/global-cp/internal/trust"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/ready"
	"github.com/comity-mesh/comity/store/retain"
	"github.com/comity-mesh/comity/xds/check"
)

// grace is what all parts together have to stop in.
const grace = 10 * time.Second

// drain is what requests under way have of it.
const drain = 2 * time.Second

// addresses are where a running global listens.
type addresses struct{ API, Federation string }

// parts are what a global is made of, before it runs.
type parts struct {
	settings settings
	log      *slog.Logger
	store    *ready.Store
	trust    *trust.Authority
	fed      *fedserver.Server
	tokens   *api.Tokens
	metrics  *prometheus.Registry
	handler  http.Handler
	tls      *tls.Config
	stopping chan struct{} // closed when the API stops
}

// serve runs global until ctx ends. ready, when not nil, is told where it listens.
func serve(ctx context.Context, s settings, stdout, stderr io.Writer, ready func(addresses)) (err error) {
	log, err := telemetry.NewLogger(stderr, s.Log)
	if err != nil {
		return &fault.Error{Code: "CONFIG-LOG", What: "the log can't be written as asked", Err: err, Exit: fault.ExitUsage}
	}
	p := &parts{settings: s, log: log, metrics: telemetry.NewRegistry(program), stopping: make(chan struct{})}
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return &fault.Error{Code: "GLOBAL-DATA", What: "the data folder can't be made", Err: err, Docs: "docs/configuration.md"}
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.store.Close()) }()

	fedListener, err := listen(ctx, "listen.federation", s.Listen.Federation)
	if err != nil {
		return err
	}
	apiListener, err := listen(ctx, "listen.api", s.Listen.API)
	if err != nil {
		return errors.Join(err, fedListener.Close())
	}
	at := addresses{API: apiListener.Addr().String(), Federation: fedListener.Addr().String()}
	if err := p.assemble(at); err != nil {
		return errors.Join(err, fedListener.Close(), apiListener.Close())
	}
	if err := p.bootstrap(ctx, stdout); err != nil {
		return errors.Join(err, fedListener.Close(), apiListener.Close())
	}
	log.InfoContext(ctx, "global is up", "version", version.Version, "api", at.API, "federation", at.Federation,
		"trust_domain", s.TrustDomain, "pin", p.trust.Pin().String())
	if ready != nil {
		ready(at)
	}
	server := &http.Server{
		Handler: p.handler, TLSConfig: p.tls, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(sync.OnceFunc(func() { close(p.stopping) }))
	telemetry.CountUnserved(server, telemetry.Refused(p.metrics).WithLabelValues("api"))
	return lifecycle.Run(ctx, log, grace,
		lifecycle.Component{Name: "retention", Run: p.retain},
		lifecycle.Component{Name: "federation", Run: func(ctx context.Context) error { return p.fed.Run(ctx, fedListener) }},
		lifecycle.HTTPServer("api", server, apiListener, drain),
	)
}

func listen(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &fault.Error{Code: "GLOBAL-LISTEN", What: key + " can't listen on " + addr, Err: err,
			Try: "stop what uses the address, or choose another one", Docs: "docs/configuration.md"}
	}
	return l, nil
}

// open reads what lasts: store and authority.
func (p *parts) open(ctx context.Context) error {
	s := p.settings
	engine, err := openStore(ctx, s, p.log)
	if err != nil {
		return err
	}
	p.store = ready.Watch(engine, nil)
	p.trust, err = trust.Open(trust.Options{Dir: s.authorityDir(), KeyFile: s.sealingKeyFile(), TrustDomain: mesh.TrustDomain(s.TrustDomain)})
	if err != nil {
		return errors.Join(&fault.Error{Code: "GLOBAL-AUTHORITY", What: "global's certificate authority can't be opened", Err: err,
			Try: "check trustDomain and sealingKeyFile: both belong to the data folder for its life", Docs: "docs/configuration.md"}, p.store.Close())
	}
	if err := p.trust.Claim(ctx, p.store); err != nil {
		f := &fault.Error{Code: "GLOBAL-ROOT", What: "this global's authority can't be made that of the store", Err: err, Docs: databaseDocs}
		if errors.Is(err, trust.ErrAnotherRoot) {
			f.Try = "copy the folder authority and the sealing key from another replica, or from a backup"
		}
		return errors.Join(f, p.store.Close())
	}
	if s.API.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(s.API.TLSCert, s.API.TLSKey)
		if err != nil {
			return errors.Join(&fault.Error{Code: "GLOBAL-API-TLS", What: "the REST API's certificate can't be read", Err: err,
				Try: "check api.tlsCert and api.tlsKey", Docs: "docs/configuration.md", Exit: fault.ExitUsage}, p.store.Close())
		}
		p.tls = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	}
	return nil
}

// assemble puts the parts together that need to know where global listens.
func (p *parts) assemble(at addresses) error {
	advertise := p.settings.Advertise
	if len(advertise) == 0 {
		advertise = []string{at.Federation}
	}
	p.fed = fedserver.New(fedserver.Config{
		Store: p.store, Shared: p.settings.Database.URL != "", Trust: p.trust, Advertise: advertise, Log: p.log.With(telemetry.KeyComponent, "federation"), Metrics: p.metrics,
	})
	p.tokens = api.NewTokens(p.store, nil)
	rest, err := api.New(api.Config{
		Store: p.store, Mode: api.ModeGlobal, Tokens: p.tokens, Log: p.log.With(telemetry.KeyComponent, "api"),
		Registerer: p.metrics, Version: version.Version,
		Routes: func(h huma.API, authz api.Authorizer) {
			joinTokenRoutes(h, authz, p.fed)
			zoneRoutes(h, authz, p.fed)
		},
		Check: check.Resource, Inspect: func(ctx context.Context, zone string, proxy mesh.ProxyID, what string) ([]byte, error) {
			return p.fed.Ask(ctx, zone, what, proxy.String())
		},
		Admit: p.fed.Admit, Tap: p.fed.Tap, Top: p.fed.Top, Stopping: p.stopping,
	})
	if err != nil {
		return err
	}
	health := &telemetry.Health{}
	health.Require("store", p.store.Check)
	observed := telemetry.Handler(health, p.metrics)
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, observed)
	}
	pages := console.Handler()
	for _, path := range []string{"GET /{$}", "GET /ui", "GET /ui/"} {
		mux.Handle(path, pages)
	}
	mux.Handle("/", rest)
	p.handler = mux
	return nil
}

// bootstrap makes the first admin's token, once in the life of the store.
func (p *parts) bootstrap(ctx context.Context, stdout io.Writer) error {
	return p.tokens.EnsureBootstrapAdmin(ctx, func(token string) error {
		if f := p.settings.AdminTokenFile; f != "" {
			return identity.WriteFileAtomic(f, []byte(token+"\n"))
		}
		_, err := fmt.Fprintf(stdout, "admin token (shown this once): %s\n", token)
		return err
	})
}

// retain keeps the change log at its length and the history at its age.
func (p *parts) retain(ctx context.Context) error {
	return retain.Run(ctx, p.store, retain.Policy(p.settings.Retention), p.log)
}
