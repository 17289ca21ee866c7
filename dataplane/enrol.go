package dataplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// zonePath is the path of the zone control plane's identity in its trust domain.
	zonePath = "/fed/zone-cp"
	// callWithin bounds one call to the enrolment service.
	callWithin = 10 * time.Second
)

// enroller gets certificates for one proxy from its zone.
type enroller struct {
	proxy    mesh.ProxyID
	instance *instance
	token    *identity.EnrolToken // nil: none was given
	// addresses override where the enrolment service is; empty: as the token or the instance says.
	addresses []string
	cred      *credential
	log       *slog.Logger
	metrics   *agentMetrics
	now       func() time.Time
	// lookAgain bounds sleeping toward a renewal: a machine that was suspended keeps wall time only.
	lookAgain time.Duration
	early     chan struct{} // renew before it is time; one slot
	rooting   sync.Mutex    // roots come from renewals and from the lease
}

// admit gets the first certificate of this run: by the registered instance key, or else by token. It
// retries for as long as the zone can't be reached; an error is the zone's refusal.
func (e *enroller) admit(ctx context.Context) error {
	if e.instance.Enrolled {
		err := e.restore(ctx)
		if err == nil || !refusal(err) || e.token == nil || e.token.ID == e.instance.TokenID {
			return err
		}
		e.log.Warn("the zone no longer knows this instance; enrolling with the new token", "reason", err)
		fresh, err := identity.NewKey()
		if err != nil {
			return err
		}
		e.instance.key, e.instance.Enrolled = fresh, false
	}
	if e.token == nil {
		return &fault.Error{
			Code: "TOKEN-MISSING", What: "there is no enrolment token and no earlier enrolment",
			Try: "create one in the zone (comity token create-enrol) and give it with tokenFile", Docs: "docs/security.md", Exit: fault.ExitUsage,
		}
	}
	if err := e.enrol(ctx); err != nil {
		return err
	}
	// The enrolled key is the instance key and stays the agent's own: Envoy gets another at once.
	return e.persist(ctx, "renew", e.renew)
}

// restore is the way back after a restart: the roots of the instance file, a certificate by its key.
func (e *enroller) restore(ctx context.Context) error {
	b, err := e.instance.bundle()
	if err != nil {
		return err
	}
	if err := e.cred.setRoots(b, e.now()); err != nil {
		return err
	}
	return e.persist(ctx, "renew", e.renew)
}

// persist tries until it works or the zone refuses.
func (e *enroller) persist(ctx context.Context, what string, try func(context.Context) error) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 100 * time.Millisecond, Multiplier: 1.6, RandomizationFactor: 0.3, MaxInterval: 5 * time.Second}
	wait.Reset()
	for {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return f // this machine's, not the zone's
		}
		if refusal(err) {
			return e.explain(err)
		}
		delay := wait.NextBackOff()
		e.log.Warn("the zone could not be asked; trying again", "what", what, "reason", err, "retry_in", delay.Round(time.Millisecond))
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// refusal says that the zone answered no, so that asking again the same way is of no use.
func refusal(err error) bool {
	if errors.Is(err, identity.ErrPeer) {
		return true
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.NotFound,
		codes.FailedPrecondition, codes.AlreadyExists, codes.Unimplemented:
		return true
	}
	return false
}

func (e *enroller) explain(err error) error {
	if errors.Is(err, identity.ErrPeer) {
		return &fault.Error{
			Code: "ZONE-IDENTITY", What: "whoever answers as the zone's control plane is not it", Err: err,
			Try: "check the address; if the zone was rebuilt, enrol again with a new token", Docs: "docs/security.md", Exit: fault.ExitDenied,
		}
	}
	return &fault.Error{
		Code: "ENROL-REFUSED", What: fmt.Sprintf("the zone refuses %s", e.proxy),
		Cause: status.Convert(err).Message(), Err: err,
		Try: "check that the token is neither used up nor expired and is for this role, namespace and name; or create a new one", Docs: "docs/security.md", Exit: fault.ExitDenied,
	}
}

func (e *enroller) endpoints() []string {
	switch {
	case len(e.addresses) > 0:
		return e.addresses
	case e.token != nil:
		return e.token.Endpoints
	}
	return e.instance.Endpoints
}

