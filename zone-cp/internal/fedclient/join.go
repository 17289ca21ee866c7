package fedclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// Phase is one step of a join, for people.
type Phase struct {
	Name   string  `json:"name"`
	OK     bool    `json:"ok"`
	Detail string  `json:"detail,omitempty"`
	MS     float64 `json:"ms"`
}

// Joined is what a join made.
type Joined struct {
	Already     bool             `json:"already,omitempty"` // it had joined this global before
	Resumed     bool             `json:"resumed,omitempty"` // a join that was cut short
	Identity    string           `json:"identity"`          // toward global
	TrustDomain mesh.TrustDomain `json:"trustDomain"`       // global's
	Endpoints   []string         `json:"endpoints"`
	Expires     time.Time        `json:"expires"` // of the certificate, renewed at half its life
	Phases      []Phase          `json:"phases"`
}

const (
	joinLimit = 20 * time.Second
	joinDocs  = "docs/joining.md"
)

// Join makes the zone a member of the mesh that the token is for. It may be repeated: a join that was
// cut short resumes with the same key, and one that succeeded says so. Errors are *fault.Error.
func (c *Client) Join(ctx context.Context, tokenText string) (Joined, error) {
	c.joining.Lock()
	defer c.joining.Unlock()
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	var done Joined
	phase := func(name, detail string, since time.Time) {
		done.Phases = append(done.Phases, Phase{name, true, detail, float64(time.Since(since).Microseconds()) / 1000})
	}
	began := time.Now()
	token, err := identity.ParseJoinToken(tokenText)
	if err != nil {
		return done, &fault.Error{Code: "JOIN-TOKEN", What: "this is not a join token", Err: err, Exit: fault.ExitUsage,
			Try: "paste the whole token that `comity zone create` printed", Docs: joinDocs}
	}
	if token.Zone != c.cfg.Zone {
		return done, &fault.Error{Code: "JOIN-ZONE", What: fmt.Sprintf("the token is for zone %q, this is zone %q", token.Zone, c.cfg.Zone), Exit: fault.ExitUsage,
			Try: "create a token for this zone: comity zone create " + c.cfg.Zone, Docs: joinDocs}
	}
	phase("token", token.String(), began)

	if m := c.cred.State(); m.Joined() {
		if b, ok := c.cred.BundleFor(m.TrustDomain); ok && len(b.Authorities) > 0 && identity.KeyPin(b.Authorities[0]) != token.Pin {
			return done, &fault.Error{Code: "JOIN-ELSEWHERE", What: "the zone belongs to another mesh already", Exit: fault.ExitConflict,
				Cause: "it joined " + string(m.TrustDomain) + " at " + m.JoinedAt.UTC().Format(time.RFC3339), Docs: joinDocs,
				Try: "initialise a new zone; a zone belongs to one mesh for its life"}
		}
		id, _ := identity.ZoneID(m.TrustDomain, c.cfg.Zone)
		return Joined{Already: true, Identity: id.String(), TrustDomain: m.TrustDomain, Endpoints: m.Endpoints, Expires: m.Expires, Phases: done.Phases}, nil
	}
	return done, c.join(ctx, token, &done, phase)
}

