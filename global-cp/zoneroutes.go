package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/global-cp/internal/fedserver"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// zoneRoutes adds what ends a zone, at once or with care:
//
//	POST /api/v1/zones/{zone}/revoke       client.RevokeRequest -> 200 client.Revocation
//	GET  /api/v1/zones/{zone}/revocation   client.Revocation
//	POST /api/v1/zones/{zone}/drain        client.DrainRequest -> 200 client.Drain, or 409 client.CapacityProblem
//	POST /api/v1/zones/{zone}/leave        as drain; the zone is removed when nothing goes to it any more
//	POST /api/v1/zones/{zone}/undrain      client.DrainRequest, of which only the reason counts -> 200 client.Drain
//	GET  /api/v1/zones/{zone}/drain        client.Drain
func zoneRoutes(h huma.API, authz api.Authorizer, fed *fedserver.Server) {
	z := zoneOps{h: h, authz: authz}
	order(z, "revoke-zone", "revoke", "End all trust in the zone, for good; repeated, it reports",
		func(ctx context.Context, zone string, in client.RevokeRequest, by fedserver.By) (client.Revocation, error) {
			by.Reason = in.Reason
			return fed.Revoke(ctx, zone, by)
		})
	for verb, summary := range map[string]string{
		"drain": "Move traffic away from the zone, unless the others lack capacity", "leave": "Drain the zone, and remove it when nothing goes to it any more",
	} {
		order(z, verb+"-zone", verb, summary, func(ctx context.Context, zone string, in client.DrainRequest, by fedserver.By) (client.Drain, error) {
			by.Reason = in.Reason
			return fed.Drain(ctx, zone, in, verb == "leave", by)
		})
	}
	order(z, "undrain-zone", "undrain", "Take a drain back", func(ctx context.Context, zone string, in client.DrainRequest, by fedserver.By) (client.Drain, error) {
		by.Reason = in.Reason
		return fed.Undrain(ctx, zone, by)
	})
	report(z, "describe-drain", "drain", "What still goes to the zone", fed.DrainOf)
	report(z, "describe-revocation", "revocation", "Who has confirmed that the zone is cut off", fed.Revocation)
}

// zoneOps is where operations on a zone are added.
type zoneOps struct {
	h     huma.API
	authz api.Authorizer
}

func (z zoneOps) operation(id, method, verb, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: "/api/v1/zones/{zone}/" + verb, Tags: []string{"Zone"}, Summary: summary, MaxBodyBytes: 4 << 10,
	}
}

// order adds an operation that an admin orders with a POST.
func order[In, Out any](z zoneOps, id, verb, summary string, do func(context.Context, string, In, fedserver.By) (Out, error)) {
	huma.Register(z.h, z.operation(id, http.MethodPost, verb, summary), func(ctx context.Context, in *struct {
		ZonePath
		UserAgent string `header:"User-Agent"`
		Body      In
	}) (*struct{ Body Out }, error) {
		if err := z.authz.Require(ctx, api.RoleAdmin); err != nil {
			return nil, err
		}
		who, _ := z.authz.Principal(ctx)
		by := fedserver.By{Actor: who.Actor(), Source: "api"}
		if strings.HasPrefix(in.UserAgent, "comity/") {
			by.Source = "cli"
		}
		out, err := do(ctx, in.Zone, in.Body, by)
		if err != nil {
			return nil, zoneProblem(in.Zone, err)
		}
		return &struct{ Body Out }{out}, nil
	})
}

// report adds an operation that anybody may read.
func report[Out any](z zoneOps, id, verb, summary string, read func(context.Context, string) (Out, error)) {
	huma.Register(z.h, z.operation(id, http.MethodGet, verb, summary), func(ctx context.Context, in *struct{ ZonePath }) (*struct{ Body Out }, error) {
		out, err := read(ctx, in.Zone)
		if err != nil {
			return nil, zoneProblem(in.Zone, err)
		}
		return &struct{ Body Out }{out}, nil
	})
}

func zoneProblem(zone string, err error) error {
	if lacking, ok := errors.AsType[*fedserver.CapacityError](err); ok {
		return api.CapacityProblem("zone "+zone, lacking.Missing)
	}
	switch wrong, invalid := errors.AsType[*policy.InvalidError](err); {
	case invalid:
		p := &problem{client.Problem{
			Type: "about:blank", Title: http.StatusText(http.StatusUnprocessableEntity), Status: http.StatusUnprocessableEntity,
			Code: api.CodeInvalid, Detail: "the order can't be carried out as it is",
		}}
		for _, f := range wrong.Fields {
			p.Errors = append(p.Errors, client.ProblemField{Pointer: f.Pointer, Code: f.Code, Message: f.Message, Hint: f.Hint})
		}
		return p
	case errors.Is(err, fedserver.ErrNoZone):
		return fail(http.StatusNotFound, api.CodeNotFound, "comity get zones", fmt.Sprintf("there is no zone %q", zone))
	case errors.Is(err, fedserver.ErrRevoked):
		return revokedProblem(zone)
	case errors.Is(err, fedserver.ErrNotRevoked):
		return fail(http.StatusNotFound, api.CodeNotFound, "", fmt.Sprintf("zone %q is not revoked", zone))
	case errors.Is(err, store.ErrUnavailable):
		return fail(http.StatusServiceUnavailable, api.CodeUnavailable, "try again", "the store can't answer now")
	}
	return err
}

func revokedProblem(zone string) error {
	return fail(http.StatusConflict, api.CodeConflict, "comity delete zone "+zone+", and make it anew for another life under another trust domain",
		fmt.Sprintf("zone %q is revoked", zone))
}
