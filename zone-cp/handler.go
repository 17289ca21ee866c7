package main

import (
	"context"
	"net/http"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
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
	})
	if err != nil {
		return nil, err
	}
	mux.Handle("/", rest)
	return mux, nil
}
