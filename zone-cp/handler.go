package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
)

// handler is everything that listen.api serves.
func (z *zone) handler(ctx context.Context) (http.Handler, error) {
	tokens := api.NewTokens(z.store, nil)
	bootstrap, err := tokens.EnsureBootstrapAdmin(ctx)
	if err != nil {
		return nil, err
	}
	if bootstrap != "" {
		if err := z.keepAdminToken(ctx, bootstrap); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	observe := telemetry.Handler(z.health, z.metrics)
	for _, p := range []string{"GET /healthz", "GET /readyz", "GET /metrics"} {
		mux.Handle(p, observe)
	}
	admin := func(status int, f func(context.Context, []byte) (any, error)) http.Handler {
		next := z.route(status, f)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			who, err := tokens.Check(r.Context(), token)
			switch {
			case err != nil:
				writeProblem(w, http.StatusUnauthorized, &fault.Error{Code: "UNAUTHENTICATED", What: "a valid bearer token is needed", Try: "name a token with --token-file or COMITY_TOKEN_FILE"})
			case who.Role != api.RoleAdmin:
				writeProblem(w, http.StatusForbidden, &fault.Error{Code: "FORBIDDEN", What: "this needs a token with the role admin"})
			default:
				next(w, r)
			}
		})
	}
	rest, err := api.New(api.Config{
		Store: z.store, Mode: api.ModeZone, ZoneName: z.Zone, Tokens: tokens,
		Log: z.part("api"), Registerer: z.metrics, Version: version.Version,
	})
	if err != nil {
		return nil, err
	}
	mux.Handle("/", rest)
	mux.Handle("POST /api/v1/_join", admin(http.StatusOK, z.join))
	mux.Handle("POST /api/v1/enrolmenttokens", admin(http.StatusCreated, z.enrolmentToken))
	mux.Handle("GET /api/v1/enrolmenttokens", admin(http.StatusOK, z.enrolmentTokens))
	mux.Handle("GET /api/v1/_zone", admin(http.StatusOK, z.describe))
	return mux, nil
}