// enrol proves to know the token, to a zone that proves to hold the pinned root.
func (e *enroller) enrol(ctx context.Context) error {
	t := *e.token
	if err := e.instance.save(); err != nil { // before the zone registers it, so that it is never lost
		return err
	}
	csr, err := identity.NewCSR(e.instance.key)
	if err != nil {
		return err
	}
	return e.persist(ctx, "enrol", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callWithin)
		defer cancel()
		d := &dialer{addresses: e.endpoints(), tls: func() *tls.Config {
			return identity.PinnedClientTLS(nil, t.Pin, zonePath, identity.TLSOptions{Now: e.now})
		}}
		cc, state, err := d.once(ctx)
		if err != nil {
			return err
		}
		defer e.hangUp(cc)
		exporter, err := identity.Exporter(state)
		if err != nil {
			return err
		}
		proof, err := t.Prove(identity.EnrolTranscript{Exporter: exporter, CSR: csr, TokenID: t.ID, Proxy: e.proxy}.Bytes())
		if err != nil {
			return err
		}
		res, err := enrolpb.NewEnrolmentClient(cc).Enrol(ctx, &enrolpb.EnrolRequest{
			Role: string(e.proxy.Role), Namespace: e.proxy.Namespace, Name: e.proxy.Name, TokenId: t.ID, Csr: csr, Proof: proof,
		})
		if err != nil {
			return err
		}
		return e.enrolled(res, state)
	})
}

// enrolled takes the zone's answer after checking it against what the pinned connection has proved.
func (e *enroller) enrolled(res *enrolpb.EnrolResponse, state tls.ConnectionState) error {
	pinned, err := identity.PinnedBundle(state, e.token.Pin, zonePath, e.now())
	if err != nil {
		return err
	}
	if td := mesh.TrustDomain(res.GetTrustDomain()); td != pinned.TrustDomain {
		return fmt.Errorf("%w: it enrols for trust domain %q and proves %q", identity.ErrPeer, td, pinned.TrustDomain)
	}
	id, err := identity.ParseID(res.GetSpiffeId())
	if err != nil || id.TrustDomain() != pinned.TrustDomain {
		return fmt.Errorf("%w: it gave the identity %q", identity.ErrPeer, res.GetSpiffeId())
	}
	b, err := bundleOf(pinned.TrustDomain, res.GetZoneRoots())
	if err != nil {
		return err
	}
	if err := e.cred.setRoots(b, e.now()); err != nil {
		return err
	}
	i := e.instance
	i.Enrolled, i.TokenID, i.Zone, i.TrustDomain = true, e.token.ID, res.GetZone(), pinned.TrustDomain
	i.SPIFFEID, i.Endpoints, i.XDSAddress, i.Roots = id.String(), e.endpoints(), res.GetXdsAddress(), string(b.PEM())
	if err := i.save(); err != nil {
		return err
	}
	e.log.Info("enrolled with the zone", "zone", i.Zone, "identity", i.SPIFFEID, "token", i.TokenID)
	return nil
}

func bundleOf(td mesh.TrustDomain, raw [][]byte) (identity.Bundle, error) {
	roots := make([]*x509.Certificate, 0, len(raw))
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return identity.Bundle{}, fmt.Errorf("roots of the zone: %w", err)
		}
		roots = append(roots, c)
	}
	if len(roots) == 0 {
		return identity.Bundle{}, errors.New("roots of the zone: there are none")
	}
	return identity.Bundle{TrustDomain: td, Authorities: roots}, nil
}

// renew gets a certificate for a fresh key: over mTLS while the present one lasts, and by the instance
// key after that, or where the zone does not accept the present one (it was restored, say).
func (e *enroller) renew(ctx context.Context) error {
	if e.cred.usable(e.now()) {
		err := e.renewWith(ctx, e.cred.certificate)
		if code := status.Code(err); code != codes.FailedPrecondition && code != codes.PermissionDenied && code != codes.Unauthenticated {
			return err
		}
		e.log.Warn("the zone does not accept the present certificate; renewing by the instance key", "reason", err)
	}
	return e.renewWith(ctx, nil)
}

func (e *enroller) renewWith(ctx context.Context, present identity.CertSource) error {
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	d := &dialer{addresses: e.endpoints(), tls: e.zoneTLS(present)}
	cc, state, err := d.once(ctx)
	if err != nil {
		return err
	}
	defer e.hangUp(cc)
	exporter, err := identity.Exporter(state)
	if err != nil {
		return err
	}
	proof, err := identity.SignTranscript(e.instance.key, identity.RenewTranscript{Exporter: exporter, CSR: csr, Who: e.proxy.String()}.Bytes())
	if err != nil {
		return err
	}
	res, err := enrolpb.NewEnrolmentClient(cc).Renew(ctx, &enrolpb.RenewRequest{
		Role: string(e.proxy.Role), Namespace: e.proxy.Namespace, Name: e.proxy.Name, Csr: csr, Proof: proof,
	})
	if err != nil {
		return err
	}
	return e.renewed(res, key)
}

