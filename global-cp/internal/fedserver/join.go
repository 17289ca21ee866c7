package fedserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// refusal is a refused join or renewal: what the caller is told, and a stable reason for log and
// metric.
type refusal struct {
	code   codes.Code
	reason string // label
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(code codes.Code, reason, format string, args ...any) error {
	return &refusal{code, reason, fmt.Sprintf(format, args...)}
}

// answered turns an error into what crosses the wire: a refusal as it is, anything else without detail.
func (s *Server) answered(ctx context.Context, method, zone, from string, err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		s.metrics.refused.WithLabelValues(method, r.reason).Inc()
		s.cfg.Log.WarnContext(ctx, "federation call refused", "method", method, "zone", printable(zone), "from", from, "reason", r.reason, "detail", r.text)
		return status.Error(r.code, r.text)
	}
	s.metrics.refused.WithLabelValues(method, "error").Inc()
	s.cfg.Log.ErrorContext(ctx, "federation call failed", "method", method, "zone", printable(zone), "from", from, "error", err)
	return status.Error(codes.Unavailable, "global can't answer now; try again")
}

// printable keeps hostile names out of the log.
func printable(zone string) string {
	if mesh.CheckLabel(zone) != nil {
		return "(malformed)"
	}
	return zone
}

// joinCall is one join, checked in its form.
type joinCall struct {
	req         *federationpb.JoinRequest
	zone        string
	td          mesh.TrustDomain
	incarnation mesh.Incarnation
	key         *ecdsa.PublicKey
	spki        []byte
	keyHash     string
	bundle      identity.Statement
}

// Join implements the service.
func (s *Server) Join(ctx context.Context, req *federationpb.JoinRequest) (*federationpb.JoinResponse, error) {
	state, from, err := connection(ctx)
	if err != nil {
		return nil, err
	}
	exporter, err := identity.Exporter(state)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "TLS 1.3 is required")
	}
	resp, err := s.join(ctx, req, exporter)
	if err != nil {
		s.metrics.joins.WithLabelValues("refused").Inc()
		return nil, s.answered(ctx, "join", req.GetZone(), from, err)
	}
	outcome := "joined"
	if resp.GetResumed() {
		outcome = "resumed"
	}
	s.metrics.joins.WithLabelValues(outcome).Inc()
	s.cfg.Log.InfoContext(ctx, "zone joined", "zone", req.GetZone(), "trust_domain", req.GetTrustDomain(),
		"incarnation", req.GetIncarnation(), "token", req.GetTokenId(), "from", from, "outcome", outcome)
	return resp, nil
}

