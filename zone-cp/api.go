package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/fedclient"
)

const (
	maxBody         = 64 << 10 // a join token is below 4 KiB
	defaultTokenTTL = time.Hour
	// syncLimit bounds how long a join waits for the first session to bring everything down.
	syncLimit = 20 * time.Second
)

// joinAnswer is the answer of POST /api/v1/_join: client.JoinResult with the phases of the join.
type joinAnswer struct {
	client.JoinResult
	Phases []fedclient.Phase `json:"phases"`
}

// zoneAnswer is the answer of GET /api/v1/_zone: what the zone is, and how it stands to global.
type zoneAnswer struct {
	Zone        string           `json:"zone"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Incarnation mesh.Incarnation `json:"incarnation"`
	Pin         string           `json:"pin"` // of the zone's root
	Revision    mesh.Revision    `json:"revision"`
	Proxies     string           `json:"proxies"` // where agents enrol
	Global      fedclient.State  `json:"global"`
	// Others are the zones whose statements are held.
	Others []otherZone `json:"others"`
}

type otherZone struct {
	Zone        string           `json:"zone"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Sequence    uint64           `json:"bundleSequence"`
	LeaseUntil  time.Time        `json:"leaseUntil"`
}

func apiTLS(s apiSettings) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, &fault.Error{Code: "API-TLS", What: "the API's certificate can't be used", Err: err, Try: "check api.tlsCert and api.tlsKey", Exit: fault.ExitUsage}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}, nil
}