func (e *enroller) renewed(res *enrolpb.RenewResponse, key *ecdsa.PrivateKey) error {
	if len(res.GetZoneRoots()) > 0 {
		if err := e.trust(res.GetZoneRoots()); err != nil {
			return err
		}
	}
	chain, err := identity.ParseDERChain(res.GetCertificateChain())
	if err != nil {
		return fmt.Errorf("certificate from the zone: %w", err)
	}
	if err := e.cred.setCertificate(chain, key, e.instance.SPIFFEID, e.now()); err != nil {
		return err
	}
	_, until := e.cred.lifetime()
	e.metrics.certExpires.Set(float64(until.Unix()))
	return nil
}

// trust takes new roots of the zone, sent over a connection that the present ones vouch for.
func (e *enroller) trust(raw [][]byte) error {
	e.rooting.Lock()
	defer e.rooting.Unlock()
	b, err := bundleOf(e.instance.TrustDomain, raw)
	if err != nil {
		return err
	}
	if string(b.PEM()) == e.instance.Roots {
		return nil
	}
	if err := e.cred.setRoots(b, e.now()); err != nil {
		return err
	}
	e.instance.Roots = string(b.PEM())
	e.log.Info("the zone's roots changed", "roots", len(b.Authorities))
	return e.instance.save()
}

func (e *enroller) zoneTLS(cert identity.CertSource) func() *tls.Config {
	return func() *tls.Config {
		return identity.ClientTLS(cert, e.cred, identity.AuthorizeOneOf(e.instance.TrustDomain.ID(zonePath)), identity.TLSOptions{Now: e.now})
	}
}

func (e *enroller) hangUp(cc *grpc.ClientConn) {
	if err := cc.Close(); err != nil {
		e.log.Debug("closing a connection to the zone", "reason", err)
	}
}

// keep renews the certificate at about half of its life until ctx ends. While the zone can't be
// reached the old one serves on; the log grows louder from 75 % of its life.
func (e *enroller) keep(ctx context.Context) error {
	for {
		received, until := e.cred.lifetime()
		life := until.Sub(received)
		// A tenth either way, so that machines that started together don't renew together.
		if !e.sleepUntil(ctx, received.Add(time.Duration(float64(life)*(0.45+0.1*rand.Float64()))), e.early) { //nolint:gosec // jitter
			return nil
		}
		if !e.renewUntilDone(ctx, until, life) {
			return nil
		}
		e.metrics.renewals.WithLabelValues("ok").Inc()
		_, until = e.cred.lifetime()
		e.log.Info("certificate renewed", "expires", until)
	}
}

func (e *enroller) renewUntilDone(ctx context.Context, until time.Time, life time.Duration) bool {
	wait := &backoff.ExponentialBackOff{
		InitialInterval: min(time.Second, life/100), Multiplier: 2, RandomizationFactor: 0.3, MaxInterval: life / 10,
	}
	wait.Reset()
	for {
		err := e.renew(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		e.metrics.renewals.WithLabelValues("failed").Inc()
		say := e.log.Warn
		if e.now().After(until.Add(-life / 4)) {
			say = e.log.Error
		}
		delay := wait.NextBackOff()
		say("could not renew the certificate", "reason", err, "expires", until, "retry_in", delay.Round(time.Millisecond))
		if !e.sleepUntil(ctx, e.now().Add(delay), nil) {
			return false
		}
	}
}

// soon asks for a renewal now: the zone does not know the present certificate.
func (e *enroller) soon() {
	select {
	case e.early <- struct{}{}:
	default: // asked already
	}
}

// sleepUntil waits for a time of the wall clock, or for early; false means that ctx has ended.
func (e *enroller) sleepUntil(ctx context.Context, t time.Time, early <-chan struct{}) bool {
	for {
		left := t.Round(0).Sub(e.now().Round(0)) // wall clocks
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, e.lookAgain))
		select {
		case <-timer.C:
		case <-early:
			timer.Stop()
			return ctx.Err() == nil
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