func (s *Server) join(ctx context.Context, req *federationpb.JoinRequest, exporter []byte) (*federationpb.JoinResponse, error) {
	if req.GetProtocol() < federation.MinProtocol {
		return nil, refuse(codes.FailedPrecondition, "protocol", "the zone speaks protocol %d, the oldest spoken here is %d", req.GetProtocol(), federation.MinProtocol)
	}
	call, err := parseJoin(req)
	if err != nil {
		return nil, err
	}
	// Whoever can't prove the token learns nothing about it, nor about zones.
	token, version, err := s.proven(ctx, call, exporter)
	if err != nil {
		return nil, err
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	if err := s.admissible(ctx, call, token); err != nil {
		return nil, err
	}
	if err := s.checkBundle(call); err != nil {
		return nil, err
	}
	if err := s.claimDomain(ctx, call.td, call.zone); err != nil {
		return nil, err
	}
	resumed, err := s.burn(ctx, call, token, version)
	if err != nil {
		return nil, err
	}
	issued, err := s.admit(ctx, call, resumed)
	if err != nil {
		return nil, err
	}
	return &federationpb.JoinResponse{
		CertificateChain: identity.DERChain(issued.Chain), GlobalRoots: s.cfg.Trust.Roots(),
		GlobalTrustDomain: string(s.cfg.Trust.TrustDomain()), Resumed: resumed,
	}, nil
}

func parseJoin(req *federationpb.JoinRequest) (*joinCall, error) {
	invalid := func(err error) error { return refuse(codes.InvalidArgument, "malformed", "%v", err) }
	c := &joinCall{req: req, zone: req.GetZone(), td: mesh.TrustDomain(req.GetTrustDomain()), incarnation: mesh.Incarnation(req.GetIncarnation())}
	if err := mesh.CheckZoneName(c.zone); err != nil {
		return nil, invalid(err)
	}
	if err := mesh.CheckTrustDomain(string(c.td)); err != nil {
		return nil, invalid(err)
	}
	if b, err := hex.DecodeString(string(c.incarnation)); err != nil || len(b) != 16 {
		return nil, invalid(errors.New("incarnation is not 128 bits in hex"))
	}
	if len(req.GetTokenId()) > 64 || len(req.GetCsr()) > identity.MaxCSRBytes || len(req.GetVersion()) > 64 {
		return nil, invalid(errors.New("token id, CSR or version is too long"))
	}
	key, err := identity.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, invalid(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, invalid(err)
	}
	sum := sha256.Sum256(spki)
	c.key, c.spki, c.keyHash = key, spki, hex.EncodeToString(sum[:])
	if req.GetBundle() == nil {
		return nil, invalid(errors.New("the zone's bundle is missing"))
	}
	c.bundle = statementFromProto(req.GetBundle())
	return c, nil
}

var errToken = refuse(codes.Unauthenticated, "token", "the token is not accepted")

// proven checks the proof against the token's public half, and only then whether the token may be used.
func (s *Server) proven(ctx context.Context, c *joinCall, exporter []byte) (tokenRecord, uint64, error) {
	t, version, found, err := getJSON[tokenRecord](ctx, s.cfg.Store, bucketTokens, c.req.GetTokenId())
	if err != nil {
		return t, 0, err
	}
	if !found {
		return t, 0, errToken
	}
	transcript := identity.JoinTranscript{
		Exporter: exporter, CSR: c.req.GetCsr(), TokenID: c.req.GetTokenId(),
		Zone: c.zone, TrustDomain: c.td, Incarnation: c.incarnation,
	}
	if identity.VerifyTokenProof(ed25519.PublicKey(t.PublicKey), transcript.Bytes(), c.req.GetProof()) != nil {
		return t, 0, errToken
	}
	if t.Zone != c.zone {
		return t, 0, refuse(codes.PermissionDenied, "token-zone", "the token is not for zone %s; it was not used up", c.zone)
	}
	return t, version, s.usable(c, t)
}

func (s *Server) usable(c *joinCall, t tokenRecord) error {
	switch {
	case t.UsedBy == c.keyHash:
		return nil // the same zone again: it resumes
	case t.UsedBy != "":
		return refuse(codes.PermissionDenied, "token-used", "the token was used at %s; make a new one: comity zone create %s", t.UsedAt.Format(time.RFC3339), c.zone)
	case s.cfg.Now().After(t.Expires):
		return refuse(codes.PermissionDenied, "token-expired", "the token ended at %s; make a new one: comity zone create %s", t.Expires.Format(time.RFC3339), c.zone)
	}
	return nil
}

// admissible decides whether the zone may be who it says: name, trust domain and incarnation.
func (s *Server) admissible(ctx context.Context, c *joinCall, t tokenRecord) error {
	spec, err := s.zone(ctx, c.zone)
	if errors.Is(err, ErrNoZone) {
		return refuse(codes.FailedPrecondition, "unknown-zone", "zone %s does not exist (any more)", c.zone)
	}
	if err != nil {
		return err
	}
	if spec.Revoked != nil {
		return refuse(codes.PermissionDenied, "revoked", "zone %s was revoked; remove the Zone and make it anew, for another life with another trust domain", c.zone)
	}
	if spec.TrustDomain != "" && spec.TrustDomain != c.td {
		return refuse(codes.PermissionDenied, "trust-domain", "zone %s must have the trust domain %s", c.zone, spec.TrustDomain)
	}
	if err := identity.CheckDistinct(c.td, s.cfg.Trust.TrustDomain()); err != nil || c.td == s.cfg.Trust.TrustDomain() {
		return refuse(codes.AlreadyExists, "trust-domain", "trust domain %s is global's, or can be mistaken for it", c.td)
	}
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketIDs, "")
	if err != nil {
		return fmt.Errorf("read identities: %w", err)
	}
	for _, r := range recs {
		var id zoneIdentity
		if err := json.Unmarshal(r.Value, &id); err != nil {
			return fmt.Errorf("read identity of %s: %w", r.Key, err)
		}
		if r.Key == c.zone && spec.lapsed(id) && id.Revoked == nil {
			// Its end may not have been seen to yet.
			if id.Revoked, err = s.revokedAtEnd(ctx, c.zone, id); err != nil {
				return err
			}
		}
		if err := unburnt(c, id); err != nil {
			return err
		}
		if r.Key == c.zone {
			if err := admissibleAgain(c, t, id, spec.lapsed(id)); err != nil {
				return err
			}
			continue
		}
		// A removed zone's trust domain stays taken: certificates of it may still be about.
		if id.TrustDomain == c.td {
			return refuse(codes.AlreadyExists, "trust-domain", "trust domain %s belongs to another zone", c.td)
		}
		if err := identity.CheckDistinct(c.td, id.TrustDomain); err != nil {
			return refuse(codes.AlreadyExists, "trust-domain", "%v", err)
		}
		if id.Incarnation == c.incarnation || slices.Contains(id.Retired, c.incarnation) {
			return refuse(codes.AlreadyExists, "incarnation", "incarnation %s belongs to another zone", c.incarnation)
		}
	}
	return nil
}

