package fedclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// Config is what a Client is made of.
type Config struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	Incarnation mesh.Incarnation // of the zone
	// Endpoints override where the join token says that global is; host:port.
	Endpoints []string
	Store     store.Store
	Book      *imports.Book
	// Statuses is what the zone reports.
	Statuses *federation.StatusBook
	// BundleStatement is the zone's newest word about its own authorities, for the join.
	BundleStatement func(ctx context.Context) (identity.Statement, error)
	// Statements are all of the zone's own, offered at the beginning of each session.
	Statements func() []identity.Statement
	// Ask answers a question about a proxy: what is "config", "stats" or "clusters", subject a mesh.ProxyID.
	Ask func(ctx context.Context, what, subject string) ([]byte, error)
	// Follow answers a question whose answer goes on, until there is no more, ctx ends or emit fails: what is "tap" or "top", subject
	// JSON, and what is emitted will be.
	Follow func(ctx context.Context, what, subject string, emit func(any) error) error
	// Turned is called after a session with global began, and after it ended.
	Turned func()
	// Refused is told of copies that were not taken, or are passed over.
	Refused func(federation.Refusal)
	Log     *slog.Logger
}

// Client is safe for concurrent use.
type Client struct {
	cfg     Config
	cred    *Credential
	wake    chan struct{} // capacity 1: a join succeeded
	joining sync.Mutex

	mu    sync.Mutex
	link  *federation.ZoneLink // nil without session
	state State
	// advanced is closed when state changes; nil while nobody waits.
	advanced chan struct{}
}

// State is how the zone stands to global.
type State struct {
	Membership
	Connected bool        `json:"connected"`
	Since     time.Time   `json:"since,omitzero"` // of Connected
	Epoch     uint64      `json:"epoch,omitempty"`
	Down      mesh.Cursor `json:"down"` // newest of global's log that is applied here
	LastError string      `json:"lastError,omitempty"`
	// Refused is what global said when it would not talk to the zone, as to one that was revoked or removed. It
	// stands until a session begins, whatever stops the attempts meanwhile.
	Refused string `json:"refused,omitempty"`
}

const (
	// Back-off between sessions: quick at first, because most interruptions are restarts.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 15 * time.Second
	// steady is how long a session lasts that went well.
	steady = 5 * time.Second
	// Ended for good, as far as global is concerned; an operator may still change its mind.
	refusedRetry = time.Minute
	// renewRetry is how often a renewal that failed is tried again.
	renewRetry = time.Minute
)

// New makes a client; Run keeps its session.
func New(cfg Config, cred *Credential) *Client {
	return &Client{cfg: cfg, cred: cred, wake: make(chan struct{}, 1)}
}

// State is how the zone stands to global now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Membership = c.cred.State()
	return s
}

// Changed is closed at the next change of State.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.advanced == nil {
		c.advanced = make(chan struct{})
	}
	return c.advanced
}

// Connected says whether there is a session with global now.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Connected
}

// Offer hands in new statements of the zone; those made while there is no session are offered at the
// beginning of the next one.
func (c *Client) Offer(list []identity.Statement) {
	c.mu.Lock()
	link := c.link
	c.mu.Unlock()
	if link == nil {
		return
	}
	link.Do(func(s *federation.ZoneSession) {
		for _, st := range list {
			s.Offer(statements.ToProto(st))
		}
	})
}

// Run holds the session until ctx ends. Global being away is no error.
func (c *Client) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.keepFresh(ctx) })
	retry := newRetries()
	for ctx.Err() == nil {
		if !c.cred.State().Joined() {
			select {
			case <-ctx.Done():
			case <-c.wake:
			}
			continue
		}
		began := time.Now()
		established, err := c.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.fail(ctx, err, established)
		wait := retry.after(time.Since(began))
		if e, ok := errors.AsType[*federation.EndedError](err); ok {
			switch {
			case e.RetryAfter > 0:
				wait = e.RetryAfter
			case e.Code == federation.ByeRevoked || e.Code == federation.ByeUnknownZone || e.Code == federation.ByeProtocol:
				wait = refusedRetry
			}
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(wait):
		}
	}
	return nil
}

// retries says how long to wait between sessions.
type retries struct{ backoff *backoff.ExponentialBackOff }

func newRetries() retries {
	r := retries{&backoff.ExponentialBackOff{
		InitialInterval: firstRetry, RandomizationFactor: 0.5, Multiplier: 1.7, MaxInterval: lastRetry,
	}}
	r.backoff.Reset()
	return r
}

// after is how long to wait after a session, or an attempt at one, of that length. Only one that went well for
// a while makes the next wait short: what stops a session each time it has begun (a zone's disk that is full, say) is
// not helped by haste.
func (r retries) after(lasted time.Duration) time.Duration {
	if lasted >= steady {
		r.backoff.Reset()
	}
	return r.backoff.NextBackOff()
}

