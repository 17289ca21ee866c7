package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

func statementFromProto(s *federationpb.Statement) identity.Statement {
	return identity.Statement{
		Kind: s.GetKind(), Zone: s.GetZone(), TrustDomain: mesh.TrustDomain(s.GetTrustDomain()),
		Incarnation: mesh.Incarnation(s.GetIncarnation()), Sequence: s.GetSequence(), Subject: s.GetSubject(),
		Issued: time.UnixMilli(s.GetIssuedMs()), LeaseUntil: time.UnixMilli(s.GetLeaseUntilMs()),
		Withdrawn: s.GetWithdrawn(), Payload: s.GetPayload(), Signature: s.GetSignature(), Chain: s.GetChain(),
	}
}

// mayspeak reports whether a Zone's spec.namespaces covers a namespace.
func mayspeak(allowed []string, namespace string) bool {
	return len(allowed) == 1 && allowed[0] == "*" || slices.Contains(allowed, namespace)
}

// Statement implements federation.Host: the zone's own word, verified, kept and relayed to the others.
func (x *session) Statement(ctx context.Context, st *federationpb.Statement) (string, error) {
	s := x.server
	err := x.verify(ctx, st)
	var kept bool
	if err == nil {
		kept, err = s.keepStatement(ctx, st, statementFromProto(st), false)
	}
	if errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		s.metrics.statements.WithLabelValues(x.zone, kindLabel(st.GetKind()), "refused").Inc()
		s.cfg.Log.WarnContext(ctx, "statement refused", "zone", x.zone, "kind", kindLabel(st.GetKind()), "sequence", st.GetSequence(), "error", err)
		x.settle(about(st.GetKind(), st.GetSubject()), err.Error())
		return err.Error(), nil
	}
	x.settle(about(st.GetKind(), st.GetSubject()), "")
	s.metrics.statements.WithLabelValues(x.zone, kindLabel(st.GetKind()), "kept").Inc()
	if !kept {
		return "", nil // it, or a newer one, is here already
	}
	return "", x.show(ctx, st)
}

func kindLabel(kind string) string {
	switch kind {
	case federation.StatementBundle, federation.StatementExport, federation.StatementIngress:
		return kind
	}
	return "other"
}

// verify checks that the zone may say this, and that it did. Bundles are verified by the book.
func (x *session) verify(ctx context.Context, st *federationpb.Statement) error {
	s := x.server
	if st.GetZone() != x.zone || st.GetTrustDomain() != string(x.identity.TrustDomain) || st.GetIncarnation() != string(x.identity.Incarnation) {
		return errors.New("a zone speaks for itself only: its name, trust domain and incarnation are pinned at the join")
	}
	if st.GetKind() == federation.StatementBundle {
		return nil
	}
	bundle, ok := s.cfg.Trust.Book().BundleFor(x.identity.TrustDomain)
	if !ok {
		return errors.New("the zone's bundle is not known yet")
	}
	if err := identity.VerifyStatement(statementFromProto(st), bundle, s.cfg.Now()); err != nil {
		return err
	}
	switch st.GetKind() {
	case federation.StatementExport:
		return x.verifyExport(ctx, st)
	case federation.StatementIngress:
		var set mesh.IngressSet
		if st.GetSubject() != "" {
			return errors.New("an ingress statement has no subject")
		}
		if !st.GetWithdrawn() && json.Unmarshal(st.GetPayload(), &set) != nil {
			return errors.New("the payload is no IngressSet")
		}
		return nil
	}
	return fmt.Errorf("statements of kind %q are not known here", kindLabel(st.GetKind()))
}

func (x *session) verifyExport(ctx context.Context, st *federationpb.Statement) error {
	var e mesh.Export
	if st.GetWithdrawn() {
		return nil // who stops offering needs no permission
	}
	if err := json.Unmarshal(st.GetPayload(), &e); err != nil {
		return errors.New("the payload is no Export")
	}
	if mesh.CheckLabel(e.Namespace) != nil || mesh.CheckLabel(e.Service) != nil || st.GetSubject() != e.Namespace+"/"+e.Service {
		return errors.New("the subject is not the payload's namespace/service")
	}
	for _, id := range e.Identities {
		parsed, err := identity.ParseID(id)
		if err != nil || parsed.TrustDomain() != x.identity.TrustDomain {
			return errors.New("an export names identities of the zone's own trust domain only")
		}
	}
	spec, err := x.server.zone(ctx, x.zone)
	if err != nil {
		return err
	}
	if !mayspeak(spec.Namespaces, e.Namespace) {
		return fmt.Errorf("zone %s may not speak for namespace %s (spec.namespaces of the Zone)", x.zone, e.Namespace)
	}
	return nil
}

// keepStatement keeps a verified statement and relays it, unless a newer one is kept. A bundle goes through
// the book, which demands continuity; joined means that the zone has just proven its token.
func (s *Server) keepStatement(ctx context.Context, st *federationpb.Statement, verified identity.Statement, joined bool) (bool, error) {
	if st.GetKind() == federation.StatementBundle {
		changed, err := s.cfg.Trust.Book().Accept(verified, s.cfg.Now())
		if err != nil {
			return false, err
		}
		if changed || joined {
			if err := s.cfg.Trust.SaveBook(ctx, s.cfg.Store, verified.TrustDomain); err != nil {
				return false, err
			}
		}
	}
	kept, err := fedstore.PutStatement(ctx, s.cfg.Store, st)
	if err != nil || !kept {
		return false, err
	}
	s.relay(st)
	return true, nil
}

// relay hands a statement to every other zone's session.
func (s *Server) relay(st *federationpb.Statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for zone, x := range s.sessions {
		if zone != st.GetZone() {
			x.link.Do(func(g *federation.GlobalSession) { g.Relay(st) })
		}
	}
}

// relayAll hands every kept statement of the other zones to one session; it sends what its zone lacks.
func (s *Server) relayAll(ctx context.Context, x *session) error {
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketIDs, "")
	if err != nil {
		return fmt.Errorf("read identities: %w", err)
	}
	var all []*federationpb.Statement
	for _, r := range recs {
		if r.Key == x.zone {
			continue
		}
		list, err := fedstore.Statements(ctx, s.cfg.Store, r.Key)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	x.link.Do(func(g *federation.GlobalSession) { g.RelayAll(all) })
	return nil
}

// show puts what a statement says of the zone into its status.
func (x *session) show(ctx context.Context, st *federationpb.Statement) error {
	switch st.GetKind() {
	case federation.StatementBundle:
		return x.server.setZone(ctx, x.zone, func(z *mesh.ZoneStatus) { z.BundleSequence = st.GetSequence() })
	case federation.StatementIngress:
		var set mesh.IngressSet
		if !st.GetWithdrawn() {
			if err := json.Unmarshal(st.GetPayload(), &set); err != nil {
				return nil // verified before; nothing to show
			}
		}
		return x.server.setZone(ctx, x.zone, func(z *mesh.ZoneStatus) { z.Ingresses = set.Ingresses })
	}
	return nil
}