func (c *Client) join(ctx context.Context, token identity.JoinToken, done *Joined, phase func(string, string, time.Time)) error {
	began := time.Now()
	endpoints := c.endpoints(token.Endpoints)
	conn, state, err := dial(ctx, endpoints, identity.PinnedClientTLS(nil, token.Pin, identity.GlobalCPPath, identity.TLSOptions{}))
	if err != nil {
		return dialFault(err)
	}
	defer conn.Close()
	phase("dial", "TLS 1.3, the root's key matches the pin", began)

	began = time.Now()
	roots, err := identity.PinnedBundle(state, token.Pin, identity.GlobalCPPath, time.Now())
	if err != nil {
		return dialFault(err)
	}
	csr, err := c.cred.csr()
	if err != nil {
		return err
	}
	exporter, err := identity.Exporter(state)
	if err != nil {
		return err
	}
	proof, err := token.Prove(identity.JoinTranscript{
		Exporter: exporter, CSR: csr, TokenID: token.ID, Zone: c.cfg.Zone, TrustDomain: c.cfg.TrustDomain, Incarnation: c.cfg.Incarnation,
	}.Bytes())
	if err != nil {
		return err
	}
	bundle, err := c.cfg.BundleStatement(ctx)
	if err != nil {
		return fmt.Errorf("the zone's bundle: %w", err)
	}
	resp, err := federationpb.NewFederationClient(conn).Join(ctx, &federationpb.JoinRequest{
		Protocol: federation.Protocol, Zone: c.cfg.Zone, TrustDomain: string(c.cfg.TrustDomain), Incarnation: string(c.cfg.Incarnation),
		TokenId: token.ID, Csr: csr, Proof: proof, Version: version.Version, Bundle: statements.ToProto(bundle),
	})
	if err != nil {
		return joinFault(err)
	}
	phase("prove", "the token was proven over this session; it did not cross", began)

	began = time.Now()
	m := Membership{Endpoints: token.Endpoints, TrustDomain: mesh.TrustDomain(resp.GetGlobalTrustDomain()), JoinedAt: time.Now().UTC()}
	if m.TrustDomain != roots.TrustDomain {
		return fmt.Errorf("global is %s in its certificate and %s in its answer", roots.TrustDomain, m.TrustDomain)
	}
	if err := c.cred.install(c.cfg.Zone, resp.GetCertificateChain(), resp.GetGlobalRoots(), m, time.Now()); err != nil {
		return err
	}
	id, err := identity.ZoneID(m.TrustDomain, c.cfg.Zone)
	if err != nil {
		return err
	}
	m = c.cred.State()
	phase("certificate", id.String(), began)
	done.Identity, done.TrustDomain, done.Endpoints, done.Expires, done.Resumed = id.String(), m.TrustDomain, m.Endpoints, m.Expires, resp.GetResumed()
	c.cfg.Log.InfoContext(ctx, "joined the mesh", "identity", id.String(), "expires", m.Expires)
	signal(c.wake)
	return nil
}

// endpoints are where global is: what the operator says, else what the token says.
func (c *Client) endpoints(told []string) []string {
	if len(c.cfg.Endpoints) > 0 {
		return c.cfg.Endpoints
	}
	return told
}

func dialFault(err error) error {
	if u, ok := errors.AsType[*unreachableError](err); ok {
		return &fault.Error{Code: "JOIN-UNREACHABLE", What: "global can't be reached", Err: err, Exit: fault.ExitUnreachable,
			Try: "open the way from this machine to " + u.address + ", or set global.endpoints", Docs: joinDocs}
	}
	return &fault.Error{Code: "JOIN-PIN", What: "what answered is not the global that the token names", Err: err, Exit: fault.ExitDenied,
		Try: "look for a proxy that re-encrypts TLS; there is no way to skip this check", Docs: joinDocs}
}

func joinFault(err error) error {
	s := status.Convert(err)
	f := &fault.Error{Code: "JOIN-REFUSED", What: "global refused the join", Cause: s.Message(), Err: err, Exit: fault.ExitDenied,
		Try: "create a new token at global, and join with it", Docs: joinDocs}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		f.Code, f.What, f.Exit, f.Try = "JOIN-UNREACHABLE", "global did not answer", fault.ExitUnreachable, "try again: the join resumes"
	case codes.AlreadyExists:
		f.Code, f.What, f.Exit = "JOIN-TAKEN", "another zone has this name or trust domain", fault.ExitConflict
		f.Try = "choose another name at init; a zone that was deleted doesn't come back"
	case codes.FailedPrecondition:
		f.Exit = fault.ExitConflict
	}
	return f
}

// renew replaces the certificate by the key that was pinned at the join, whether it has ended or not.
func (c *Client) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	m := c.cred.State()
	// Without client certificate: what proves the zone is its key, and an old certificate would only
	// be in the way.
	conn, state, err := dial(ctx, c.endpoints(m.Endpoints), c.tls(nil))
	if err != nil {
		return err
	}
	defer conn.Close()
	csr, err := c.cred.csr()
	if err != nil {
		return err
	}
	exporter, err := identity.Exporter(state)
	if err != nil {
		return err
	}
	proof, err := c.cred.sign(identity.RenewTranscript{Exporter: exporter, CSR: csr, Who: c.cfg.Zone, Incarnation: c.cfg.Incarnation}.Bytes())
	if err != nil {
		return err
	}
	resp, err := federationpb.NewFederationClient(conn).Renew(ctx, &federationpb.RenewRequest{
		Protocol: federation.Protocol, Zone: c.cfg.Zone, Incarnation: string(c.cfg.Incarnation), Csr: csr, Proof: proof,
	})
	if err != nil {
		return fmt.Errorf("renew the federation certificate: %w", err)
	}
	if err := c.cred.install(c.cfg.Zone, resp.GetCertificateChain(), resp.GetGlobalRoots(), m, time.Now()); err != nil {
		return fmt.Errorf("renew the federation certificate: %w", err)
	}
	c.cfg.Log.InfoContext(ctx, "renewed the federation certificate", "expires", c.cred.State().Expires)
	return nil
}
