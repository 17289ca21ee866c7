package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/fedclient"
)

const (
	maxBody         = 64 << 10
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
func (z *zone) join(ctx context.Context, body []byte) (any, error) {
	var in client.JoinRequest
	if err := readJSON(body, &in); err != nil {
		return nil, err
	}
	done, err := z.fed.Join(ctx, strings.TrimSpace(in.Token))
	if err != nil {
		return nil, err
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	at, err := z.fed.Synced(limited)
	if err != nil {
		return nil, &fault.Error{Code: "JOIN-SYNC", What: "the zone has joined, but global's resources have not come down yet", Err: err, Exit: fault.ExitUnreachable,
			Try: "look at `comity zone describe " + z.Zone + "`; the zone goes on trying by itself"}
	}
	n, err := z.copies(ctx)
	if err != nil {
		return nil, err
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
func (z *zone) enrolmentToken(ctx context.Context, body []byte) (any, error) {
	var in client.EnrolmentTokenRequest
	if err := readJSON(body, &in); err != nil {
		return nil, err
	}
	spec := ca.TokenSpec{
		Role: in.Role, Namespace: in.Namespace, ServiceAccount: in.ServiceAccount,
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
			return nil, &fault.Error{Code: "TOKEN-INVALID", What: "no such enrolment token can be made", Err: err, Exit: fault.ExitUsage}
		}
		return nil, err
	}
	text, err := token.Text()
	if err != nil {
		return nil, err
	}
	return client.EnrolmentToken{ID: token.ID, Token: text, Expires: token.Expires}, nil
}

func (z *zone) enrolmentTokens(ctx context.Context, _ []byte) (any, error) {
	list, err := z.ca.Tokens(ctx)
	return struct {
		Items []ca.Token `json:"items"`
	}{list}, err
}

func (z *zone) describe(ctx context.Context, _ []byte) (any, error) {
	head, err := z.store.Head(ctx)
	if err != nil {
		return nil, err
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

func readJSON(body []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &fault.Error{Code: "REQUEST-INVALID", What: "the request can't be read", Err: err, Exit: fault.ExitUsage}
	}
	return nil
}

// route adapts a handler of the zone's own: bounded JSON in, JSON or problem+json out.
func (z *zone) route(status int, f func(context.Context, []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeProblem(w, http.StatusRequestEntityTooLarge, &fault.Error{Code: "REQUEST-TOO-LARGE", What: "the request is too large"})
			return
		}
		out, err := f(r.Context(), body)
		if err != nil {
			z.log.WarnContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
			writeProblem(w, statusOf(err), err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(out) // the reader has gone: nobody to tell
	}
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

// writeProblem answers RFC 9457; what an unexpected error says stays in the log.
func writeProblem(w http.ResponseWriter, status int, err error) {
	p := client.Problem{Title: "the zone can't do this now", Status: status, Code: "INTERNAL"}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		p.Title, p.Code, p.Try, p.Detail = f.What, f.Code, f.Try, f.Cause
		if p.Detail == "" && f.Err != nil {
			p.Detail = f.Err.Error()
		}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p) // the reader has gone: nobody to tell
}
