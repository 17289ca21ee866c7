package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Codes of refusals, the first word of the gRPC status message. They do not change.
const (
	CodeMalformed     = "malformed"
	CodeRefused       = "enrolment-refused" // unknown token or no valid proof: no more is said
	CodeTokenExpired  = "token-expired"
	CodeTokenRevoked  = "token-revoked"
	CodeTokenUsedUp   = "token-used-up"
	CodeTokenMismatch = "token-mismatch" // for another zone, role or namespace
	CodeNameTaken     = "name-taken"
	CodeNotEnrolled   = "not-enrolled"
	CodeProofNeeded   = "proof-needed"
	CodeTooMany       = "too-many-requests"
	CodeUnavailable   = "unavailable"
)

// Caller is the authenticated other side of an RPC.
type Caller struct {
	Proxy       mesh.ProxyID
	ID          identity.ID
	Certificate *x509.Certificate
}

// AttendFunc serves one Attend stream of an authenticated, enrolled proxy.
type AttendFunc func(Caller, enrolpb.Enrolment_AttendServer) error

// AnswerFunc takes the answer of an authenticated, enrolled proxy to a question of the zone.
type AnswerFunc func(Caller, enrolpb.Enrolment_AnswerServer) error

// refusalError is an answer to the caller; it is logged too.
type refusalError struct {
	code string
	text string
}

func (r *refusalError) Error() string { return r.code + ": " + r.text }

func refuse(code, format string, args ...any) error {
	return &refusalError{code, fmt.Sprintf(format, args...)}
}

type service struct {
	enrolpb.UnimplementedEnrolmentServer
	ca     *CA
	attend AttendFunc
	take   AnswerFunc
}

// Enrol implements enrolpb.EnrolmentServer.
func (s *service) Enrol(ctx context.Context, r *enrolpb.EnrolRequest) (*enrolpb.EnrolResponse, error) {
	p := proxyOf(r.GetRole(), r.GetNamespace(), r.GetName())
	resp, err := s.enrol(ctx, p, r)
	if err != nil {
		return nil, s.answer(ctx, "enrol", p, r.GetTokenId(), err)
	}
	return resp, nil
}

func (s *service) enrol(ctx context.Context, p mesh.ProxyID, r *enrolpb.EnrolRequest) (*enrolpb.EnrolResponse, error) {
	c := s.ca
	state, err := s.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkProxy(p); err != nil {
		return nil, err
	}
	if len(r.GetTokenId()) > 64 {
		return nil, refuse(CodeMalformed, "the token id is too long")
	}
	key, err := identity.ParseCSR(r.GetCsr())
	if err != nil {
		return nil, refuse(CodeMalformed, "%v", err)
	}
	exporter, err := identity.Exporter(state)
	if err != nil {
		return nil, refuse(CodeMalformed, "%v", err)
	}
	transcript := identity.EnrolTranscript{Exporter: exporter, CSR: r.GetCsr(), TokenID: r.GetTokenId(), Proxy: p}.Bytes()
	token, _, err := get[Token](ctx, c.cfg.Records, tokenKey+r.GetTokenId())
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(CodeRefused, "the token is not known to zone %s, or its proof is wrong", c.cfg.Zone)
	}
	if err != nil {
		return nil, err
	}
	if identity.VerifyTokenProof(token.PublicKey, transcript, r.GetProof()) != nil {
		return nil, refuse(CodeRefused, "the token is not known to zone %s, or its proof is wrong", c.cfg.Zone)
	}
	if err := c.admits(token, p); err != nil {
		return nil, err
	}
	id, err := c.identityOf(token, p)
	if err != nil {
		return nil, refuse(CodeMalformed, "%v", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, refuse(CodeMalformed, "%v", err)
	}
	in := Instance{Proxy: p, ID: id.String(), TokenID: token.ID, Key: spki, EnrolledAt: c.cfg.Now(), Labels: token.Labels}
	replaced, err := c.use(ctx, token.ID, in, func(t Token) error { return c.admits(t, p) })
	if err != nil {
		return nil, err
	}
	if replaced {
		c.cfg.Log.Warn("an instance was replaced by another with the same name", "proxy", p.String(), "token", token.ID, "peer", peerAddress(ctx))
		if err := c.ledger.revoke(p); err != nil {
			return nil, err
		}
	}
	issued, err := c.issue(p, id, key)
	if err != nil {
		return nil, err
	}
	c.cfg.Log.Info("enrolled", "proxy", p.String(), "id", id.String(), "serial", issued.Serial, "token", token.ID, "expires", issued.Leaf.NotAfter.UTC())
	return &enrolpb.EnrolResponse{
		CertificateChain: identity.DERChain(issued.Chain), ZoneRoots: c.roots(), SpiffeId: id.String(),
		Zone: c.cfg.Zone, TrustDomain: string(c.cfg.TrustDomain), XdsAddress: c.cfg.XDSAddress,
	}, nil
}