// unburnt refuses what a revoked zone, this one or another, could come back by.
func unburnt(c *joinCall, id zoneIdentity) error {
	for _, td := range id.burnt() {
		if td == c.td {
			return refuse(codes.PermissionDenied, "revoked", "the trust domain %s was revoked and does not come back; initialise the zone with another one", c.td)
		}
		if err := identity.CheckDistinct(c.td, td); err != nil {
			return refuse(codes.AlreadyExists, "trust-domain", "%v", err)
		}
	}
	if id.Revoked != nil && subtle.ConstantTimeCompare(id.PublicKey, c.spki) == 1 {
		return refuse(codes.PermissionDenied, "revoked", "the key is that of a revoked zone; initialise the zone again")
	}
	return nil
}

// admissibleAgain decides about a zone of which there is an identity already.
func admissibleAgain(c *joinCall, t tokenRecord, id zoneIdentity, lapsed bool) error {
	same := id.Incarnation == c.incarnation && subtle.ConstantTimeCompare(id.PublicKey, c.spki) == 1
	switch {
	case slices.Contains(id.Retired, c.incarnation) || lapsed && id.Incarnation == c.incarnation:
		return refuse(codes.PermissionDenied, "incarnation", "this life of zone %s was removed and does not come back; initialise the zone again", c.zone)
	case t.UsedBy != "" && !same:
		return refuse(codes.PermissionDenied, "token-used", "zone %s has joined anew since this token was used", c.zone)
	case !lapsed && id.TrustDomain != c.td:
		return refuse(codes.PermissionDenied, "trust-domain", "zone %s has the trust domain %s; it does not change by joining", c.zone, id.TrustDomain)
	}
	return nil
}

// checkBundle checks that the zone's first bundle is its own word, before the token is used up.
func (s *Server) checkBundle(c *joinCall) error {
	b := c.bundle
	if b.Zone != c.zone || b.TrustDomain != c.td || b.Incarnation != c.incarnation || b.Withdrawn || b.Kind != identity.KindBundle {
		return refuse(codes.InvalidArgument, "bundle", "the bundle is not that of the zone that joins")
	}
	bundle, err := identity.ParseBundle(c.td, b.Payload, s.cfg.Now())
	if err == nil {
		err = identity.VerifyStatement(b, bundle, s.cfg.Now())
	}
	if err != nil {
		return refuse(codes.InvalidArgument, "bundle", "the bundle: %v", err)
	}
	return nil
}

// burn uses up the token: of any number of callers with different keys exactly one gets through.
func (s *Server) burn(ctx context.Context, c *joinCall, t tokenRecord, version uint64) (resumed bool, err error) {
	if t.UsedBy == c.keyHash {
		return true, nil
	}
	t.UsedBy, t.UsedAt = c.keyHash, s.cfg.Now().UTC()
	err = putJSON(ctx, s.cfg.Store, bucketTokens, c.req.GetTokenId(), t, &version)
	if !errors.Is(err, store.ErrConflict) {
		return false, err
	}
	t, _, found, err := getJSON[tokenRecord](ctx, s.cfg.Store, bucketTokens, c.req.GetTokenId())
	if err != nil {
		return false, err
	}
	if found && t.UsedBy == c.keyHash {
		return true, nil
	}
	return false, refuse(codes.PermissionDenied, "token-used", "the token was used meanwhile")
}

