// Package spire lets a zone bring its own SPIRE: workloads get their keys and certificates from the
// SPIRE agent on their node, and the zone learns its own bundle and its control plane's certificate
// from the SPIFFE Workload API, or the bundle from the SPIRE server's API where its private socket
// is at hand. It needs no admin right and changes nothing in SPIRE. It is the only user of
// spire-api-sdk.
package spire

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// Config says where SPIRE is.
type Config struct {
	TrustDomain mesh.TrustDomain
	// AgentSocket is the path of the agent's Workload API socket.
	AgentSocket string
	// ServerSocket is the path of the SPIRE server's private API socket; "" if it is elsewhere. With
	// it, the bundle comes from GetBundle with SPIRE's own sequence numbers. The socket's owner and
	// mode are what protects it; it speaks no TLS.
	ServerSocket string
	// Poll is how often GetBundle is asked, because the server API has no watch; 0 means 5 s.
	Poll time.Duration
	Log  *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Source is a trust domain that SPIRE runs. It issues nothing. The last good bundle stays in force
// when SPIRE is away or says something unusable; Err tells.
type Source struct {
	cfg     Config
	updates identity.Updates
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	last  identity.Bundle
	known bool
	svids map[string]*tls.Certificate // by SPIFFE ID
	errs  map[string]error            // by what was asked: "agent", "server"
}

var _ identity.Source = (*Source)(nil)

const (
	agent       = "agent"
	server      = "server"
	callTimeout = 10 * time.Second
)

// Open begins to follow SPIRE until ctx ends or Close; it does not wait for SPIRE to answer.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	if err := mesh.CheckTrustDomain(string(cfg.TrustDomain)); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(cfg.AgentSocket) || cfg.ServerSocket != "" && !filepath.IsAbs(cfg.ServerSocket) {
		return nil, errors.New("SPIRE sockets must be absolute paths")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Poll == 0 {
		cfg.Poll = 5 * time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Source{cfg: cfg, cancel: cancel, svids: map[string]*tls.Certificate{}, errs: map[string]error{}}
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+cfg.AgentSocket))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("SPIRE agent %s: %w", cfg.AgentSocket, err)
	}
	s.done.Go(func() {
		defer func() { _ = client.Close() }() // nothing is lost with it
		// It returns when ctx ends, or when the agent calls the request invalid; Err has it then.
		err := client.WatchX509Context(ctx, watcher{s})
		if ctx.Err() == nil {
			s.note(agent, fmt.Errorf("the watch has ended: %w", err))
		}
	})
	if cfg.ServerSocket == "" {
		return s, nil
	}
	conn, err := grpc.NewClient("unix://"+cfg.ServerSocket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*identity.MaxBundleBytes)))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("SPIRE server %s: %w", cfg.ServerSocket, err)
	}
	s.done.Go(func() {
		defer func() { _ = conn.Close() }() // nothing is lost with it
		s.poll(ctx, bundlev1.NewBundleClient(conn))
	})
	return s, nil
}

// Close ends all watches and waits for them.
func (s *Source) Close() {
	s.cancel()
	s.done.Wait()
}

// TrustDomain implements identity.Source.
func (s *Source) TrustDomain() mesh.TrustDomain { return s.cfg.TrustDomain }

// Bundle implements identity.Source.
func (s *Source) Bundle(ctx context.Context) (identity.Bundle, error) {
	b, err := s.updates.Wait(ctx)
	if err != nil {
		return identity.Bundle{}, errors.Join(err, s.Err())
	}
	return b, nil
}

// Updates implements identity.Source.
func (s *Source) Updates(ctx context.Context) <-chan identity.Bundle { return s.updates.Watch(ctx) }

// Issue implements identity.Source: always identity.ErrCannotIssue, SPIRE's agents issue.
func (s *Source) Issue(context.Context, *ecdsa.PublicKey, identity.ID, time.Duration) (identity.Issued, error) {
	return identity.Issued{}, identity.ErrCannotIssue
}

// Certificate gives the newest certificate that the agent has for this process under the ID, such as
// the control plane's <trust domain>/fed/zone-cp, which needs a registration entry in SPIRE.
func (s *Source) Certificate(id string) identity.CertSource {
	return func() (*tls.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		c := s.svids[id]
		if c == nil {
			return nil, fmt.Errorf("SPIRE has no certificate for %s here: it needs a registration entry", id)
		}
		return c, nil
	}
}

// Err is what SPIRE's agent or server last failed with, nil while both do well.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs[agent], s.errs[server])
}

// note remembers an error, or with nil that all is well, and logs when that changes.
func (s *Source) note(who string, err error) {
	s.mu.Lock()
	old := s.errs[who]
	if err != nil {
		err = fmt.Errorf("SPIRE %s: %w", who, err)
	}
	s.errs[who] = err
	s.mu.Unlock()
	switch {
	case err != nil && (old == nil || old.Error() != err.Error()):
		s.cfg.Log.Warn("SPIRE has a problem; the last good state stays in force", "error", err)
	case err == nil && old != nil:
		s.cfg.Log.Info("SPIRE is well again", "part", who)
	}
}

