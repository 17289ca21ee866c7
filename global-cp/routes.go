package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/global-cp/internal/fedserver"
	"github.com/comity-mesh/comity/store"
)

// problem is an error answer in the form of the rest of the API.
type problem struct{ client.Problem }

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return "application/problem+json" }

func fail(status int, code, try, detail string) error {
	return &problem{client.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Try: try,
	}}
}

// ZonePath is the zone of a path. Exported because huma reads embedded parameters of exported types only.
type ZonePath struct {
	Zone string `path:"zone" maxLength:"63"`
}

// joinTokenRoutes adds what creates, lists and revokes the tokens with which zones join:
//
//	POST   /api/v1/zones/{zone}/jointokens        client.JoinTokenRequest -> 201 client.JoinToken, with its text
//	GET    /api/v1/zones/{zone}/jointokens        client.JoinTokens, without the texts
//	DELETE /api/v1/zones/{zone}/jointokens/{id}   204
func joinTokenRoutes(h huma.API, authz api.Authorizer, fed *fedserver.Server) {
	const path = "/api/v1/zones/{zone}/jointokens"
	tags := []string{"Zone"}
	huma.Register(h, huma.Operation{
		OperationID: "create-jointoken", Method: http.MethodPost, Path: path, Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Create a token with which the zone joins once; its text is shown this once", MaxBodyBytes: 4 << 10,
	}, func(ctx context.Context, in *struct {
		ZonePath
		Body client.JoinTokenRequest
	}) (*struct{ Body client.JoinToken }, error) {
		if err := authz.Require(ctx, api.RoleAdmin); err != nil {
			return nil, err
		}
		if in.Body.TTLSeconds < 0 || in.Body.TTLSeconds > int(fedserver.MaxTokenTTL.Seconds()) {
			return nil, &problem{client.Problem{
				Type: "about:blank", Title: http.StatusText(http.StatusUnprocessableEntity), Status: http.StatusUnprocessableEntity,
				Code: api.CodeInvalid, Detail: "the life of the token is out of range",
				Errors: []client.ProblemField{{Pointer: "/ttlSeconds", Code: api.CodeInvalid, Message: "must be from 0 to 604800 (7 days)"}},
			}}
		}
		if !in.Body.Force {
			if err := notConnected(ctx, fed, in.Zone); err != nil {
				return nil, err
			}
		}
		text, info, err := fed.CreateToken(ctx, in.Zone, time.Duration(in.Body.TTLSeconds)*time.Second)
		if err != nil {
			return nil, tokenProblem(in.Zone, err)
		}
		out := wireToken(info)
		out.Token = text
		return &struct{ Body client.JoinToken }{out}, nil
	})
	huma.Register(h, huma.Operation{
		OperationID: "list-jointokens", Method: http.MethodGet, Path: path, Tags: tags, Summary: "List the zone's join tokens",
	}, func(ctx context.Context, in *struct{ ZonePath }) (*struct{ Body client.JoinTokens }, error) {
		list, err := fed.Tokens(ctx, in.Zone)
		if err != nil {
			return nil, tokenProblem(in.Zone, err)
		}
		out := client.JoinTokens{Items: make([]client.JoinToken, 0, len(list))}
		for _, t := range list {
			out.Items = append(out.Items, wireToken(t))
		}
		return &struct{ Body client.JoinTokens }{out}, nil
	})
	huma.Register(h, huma.Operation{
		OperationID: "revoke-jointoken", Method: http.MethodDelete, Path: path + "/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "End an unused join token",
	}, func(ctx context.Context, in *struct {
		ZonePath
		ID string `path:"id" maxLength:"64"`
	}) (*struct{}, error) {
		if err := authz.Require(ctx, api.RoleAdmin); err != nil {
			return nil, err
		}
		if err := fed.RevokeToken(ctx, in.Zone, in.ID); err != nil {
			return nil, tokenProblem(in.Zone, err)
		}
		return nil, nil
	})
}

// notConnected refuses what would let somebody take the place of a zone that is there.
func notConnected(ctx context.Context, fed *fedserver.Server, zone string) error {
	connected, err := fed.Connected(ctx, zone)
	if err != nil || !connected {
		return err
	}
	return fail(http.StatusConflict, api.CodeConflict, "add --force if that is meant; a zone that is connected needs no token",
		fmt.Sprintf("zone %q is connected, and whoever joins with a new token takes its place", zone))
}

func wireToken(t fedserver.TokenInfo) client.JoinToken {
	return client.JoinToken{ID: t.ID, Zone: t.Zone, Expires: t.Expires, Used: !t.UsedAt.IsZero()}
}

func tokenProblem(zone string, err error) error {
	switch {
	case errors.Is(err, fedserver.ErrNoZone):
		return fail(http.StatusNotFound, api.CodeNotFound, "comity zone create "+zone, fmt.Sprintf("there is no zone %q", zone))
	case errors.Is(err, fedserver.ErrRevoked):
		return revokedProblem(zone)
	case errors.Is(err, fedserver.ErrTokenUsed):
		return fail(http.StatusConflict, api.CodeConflict, "remove the zone to end what the token admitted", "the token was used")
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, api.CodeNotFound, "", "the zone has no such token")
	case errors.Is(err, store.ErrUnavailable):
		return fail(http.StatusServiceUnavailable, api.CodeUnavailable, "try again", "the store can't answer now")
	}
	return err
}