// admit pins the zone, takes its bundle and issues its certificate. Repeating it changes nothing but the
// certificate.
func (s *Server) admit(ctx context.Context, c *joinCall, resumed bool) (identity.Issued, error) {
	book := s.cfg.Trust.Book()
	old, _, found, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, c.zone)
	if err != nil {
		return identity.Issued{}, err
	}
	if old.Revoked, err = s.revokedAtEnd(ctx, c.zone, old); err != nil {
		return identity.Issued{}, err
	}
	if found && (old.Removed || old.Incarnation != c.incarnation) {
		// The operator made a new token for the zone: its trust begins anew, by the join. A trust domain that was
		// revoked is never released.
		book.Remove(old.TrustDomain)
		if old.Revoked == nil {
			book.Release(old.TrustDomain)
		}
		if err := s.forgetZone(ctx, c.zone, "joined as another incarnation"); err != nil {
			return identity.Issued{}, err
		}
	}
	if _, err := s.keepStatement(ctx, c.req.GetBundle(), c.bundle, true); err != nil {
		return identity.Issued{}, refuse(codes.PermissionDenied, "bundle", "the bundle: %v", err)
	}
	issued, err := s.cfg.Trust.IssueZone(c.key, c.zone)
	if err != nil {
		return identity.Issued{}, err
	}
	_, err = update(ctx, s.cfg.Store, bucketIDs, c.zone, func(id *zoneIdentity, found bool) error {
		if found && id.Incarnation != c.incarnation {
			id.Retired = append(id.Retired, id.Incarnation)
		}
		if id.Incarnation == old.Incarnation {
			id.Revoked = old.Revoked
		}
		previous := ""
		if resumed {
			previous = id.Serial
		}
		joined := id.JoinedAt
		if !resumed || joined.IsZero() {
			joined = s.cfg.Now().UTC()
		}
		*id = zoneIdentity{
			Incarnation: c.incarnation, TrustDomain: c.td, PublicKey: c.spki, JoinedAt: joined,
			Serial: issued.Serial, Previous: previous, Expires: issued.Leaf.NotAfter, Retired: id.Retired, Burnt: id.burnt(),
		}
		return nil
	})
	if err != nil {
		return identity.Issued{}, err
	}
	// Again, now that the zone is on the list: a session that opened in between found it on neither side.
	s.relay(c.req.GetBundle())
	err = s.setZone(ctx, c.zone, func(z *mesh.ZoneStatus) {
		z.Joined, z.Incarnation, z.TrustDomain = true, c.incarnation, c.td
		z.BundleSequence = c.bundle.Sequence
		z.Version, z.CertificateExpires = c.req.GetVersion(), issued.Leaf.NotAfter
	})
	return issued, err
}

// Renew implements the service.
func (s *Server) Renew(ctx context.Context, req *federationpb.RenewRequest) (*federationpb.RenewResponse, error) {
	state, from, err := connection(ctx)
	if err != nil {
		return nil, err
	}
	exporter, err := identity.Exporter(state)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "TLS 1.3 is required")
	}
	issued, err := s.renew(ctx, req, exporter)
	if err != nil {
		return nil, s.answered(ctx, "renew", req.GetZone(), from, err)
	}
	s.cfg.Log.InfoContext(ctx, "zone certificate renewed", "zone", req.GetZone(), "expires", issued.Leaf.NotAfter, "from", from)
	return &federationpb.RenewResponse{CertificateChain: identity.DERChain(issued.Chain), GlobalRoots: s.cfg.Trust.Roots()}, nil
}

func (s *Server) renew(ctx context.Context, req *federationpb.RenewRequest, exporter []byte) (identity.Issued, error) {
	zone := req.GetZone()
	if mesh.CheckZoneName(zone) != nil || len(req.GetCsr()) > identity.MaxCSRBytes || len(req.GetIncarnation()) > 64 {
		return identity.Issued{}, refuse(codes.InvalidArgument, "malformed", "zone, CSR or incarnation is malformed")
	}
	denied := refuse(codes.Unauthenticated, "proof", "the zone is not accepted")
	id, _, found, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
	if err != nil {
		return identity.Issued{}, err
	}
	if !found {
		return identity.Issued{}, denied
	}
	pinned, err := x509.ParsePKIXPublicKey(id.PublicKey)
	if err != nil {
		return identity.Issued{}, fmt.Errorf("pinned key of %s: %w", zone, err)
	}
	transcript := identity.RenewTranscript{Exporter: exporter, CSR: req.GetCsr(), Who: zone, Incarnation: mesh.Incarnation(req.GetIncarnation())}
	if identity.VerifyTranscript(pinned, transcript.Bytes(), req.GetProof()) != nil {
		return identity.Issued{}, denied
	}
	if id.ended() || string(id.Incarnation) != req.GetIncarnation() {
		return identity.Issued{}, refuse(codes.PermissionDenied, "revoked", "this life of zone %s was removed or revoked", zone)
	}
	key, err := identity.ParseCSR(req.GetCsr())
	if err != nil {
		return identity.Issued{}, refuse(codes.InvalidArgument, "malformed", "%v", err)
	}
	issued, err := s.cfg.Trust.IssueZone(key, zone)
	if err != nil {
		return identity.Issued{}, err
	}
	_, err = update(ctx, s.cfg.Store, bucketIDs, zone, func(now *zoneIdentity, _ bool) error {
		if now.ended() || now.Incarnation != id.Incarnation {
			return refuse(codes.PermissionDenied, "revoked", "this life of zone %s was removed or revoked", zone)
		}
		now.Previous, now.Serial, now.Expires = now.Serial, issued.Serial, issued.Leaf.NotAfter
		return nil
	})
	if err != nil {
		return identity.Issued{}, err
	}
	return issued, s.setZone(ctx, zone, func(z *mesh.ZoneStatus) { z.CertificateExpires = issued.Leaf.NotAfter })
}
