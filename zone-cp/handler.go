package main

import (
	"context"
	"net/http"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/console"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/check"
)

// handler is everything that listen.api serves.
func (z *zone) handler(ctx context.Context) (http.Handler, error) {
	tokens := api.NewTokens(z.store, nil)
	if err := tokens.EnsureBootstrapAdmin(ctx, z.keepAdminToken); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	observe := telemetry.Handler(z.health, z.metrics)
	for _, p := range []string{"GET /healthz", "GET /readyz", "GET /metrics"} {
		mux.Handle(p, observe)
	}
	rest, err := api.New(api.Config{
		Store: z.store, Mode: api.ModeZone, ZoneName: z.Zone, Tokens: tokens,
		Log: z.part("api"), Registerer: z.metrics, Version: version.Version, Routes: z.routes, Stopping: z.stopping,
		Uplink: z.uplink, LeafTTL: z.cfg.LeafTTL, Check: check.Resource, Admit: z.publisher.Admit,
		Inspect: func(ctx context.Context, _ string, proxy mesh.ProxyID, what string) ([]byte, error) {
			return z.desk.Ask(ctx, proxy, what)
		},
		Top: func(ctx context.Context, _ string, t mesh.Top, emit func(mesh.Flows) error) error {
			return z.top(ctx, t, emit)
		},
		Tap: func(ctx context.Context, _ string, t mesh.Tap, emit func(mesh.TapEvent) error) error {
			return z.tap(ctx, t, emit)
		},
	})
	if err != nil {
		return nil, err
	}
	pages := console.Handler()
	for _, p := range []string{"GET /{$}", "GET /ui", "GET /ui/"} {
		mux.Handle(p, pages)
	}
	mux.Handle("/", rest)
	return mux, nil
}

// uplink is how the zone stands to global, in global's words, and what closes when that changes.
func (z *zone) uplink() (mesh.ZoneStatus, <-chan struct{}) {
	changed := z.fed.Changed()
	s := z.fed.State()
	return mesh.ZoneStatus{
		Joined: s.Joined(), Connected: s.Connected, ConnectedSince: s.Since, Incarnation: z.Incarnation, TrustDomain: z.TrustDomain,
		Version: version.Version, Wanted: s.Down.Revision, Acked: s.Down.Revision, CertificateExpires: s.Expires, Message: s.LastError, Refused: s.Refused,
	}, changed
}
