package fedclient

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// host carries a session out on the zone's store. It implements federation.Host.
type host struct {
	client  *Client
	applier fedstore.Applier
	started atomic.Bool

	following following
}

func newHost(c *Client) *host {
	return &host{client: c, applier: fedstore.Applier{
		Store: c.cfg.Store, Origin: mesh.OriginGlobal, Peer: peer, Actor: peer, Check: judge,
	}, following: following{cancel: map[uint64]context.CancelFunc{}}}
}

// peer names global among the cursors of the store.
const peer = string(mesh.OriginGlobal)

// Follow implements federation.Host: the zone's own log, for what goes up.
func (h *host) Follow(ctx context.Context, from mesh.Cursor) (federation.Log, error) {
	return fedstore.Follow(ctx, h.client.cfg.Store, from, false)
}

// Snapshot implements federation.Host.
func (h *host) Snapshot(ctx context.Context, begin func(mesh.Cursor), add func([]mesh.Resource) error) error {
	return fedstore.Snapshot(ctx, h.client.cfg.Store, mesh.Origin(h.client.cfg.Zone), begin, add)
}

// Apply implements federation.Host: global's resources become copies in the zone's store.
func (h *host) Apply(ctx context.Context, b federation.Batch) ([]federation.Refusal, error) {
	refused, err := h.applier.Apply(ctx, b)
	if err != nil {
		return nil, err
	}
	h.client.applied(b.Cursor)
	for _, r := range refused {
		h.client.cfg.Log.WarnContext(ctx, "resource of global not taken", "key", r.Key.String(), "code", r.Code, "reason", r.Reason)
		h.client.cfg.Refused(r)
	}
	return refused, nil
}

// judge says what is wrong with a resource. A kind that this zone does not know is stored and passed
// over; a known kind that this zone can't read in full is refused whole.
func judge(r mesh.Resource) *federation.Refusal {
	no := func(code, reason string) *federation.Refusal {
		return &federation.Refusal{Key: r.Key, Revision: r.Changed, Code: code, Reason: reason}
	}
	if k, ok := policy.Lookup(string(r.Kind)); !ok || k.Kind != r.Kind {
		return no(federation.CodeUnknownKind, "this zone does not know the kind "+string(r.Kind))
	}
	if fields := policy.Validate(r); len(fields) > 0 {
		return no(federation.CodeInvalid, (&policy.InvalidError{Fields: fields}).Error())
	}
	return nil
}

// Statement implements federation.Host.
func (h *host) Statement(ctx context.Context, st *federationpb.Statement) (refused string, err error) {
	s := statements.FromProto(st)
	err = h.client.cfg.Book.Receive(ctx, s, imports.ByGlobal, time.Now())
	switch {
	case err == nil || errors.Is(err, imports.ErrUnverified):
		return "", nil
	case errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil:
		return "", err
	}
	h.client.cfg.Log.WarnContext(ctx, "statement refused", "zone", s.Zone, "kind", s.Kind, "subject", s.Subject, "sequence", s.Sequence, "error", err)
	return err.Error(), nil
}

// Status implements federation.Host; global never sends one.
func (h *host) Status(context.Context, *federationpb.StatusReport) error {
	return fmt.Errorf("%w: a status report from global", federation.ErrProtocol)
}

// Handle implements federation.Host.
func (h *host) Handle(ctx context.Context, e federation.Effect) error {
	log := h.client.cfg.Log
	switch e := e.(type) {
	case federation.Started:
		h.started.Store(true)
		h.client.mu.Lock()
		h.client.state.Connected, h.client.state.Since, h.client.state.Epoch, h.client.state.LastError = true, time.Now().UTC(), e.Epoch, ""
		h.client.state.Refused = ""
		h.client.advance()
		h.client.mu.Unlock()
		h.client.cfg.Turned()
		log.InfoContext(ctx, "session with global", "epoch", e.Epoch, "protocol", e.Protocol)
	case federation.Refused:
		log.WarnContext(ctx, "global did not take a resource of this zone", "key", e.Refusal.Key.String(), "code", e.Refusal.Code, "reason", e.Refusal.Reason)
	case federation.StatementAnswered:
		if why := e.Ack.GetRefused(); why != "" {
			log.WarnContext(ctx, "global refused a statement of this zone", "kind", e.Ack.GetKind(), "subject", e.Ack.GetSubject(), "reason", why)
		}
	case federation.StatementRejected:
		log.WarnContext(ctx, "statement not taken from global", "zone", e.Statement.GetZone(), "reason", e.Reason)
	case federation.Asked:
		go h.answer(ctx, e.Query) // an answer takes its time; the session bounds how many are open
	case federation.Withdrawn:
		h.withdrawn(e.ID)
	}
	return nil
}

// answer answers a question of global, on the session on which it was put: the next one numbers its own.
func (h *host) answer(ctx context.Context, q *federationpb.Query) {
	h.client.mu.Lock()
	link := h.client.link
	h.client.mu.Unlock()
	if link == nil {
		return
	}
	if q.GetFollow() {
		h.follow(ctx, link, q)
		return
	}
	data, err := h.client.cfg.Ask(ctx, q.GetWhat(), q.GetSubject())
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	link.Do(func(s *federation.ZoneSession) { s.Answer(q.GetId(), data, problem) })
}