func (c *Client) fail(ctx context.Context, err error, established bool) {
	c.mu.Lock()
	known := c.state.LastError == err.Error() && !established
	ended := c.state.Connected
	c.state.Connected, c.state.Since, c.state.LastError = false, time.Time{}, err.Error()
	c.state.Refused = cmp.Or(refusal(err), c.state.Refused)
	c.advance()
	c.mu.Unlock()
	if ended {
		c.cfg.Turned()
	}
	if !known { // an outage is one line, not one per attempt
		c.cfg.Log.WarnContext(ctx, "no session with global; the zone goes on without it", "error", err)
	}
}

// refusal is what global said, if it would not talk to the zone; empty for any other error.
func refusal(err error) string {
	if e, ok := errors.AsType[*federation.EndedError](err); ok && (e.Code == federation.ByeRevoked || e.Code == federation.ByeUnknownZone) {
		return e.Reason
	}
	if s, ok := status.FromError(err); ok && s.Code() == codes.PermissionDenied {
		return s.Message()
	}
	return ""
}

// session holds one session; established says that global welcomed it.
func (c *Client) session(ctx context.Context) (established bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := c.cred.State()
	if time.Now().After(m.Expires) {
		if err := c.renew(ctx); err != nil {
			return false, err
		}
	}
	conn, _, err := dial(ctx, c.endpoints(m.Endpoints), c.tls(c.cred.Certificate))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	head, err := c.cfg.Store.Head(ctx)
	if err != nil {
		return false, err
	}
	down, err := fedstore.Cursor(ctx, c.cfg.Store, peer)
	if err != nil {
		return false, err
	}
	s := federation.NewZoneSession(federation.ZoneConfig{
		Zone: c.cfg.Zone, Incarnation: c.cfg.Incarnation, Version: version.Version,
		Down: down, UpHead: head, Heads: heads(c.cfg.Book.Held()), Statuses: c.cfg.Statuses,
	})
	h := newHost(c)
	link := federation.NewZoneLink(s, h)
	stream, err := federationpb.NewFederationClient(conn).Session(ctx)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.link, c.state.Down = link, down
	c.mu.Unlock()
	// After the link is known: what is made from here on is offered to it, what was made before is
	// in the list.
	c.Offer(c.cfg.Statements())
	err = link.Run(ctx, stream)
	c.mu.Lock()
	c.link = nil
	c.mu.Unlock()
	return h.started.Load(), err
}

// applied notes how far global's log is in the store.
func (c *Client) applied(at mesh.Cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Down = at
	c.advance()
}

// advance tells those who wait for a change to look again; c.mu is held.
func (c *Client) advance() {
	if c.advanced != nil {
		close(c.advanced)
		c.advanced = nil
	}
}

func heads(list []identity.Statement) []*federationpb.StatementHead {
	out := make([]*federationpb.StatementHead, 0, len(list))
	for _, s := range list {
		out = append(out, &federationpb.StatementHead{
			Zone: s.Zone, Kind: s.Kind, Subject: s.Subject, Incarnation: string(s.Incarnation), Sequence: s.Sequence,
		})
	}
	return out
}

// tls is the configuration toward global, which must be what the zone joined.
func (c *Client) tls(cert identity.CertSource) *tls.Config {
	return identity.ClientTLS(cert, c.cred, identity.AuthorizeOneOf(c.cred.State().TrustDomain.ID(identity.GlobalCPPath)), identity.TLSOptions{})
}

// keepFresh renews the certificate at half of its life.
func (c *Client) keepFresh(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		at := c.cred.renewAt()
		switch wait := time.Until(at); {
		case at.IsZero():
			timer.Reset(renewRetry)
		case wait > 0:
			timer.Reset(wait)
		default:
			timer.Reset(renewRetry)
			if err := c.renew(ctx); err != nil && ctx.Err() == nil {
				c.cfg.Log.WarnContext(ctx, "the federation certificate was not renewed", "error", err)
				continue
			}
			timer.Reset(time.Until(c.cred.renewAt()))
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Synced waits until the zone has a session, and everything that global had when it began is in the
// zone's store. It returns how far that is.
func (c *Client) Synced(ctx context.Context) (mesh.Cursor, error) {
	for {
		moved := c.Changed() // before the look, so that nothing comes in between
		c.mu.Lock()
		s := c.state
		c.mu.Unlock()
		if s.Connected && s.Down.Incarnation != "" {
			return s.Down, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if s.LastError != "" {
				return mesh.Cursor{}, errors.New(s.LastError)
			}
			return mesh.Cursor{}, ctx.Err()
		}
	}
}