// admits says why a token whose proof is right still doesn't admit the proxy.
func (c *CA) admits(t Token, p mesh.ProxyID) error {
	switch {
	case t.Zone != c.cfg.Zone:
		return refuse(CodeTokenMismatch, "the token is for zone %s, this is %s", t.Zone, c.cfg.Zone)
	case t.Role != p.Role:
		return refuse(CodeTokenMismatch, "the token is for role %s, not %s", t.Role, p.Role)
	case t.Namespace != p.Namespace:
		return refuse(CodeTokenMismatch, "the token is for namespace %q, not %q", t.Namespace, p.Namespace)
	case t.Name != "" && t.Name != p.Name:
		return refuse(CodeTokenMismatch, "the token is for %s, not %s", t.Name, p.Name)
	case t.Revoked:
		return refuse(CodeTokenRevoked, "the token was revoked")
	case !c.cfg.Now().Before(t.Expires):
		return refuse(CodeTokenExpired, "the token expired at %s; make a new one", t.Expires.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return nil
}

// identityOf derives the identity from what the token attests.
func (c *CA) identityOf(t Token, p mesh.ProxyID) (identity.ID, error) {
	switch p.Role {
	case mesh.RoleIngress:
		return identity.IngressID(c.cfg.TrustDomain, p.Name)
	case mesh.RoleEgress:
		return identity.EgressID(c.cfg.TrustDomain, p.Name)
	case mesh.RoleSidecar:
	}
	return identity.WorkloadID(c.cfg.TrustDomain, t.Namespace, t.ServiceAccount)
}

// issue signs for an admitted proxy and enters the certificate in the ledger before it leaves.
func (c *CA) issue(p mesh.ProxyID, id identity.ID, key *ecdsa.PublicKey) (identity.Issued, error) {
	issued, err := c.current().Sign(key, id, c.cfg.LeafTTL, c.cfg.Now())
	if err != nil {
		return identity.Issued{}, err
	}
	return issued, c.ledger.add(entry{Serial: issued.Serial, Proxy: p, ID: id.String(), NotAfter: issued.Leaf.NotAfter})
}

// Renew implements enrolpb.EnrolmentServer.
func (s *service) Renew(ctx context.Context, r *enrolpb.RenewRequest) (*enrolpb.RenewResponse, error) {
	p := proxyOf(r.GetRole(), r.GetNamespace(), r.GetName())
	resp, err := s.renew(ctx, p, r)
	if err != nil {
		return nil, s.answer(ctx, "renew", p, "", err)
	}
	return resp, nil
}

func (s *service) renew(ctx context.Context, p mesh.ProxyID, r *enrolpb.RenewRequest) (*enrolpb.RenewResponse, error) {
	c := s.ca
	state, err := s.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkProxy(p); err != nil {
		return nil, err
	}
	key, err := identity.ParseCSR(r.GetCsr())
	if err != nil {
		return nil, refuse(CodeMalformed, "%v", err)
	}
	in, ok, err := c.Enrolled(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(state.PeerCertificates) > 0 {
		caller, err := c.caller(state)
		if err != nil {
			return nil, err
		}
		if !ok || caller.Proxy != p || caller.ID.String() != in.ID {
			return nil, refuse(CodeNotEnrolled, "the certificate presented is not that of %s", p)
		}
	} else if !ok || !provesInstance(state, in, p, r) {
		// One answer for both, so that names can't be probed without a key.
		return nil, refuse(CodeNotEnrolled, "%s is not enrolled, or the proof of its key is wrong; enrol again with a token", p)
	}
	if !c.limits.instance(p.String()) {
		return nil, refuse(CodeTooMany, "%s renews too often", p)
	}
	id, err := identity.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	issued, err := c.issue(p, id, key)
	if err != nil {
		return nil, err
	}
	c.cfg.Log.Info("renewed", "proxy", p.String(), "id", in.ID, "serial", issued.Serial, "expires", issued.Leaf.NotAfter.UTC())
	return &enrolpb.RenewResponse{CertificateChain: identity.DERChain(issued.Chain), ZoneRoots: c.roots()}, nil
}

// provesInstance checks the proof by the key that was registered at enrolment.
func provesInstance(state tls.ConnectionState, in Instance, p mesh.ProxyID, r *enrolpb.RenewRequest) bool {
	exporter, err := identity.Exporter(state)
	if err != nil {
		return false
	}
	pub, err := x509.ParsePKIXPublicKey(in.Key)
	if err != nil {
		return false
	}
	transcript := identity.RenewTranscript{Exporter: exporter, CSR: r.GetCsr(), Who: p.String()}.Bytes()
	return identity.VerifyTranscript(pub, transcript, r.GetProof()) == nil
}

// Attend implements enrolpb.EnrolmentServer.
func (s *service) Attend(stream enrolpb.Enrolment_AttendServer) error {
	if s.attend == nil {
		return s.UnimplementedEnrolmentServer.Attend(stream)
	}
	caller, err := s.ca.Authenticate(stream.Context())
	if err != nil {
		return err
	}
	return s.attend(caller, stream)
}

// Answer implements enrolpb.EnrolmentServer.
func (s *service) Answer(stream enrolpb.Enrolment_AnswerServer) error {
	if s.take == nil {
		return s.UnimplementedEnrolmentServer.Answer(stream)
	}
	caller, err := s.ca.Authenticate(stream.Context())
	if err != nil {
		return err
	}
	return s.take(caller, stream)
}

// Authenticate says which enrolled proxy makes the call: its verified certificate must be one that
// this authority issued to it and that was not replaced since. The error is a gRPC status.
func (c *CA) Authenticate(ctx context.Context) (Caller, error) {
	state, err := tlsState(ctx)
	if err == nil {
		var caller Caller
		if caller, err = c.caller(state); err == nil {
			return caller, nil
		}
	}
	c.cfg.Log.Warn("refused", "what", "authenticate", "peer", peerAddress(ctx), "reason", err)
	return Caller{}, status.Error(codes.Unauthenticated, err.Error())
}

func (c *CA) caller(state tls.ConnectionState) (Caller, error) {
	id, err := identity.PeerID(state)
	if err != nil {
		return Caller{}, refuse(CodeNotEnrolled, "%v", err)
	}
	leaf := state.PeerCertificates[0]
	e, ok := c.ledger.lookup(identity.SerialOf(leaf))
	if !ok || e.ID != id.String() {
		return Caller{}, refuse(CodeProofNeeded, "this certificate is not in force here; renew with the instance key, or enrol again")
	}
	return Caller{Proxy: e.Proxy, ID: id, Certificate: leaf}, nil
}

// session is the TLS state of a call that may go on, after the limit of its address.
func (s *service) session(ctx context.Context) (tls.ConnectionState, error) {
	if !s.ca.limits.address(peerAddress(ctx)) {
		return tls.ConnectionState{}, refuse(CodeTooMany, "too many requests from this address")
	}
	return tlsState(ctx)
}

func tlsState(ctx context.Context) (tls.ConnectionState, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, refuse(CodeMalformed, "the connection has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return tls.ConnectionState{}, refuse(CodeMalformed, "the connection is not TLS")
	}
	return info.State, nil
}

// peerAddress is the caller's address without its port.
func peerAddress(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// answer logs an error and turns it into what the caller may know.
func (s *service) answer(ctx context.Context, what string, p mesh.ProxyID, token string, err error) error {
	log := s.ca.cfg.Log.With("what", what, "proxy", clip(p.String()), "token", clip(token), "peer", peerAddress(ctx))
	r, ok := errors.AsType[*refusalError](err)
	if !ok {
		log.Error("failed", "error", err)
		return status.Error(codes.Unavailable, CodeUnavailable+": the zone can't do this now; try again")
	}
	log.Warn("refused", "code", r.code, "reason", clip(r.text))
	code := codes.PermissionDenied
	switch r.code {
	case CodeMalformed:
		code = codes.InvalidArgument
	case CodeTooMany:
		code = codes.ResourceExhausted
	case CodeTokenUsedUp, CodeProofNeeded:
		code = codes.FailedPrecondition
	case CodeNameTaken:
		code = codes.AlreadyExists
	}
	return status.Error(code, clip(r.Error()))
}

// clip bounds what a stranger can write into a log line or get back.
func clip(s string) string {
	if len(s) > 400 {
		return s[:400]
	}
	return s
}

func (c *CA) roots() [][]byte {
	return identity.DERChain([]*x509.Certificate{c.root.Root()})
}

func proxyOf(role, namespace, name string) mesh.ProxyID {
	return mesh.ProxyID{Role: mesh.Role(role), Namespace: namespace, Name: name}
}

func checkProxy(p mesh.ProxyID) error {
	switch p.Role {
	case mesh.RoleSidecar:
		if err := mesh.CheckLabel(p.Namespace); err != nil {
			return refuse(CodeMalformed, "namespace %v", err)
		}
	case mesh.RoleIngress, mesh.RoleEgress:
		if p.Namespace != "" {
			return refuse(CodeMalformed, "an %s has no namespace", p.Role)
		}
	default:
		return refuse(CodeMalformed, "role %q can't enrol", clip(string(p.Role)))
	}
	if err := mesh.CheckSubdomain(p.Name); err != nil {
		return refuse(CodeMalformed, "name %v", err)
	}
	return nil
}