// watcher receives from the Workload API. Each update is the full state.
type watcher struct{ s *Source }

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	err := w.s.takeBundle(c)
	w.s.note(agent, errors.Join(err, w.s.takeSVIDs(c.SVIDs)))
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w watcher) OnX509ContextWatchError(err error) { w.s.note(agent, err) }

func (s *Source) takeSVIDs(list []*x509svid.SVID) error {
	svids := make(map[string]*tls.Certificate, len(list))
	var refused error
	for _, v := range list {
		// Our own rules count for SPIRE's certificates too: peers apply them.
		id, err := identity.LeafID(v.Certificates[0])
		if err != nil {
			refused = errors.Join(refused, fmt.Errorf("certificate of %s: %w", v.ID, err))
			continue
		}
		svids[id.String()] = identity.TLSCertificate(v.Certificates, v.PrivateKey)
	}
	s.mu.Lock()
	s.svids = svids
	s.mu.Unlock()
	return refused
}

// takeBundle takes the bundle from the Workload API, unless the server's API gives it.
func (s *Source) takeBundle(c *workloadapi.X509Context) error {
	if s.cfg.ServerSocket != "" {
		return nil
	}
	td, err := spiffeid.TrustDomainFromString(string(s.cfg.TrustDomain))
	if err != nil {
		return err
	}
	b, err := c.Bundles.GetX509BundleForTrustDomain(td)
	if err != nil {
		return fmt.Errorf("the agent serves no bundle of %s: %w", s.cfg.TrustDomain, err)
	}
	return s.set(identity.Bundle{TrustDomain: s.cfg.TrustDomain, Authorities: b.X509Authorities()}, false)
}

// set puts a bundle in force if it is usable and new. The Workload API has no sequence numbers:
// there they come from the clock, which keeps them ascending over restarts.
func (s *Source) set(b identity.Bundle, sequenced bool) error {
	now := s.cfg.Now()
	if err := b.Check(now); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sequenced && s.known && b.Sequence < s.last.Sequence {
		return fmt.Errorf("%w: sequence %d after %d", identity.ErrRollback, b.Sequence, s.last.Sequence)
	}
	if !sequenced {
		b.Sequence = s.last.Sequence
		if s.known && b.Equal(s.last) {
			return nil
		}
		b.Sequence = max(s.last.Sequence+1, uint64(now.Unix()))
	}
	if s.known && sequenced && b.Sequence == s.last.Sequence && !b.Equal(s.last) {
		return fmt.Errorf("%w: sequence %d", identity.ErrBundleConflict, b.Sequence)
	}
	if len(b.Authorities) == 0 {
		s.cfg.Log.Error("SPIRE has withdrawn all authorities", "trust_domain", b.TrustDomain, "sequence", b.Sequence)
	}
	s.last, s.known = b, true
	s.updates.Set(b)
	return nil
}

func (s *Source) poll(ctx context.Context, client bundlev1.BundleClient) {
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	for {
		err := s.ask(ctx, client)
		if ctx.Err() != nil {
			return
		}
		s.note(server, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Source) ask(ctx context.Context, client bundlev1.BundleClient) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The mask is explicit: without one, newer servers may send more.
	got, err := client.GetBundle(ctx, &bundlev1.GetBundleRequest{
		OutputMask: &types.BundleMask{X509Authorities: true, RefreshHint: true, SequenceNumber: true},
	})
	if err != nil {
		return err
	}
	if got.GetTrustDomain() != string(s.cfg.TrustDomain) {
		return fmt.Errorf("it serves trust domain %q, not %s", got.GetTrustDomain(), s.cfg.TrustDomain)
	}
	if n := len(got.GetX509Authorities()); n > identity.MaxAuthorities {
		return fmt.Errorf("%w: %d authorities, more than %d", identity.ErrBundle, n, identity.MaxAuthorities)
	}
	hint := min(max(got.GetRefreshHint(), 0), int64(24*time.Hour/time.Second))
	b := identity.Bundle{TrustDomain: s.cfg.TrustDomain, Sequence: got.GetSequenceNumber(), RefreshHint: time.Duration(hint) * time.Second}
	for _, a := range got.GetX509Authorities() {
		// A tainted authority still vouches for certificates that are being replaced; only its
		// removal ends it.
		c, err := x509.ParseCertificate(a.GetAsn1())
		if err != nil {
			return fmt.Errorf("%w: %w", identity.ErrBundle, err)
		}
		b.Authorities = append(b.Authorities, c)
	}
	return s.set(b, true)
}