// join makes the zone join, and waits until the first session has brought down what global has.
func (z *zone) join(ctx context.Context, in client.JoinRequest) (joinAnswer, error) {
	done, err := z.fed.Join(ctx, strings.TrimSpace(in.Token))
	if err != nil {
		return joinAnswer{}, err
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	at, err := z.fed.Synced(limited)
	if err != nil {
		return joinAnswer{}, &fault.Error{Code: "JOIN-SYNC", What: "the zone has joined, but global's resources have not come down yet", Err: err, Exit: fault.ExitUnreachable,
			Try: "look at `comity zone describe " + z.Zone + "`; the zone goes on trying by itself"}
	}
	n, err := z.copies(ctx)
	if err != nil {
		return joinAnswer{}, err
	}
	done.Phases = append(done.Phases, fedclient.Phase{Name: "sync", OK: true, Detail: at.String(), MS: float64(time.Since(began).Microseconds()) / 1000})
	return joinAnswer{Phases: done.Phases, JoinResult: client.JoinResult{
		Zone: z.Zone, Global: strings.Join(done.Endpoints, ","), Identity: done.Identity, Expires: done.Expires, TrustDomain: z.TrustDomain,
		Resumed: done.Already || done.Resumed, Resources: n, Revision: at.Revision,
	}}, nil
}

// copies counts global's resources in the store.
func (z *zone) copies(ctx context.Context) (int, error) {
	n := 0
	q := store.Query{Origin: mesh.OriginGlobal, Limit: 1000}
	for {
		page, err := z.store.List(ctx, q)
		if err != nil {
			return 0, err
		}
		n += len(page.Items)
		if page.Continue == "" {
			return n, nil
		}
		q.Continue = page.Continue
	}
}

// enrolmentToken makes a token with which sidecars or an ingress get their identity.
func (z *zone) enrolmentToken(ctx context.Context, in client.EnrolmentTokenRequest) (client.EnrolmentToken, error) {
	spec := ca.TokenSpec{
		Role: in.Role, Namespace: in.Namespace, ServiceAccount: in.ServiceAccount, Name: in.Name, Labels: in.Labels,
		TTL: time.Duration(in.TTLSeconds) * time.Second, Limit: in.Limit,
	}
	if spec.TTL == 0 {
		spec.TTL = defaultTokenTTL
	}
	if spec.Limit == 0 {
		spec.Limit = 1
	}
	token, err := z.ca.CreateToken(ctx, spec)
	if err != nil {
		if errors.Is(err, identity.ErrToken) {
			return client.EnrolmentToken{}, &fault.Error{Code: "TOKEN-INVALID", What: "no such enrolment token can be made", Err: err, Exit: fault.ExitUsage}
		}
		return client.EnrolmentToken{}, err
	}
	text, err := token.Text()
	if err != nil {
		return client.EnrolmentToken{}, err
	}
	return client.EnrolmentToken{ID: token.ID, Token: text, Expires: token.Expires}, nil
}

func (z *zone) describe(ctx context.Context) (zoneAnswer, error) {
	head, err := z.store.Head(ctx)
	if err != nil {
		return zoneAnswer{}, err
	}
	a := zoneAnswer{
		Zone: z.Zone, TrustDomain: z.TrustDomain, Incarnation: z.Incarnation, Pin: z.ca.Pin().String(), Revision: head.Revision,
		Proxies: z.proxies.Addr().String(), Global: z.fed.State(), Others: []otherZone{},
	}
	for _, t := range z.book.Trust().List() {
		if t.Zone != z.Zone {
			a.Others = append(a.Others, otherZone{t.Zone, t.Bundle.TrustDomain, t.Statement.Sequence, t.LeaseUntil})
		}
	}
	return a, nil
}

// enrolmentTokenList is the answer of GET /api/v1/enrolmenttokens: nothing that could enrol.
type enrolmentTokenList struct {
	Items []ca.Token `json:"items"`
}

// routes adds what only a zone has:
//
//	POST /api/v1/_join             client.JoinRequest -> 200 joinAnswer, when global's resources are down
//	GET  /api/v1/_zone             zoneAnswer
//	POST /api/v1/enrolmenttokens   client.EnrolmentTokenRequest -> 201 client.EnrolmentToken, with its text
//	GET  /api/v1/enrolmenttokens   enrolmentTokenList, without the texts
//	DELETE /api/v1/enrolmenttokens/{id}   204
//
// and what proxyRoutes says.
func (z *zone) routes(h huma.API, authz api.Authorizer) {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: "/api/v1/" + path, Summary: summary, Tags: []string{"Zone"}, DefaultStatus: status, MaxBodyBytes: maxBody,
		}
	}
	huma.Register(h, op("join", http.MethodPost, "_join", "Join a mesh with a token of its global", http.StatusOK),
		func(ctx context.Context, in *struct{ Body client.JoinRequest }) (*struct{ Body joinAnswer }, error) {
			if err := authz.Require(ctx, api.RoleAdmin); err != nil {
				return nil, err
			}
			out, err := z.join(ctx, in.Body)
			return &struct{ Body joinAnswer }{out}, z.problem(ctx, err)
		})
	huma.Register(h, op("describe-zone", http.MethodGet, "_zone", "What the zone is, and how it stands to global", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*struct{ Body zoneAnswer }, error) {
			out, err := z.describe(ctx)
			return &struct{ Body zoneAnswer }{out}, z.problem(ctx, err)
		})
	huma.Register(h, op("create-enrolmenttoken", http.MethodPost, "enrolmenttokens", "Create a token with which sidecars, an ingress or an egress enrol; its text is shown this once", http.StatusCreated),
		func(ctx context.Context, in *struct{ Body client.EnrolmentTokenRequest }) (*struct{ Body client.EnrolmentToken }, error) {
			if err := authz.Require(ctx, api.RoleAdmin); err != nil {
				return nil, err
			}
			out, err := z.enrolmentToken(ctx, in.Body)
			return &struct{ Body client.EnrolmentToken }{out}, z.problem(ctx, err)
		})
	huma.Register(h, op("list-enrolmenttokens", http.MethodGet, "enrolmenttokens", "List the zone's enrolment tokens", http.StatusOK),
		func(ctx context.Context, _ *struct{}) (*struct{ Body enrolmentTokenList }, error) {
			list, err := z.ca.Tokens(ctx)
			return &struct{ Body enrolmentTokenList }{enrolmentTokenList{list}}, z.problem(ctx, err)
		})
	huma.Register(h, op("revoke-enrolmenttoken", http.MethodDelete, "enrolmenttokens/{id}", "End an enrolment token; what has enrolled with it stays", http.StatusNoContent),
		func(ctx context.Context, in *struct {
			ID string `path:"id" maxLength:"64"`
		}) (*struct{}, error) {
			if err := authz.Require(ctx, api.RoleAdmin); err != nil {
				return nil, err
			}
			err := z.ca.RevokeToken(ctx, in.ID)
			if errors.Is(err, store.ErrNotFound) {
				err = &fault.Error{Code: api.CodeNotFound, What: "the zone has no such enrolment token", Try: "comity token list --enrol", Exit: fault.ExitNotFound}
			}
			return nil, z.problem(ctx, err)
		})
	z.proxyRoutes(h, authz)
}

func statusOf(err error) int {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		if errors.Is(err, store.ErrUnavailable) {
			return http.StatusServiceUnavailable
		}
		return http.StatusInternalServerError
	}
	switch f.Exit {
	case fault.ExitUsage:
		return http.StatusUnprocessableEntity
	case fault.ExitConflict:
		return http.StatusConflict
	case fault.ExitDenied:
		return http.StatusForbidden
	case fault.ExitUnreachable:
		return http.StatusBadGateway
	case fault.ExitNotFound:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// problem is an error answer in the form of the rest of the API.
type problem struct{ client.Problem }

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// problem makes an error's answer; what an unexpected one says stays in the log. nil stays nil.
func (z *zone) problem(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, answer := errors.AsType[huma.StatusError](err); answer {
		return err
	}
	z.log.WarnContext(ctx, "a request failed", "error", err)
	p := &problem{client.Problem{Type: "about:blank", Title: "the zone can't do this now", Status: statusOf(err), Code: api.CodeInternal, Try: "see the control plane's log"}}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		p.Title, p.Code, p.Try, p.Detail = f.What, f.Code, f.Try, f.Cause
		if p.Detail == "" && f.Err != nil {
			p.Detail = f.Err.Error()
		}
	}
	return p
}
