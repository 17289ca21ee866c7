package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peer"
	"github.com/comity-mesh/comity/dataplane/tap"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// defaultLease is assumed until the zone says how long a lease lasts.
	defaultLease = 10 * time.Second
	// codeFenced is the zone's code for "another stream speaks for this proxy now".
	codeFenced  = "fenced"
	fencedPause = 15 * time.Second
	// leastLease bounds how often the zone can make an agent report.
	leastLease = 300 * time.Millisecond
)

// attendant holds the proxy's lease at the zone: it says what the proxy is, then how it does, on every
// change and often enough, on one stream that it opens again whenever it breaks.
type attendant struct {
	spec    *enrolpb.AgentReport // first frame
	trust   func(roots [][]byte) error
	unknown func() // called when the zone does not know the certificate
	log     *slog.Logger
	metrics *agentMetrics
	drain   time.Duration // how long leaving may take
	peers   *peer.Peers   // of an ingress; else nil
	sever   func([]*enrolpb.Address)
	names   func([]*enrolpb.Name)
	inspect func(ctx context.Context, what string, w io.Writer) error
	trials  *trials     // nil where there is no Envoy
	tap     *tap.Server // likewise
	self    func() tap.Self
	top     func(context.Context, mesh.Top, func(mesh.Flows) error) error

	mu       sync.Mutex
	health   *enrolpb.Health
	accepted bool // by the zone, at least once
	attached bool // a stream is open and accepted

	wake  chan struct{} // health has changed; one slot
	loads *loads

	answers sync.WaitGroup // questions that are being answered
}

func newAttendant(spec *enrolpb.AgentReport) *attendant {
	return &attendant{spec: spec, health: &enrolpb.Health{}, wake: make(chan struct{}, 1), loads: newLoads()}
}

// report replaces the health that the zone is told.
func (a *attendant) report(h *enrolpb.Health) {
	a.mu.Lock()
	a.health = h
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // a wake-up is already waiting; it will read the newest
	}
}

func (a *attendant) present() *enrolpb.AgentReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Health{Health: a.health}}
}

func (a *attendant) attachedNow() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attached
}

// everAccepted says whether the zone has registered this proxy since the agent started.
func (a *attendant) everAccepted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accepted
}

func (a *attendant) setAttached(v bool) {
	a.mu.Lock()
	a.attached = v
	a.accepted = a.accepted || v
	a.mu.Unlock()
	if !v && a.peers != nil {
		a.peers.Attended(false)
	}
	if v {
		a.metrics.attached.Set(1)
	} else {
		a.metrics.attached.Set(0)
	}
}

// errRefused is the zone's word against this proxy.
type errRefused struct{ code, reason string }

func (e *errRefused) Error() string {
	return fmt.Sprintf("the zone refuses: %s (%s)", e.reason, e.code)
}

// run keeps the lease until ctx ends, and then leaves in order. An error is the zone's refusal of what
// it was told first, which only another configuration mends; later refusals are retried, because
// they may be the zone's to mend.
//
// Each stream has a connection of its own, so that it presents the certificate of the moment.
func (a *attendant) run(ctx context.Context, connect func() (*grpc.ClientConn, error)) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, Multiplier: 1.6, RandomizationFactor: 0.4, MaxInterval: 3 * time.Second}
	wait.Reset()
	for {
		was := a.attachedNow()
		err := a.connected(ctx, connect)
		was = was || a.attachedNow()
		a.setAttached(false)
		if ctx.Err() != nil {
			return nil
		}
		if refused, ok := errors.AsType[*errRefused](err); ok && !a.everAccepted() {
			return &fault.Error{
				Code: "REGISTRATION-REFUSED", What: "the zone refuses to register this proxy",
				Cause: fmt.Sprintf("%s (%s)", refused.reason, refused.code),
				Try:   "correct what the cause names in the proxy's configuration", Docs: "docs/configuration.md", Exit: fault.ExitDenied, Err: err,
			}
		}
		if was {
			wait.Reset()
		}
		if status.Code(err) == codes.Unauthenticated {
			a.unknown()
		}
		delay := wait.NextBackOff()
		if refused, ok := errors.AsType[*errRefused](err); ok && refused.code == codeFenced {
			// Another agent has taken this name. Whoever comes later wins; don't take turns.
			delay = fencedPause
		}
		a.log.Warn("the lease at the zone is interrupted", "reason", err, "retry_in", delay.Round(time.Millisecond))
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

func (a *attendant) connected(ctx context.Context, connect func() (*grpc.ClientConn, error)) error {
	cc, err := connect()
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }() // fails only when closed already
	return a.session(ctx, enrolpb.NewEnrolmentClient(cc))
}

// session is one stream, until it breaks or ctx ends.
func (a *attendant) session(ctx context.Context, client enrolpb.EnrolmentClient) error {
	// The stream outlives ctx by the time it takes to leave.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer a.answers.Wait()
	defer cancel()
	opening := context.AfterFunc(ctx, cancel)
	stream, err := client.Attend(own, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if !opening() {
		return ctx.Err()
	}
	for _, m := range []*enrolpb.AgentReport{a.spec, a.present()} {
		if err := a.first(stream, m); err != nil {
			return err
		}
	}
	notices, failed := receive(own, stream)
	lease := defaultLease
	beat := time.NewTimer(lease / 3)
	defer beat.Stop()
	// nil until the zone has named peers on this stream: one that doesn't know of them takes no word about them.
	var links <-chan struct{}
	var words <-chan peer.Heard
	for {
		report := a.present
		select {
		case n := <-notices:
			if ask := n.GetAsk(); ask != nil {
				a.answers.Go(func() { a.answer(own, client, ask) })
				continue
			}
			d, err := a.notice(n)
			if err != nil {
				return err
			}
			if d > 0 {
				lease = d
				beat.Reset(lease / 3)
			}
			if n.GetPeers() == nil || a.peers == nil || links != nil {
				continue
			}
			links, words, report = a.peers.Changed(), a.peers.Words(), a.links
		case <-links:
			report = a.links
		case w := <-words:
			report = func() *enrolpb.AgentReport {
				return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_PeerWord{PeerWord: &enrolpb.PeerWord{Session: w.Session, Word: w.Word}}}
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return errors.New("the zone ended the stream")
			}
			return err
		case <-a.loads.wake:
			if err := a.tellLoads(stream); err != nil {
				return err
			}
			continue
		case <-a.wake:
		case <-beat.C:
		case <-ctx.Done():
			return a.leave(stream, notices, failed)
		}
		// At the stream's end sending fails with io.EOF; what ended it comes from the receiver.
		if err := stream.Send(report()); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		beat.Reset(lease / 3)
	}
}

// tellLoads tells a zone that has accepted this proxy; before that, begin wakes us again.
func (a *attendant) tellLoads(stream attendStream) error {
	if !a.attachedNow() {
		return nil
	}
	r := a.loads.next()
	if r == nil {
		return nil
	}
	// As with health: what ended the stream comes from the receiver.
	if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (a *attendant) links() *enrolpb.AgentReport {
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_PeerLinks{PeerLinks: a.peers.Links()}}
}

type attendStream = grpc.BidiStreamingClient[enrolpb.AgentReport, enrolpb.ZoneNotice]

// first sends before anybody receives: where sending only says that the stream has ended, it looks why.
func (a *attendant) first(stream attendStream, m *enrolpb.AgentReport) error {
	err := stream.Send(m)
	if !errors.Is(err, io.EOF) {
		return err
	}
	for {
		n, err := stream.Recv()
		if err != nil {
			return err
		}
		if _, err := a.notice(n); err != nil {
			return err
		}
	}
}

func receive(ctx context.Context, stream attendStream) (<-chan *enrolpb.ZoneNotice, <-chan error) {
	notices, failed := make(chan *enrolpb.ZoneNotice), make(chan error, 1)
	go func() {
		for {
			n, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case notices <- n:
			case <-ctx.Done():
				return
			}
		}
	}()
	return notices, failed
}

// notice acts on the zone's word; it returns the lease where that was it.
func (a *attendant) notice(n *enrolpb.ZoneNotice) (time.Duration, error) {
	switch v := n.GetNotice().(type) {
	case *enrolpb.ZoneNotice_Accepted:
		lease := max(time.Duration(v.Accepted.GetLeaseMs())*time.Millisecond, leastLease)
		if !a.attachedNow() {
			a.log.Info("registered with the zone", "lease", lease)
		}
		a.setAttached(true)
		a.loads.begin(v.Accepted.GetTakesLoads())
		return lease, nil
	case *enrolpb.ZoneNotice_Refused:
		return 0, &errRefused{code: v.Refused.GetCode(), reason: v.Refused.GetReason()}
	case *enrolpb.ZoneNotice_Roots:
		if err := a.trust(v.Roots.GetZoneRoots()); err != nil {
			// The old roots stay in force; the stream is not at fault.
			a.log.Error("could not take the zone's new roots", "reason", err)
		}
	case *enrolpb.ZoneNotice_Peers:
		if a.peers == nil {
			break // meant for an ingress
		}
		if err := a.peers.Set(v.Peers); err != nil {
			a.log.Warn("not all of the other zones that the zone named can be used", "reason", err)
		}
		a.peers.Attended(true)
	case *enrolpb.ZoneNotice_PeerWord:
		switch {
		case a.peers == nil: // meant for an ingress
		case v.PeerWord.GetEnd():
			a.peers.End(v.PeerWord.GetSession())
		default:
			a.peers.Say(v.PeerWord.GetSession(), v.PeerWord.GetWord())
		}
	case *enrolpb.ZoneNotice_Sever:
		a.sever(v.Sever.GetAddresses())
	case *enrolpb.ZoneNotice_Names:
		a.names(v.Names.GetNames())
	case *enrolpb.ZoneNotice_Drain:
		if v.Drain {
			a.log.Info("this proxy is drained: the zone has everybody send it no new requests")
		} else {
			a.log.Info("this proxy is not drained any more")
		}
	default:
		a.log.Warn("the zone sent a notice that this version does not know")
	}
	return 0, nil
}

// leave has the endpoint withdrawn before its Envoy ends: the zone is told, and gets a.drain to pass it
// on to every client, or less if it says `drain`, meaning that all of them know.
func (a *attendant) leave(stream attendStream, notices <-chan *enrolpb.ZoneNotice, failed <-chan error) error {
	if err := stream.Send(&enrolpb.AgentReport{Report: &enrolpb.AgentReport_Leaving{Leaving: true}}); err != nil {
		a.log.Warn("could not tell the zone that this proxy is leaving", "reason", err)
		return nil
	}
	a.log.Info("leaving: the zone withdraws this proxy", "within", a.drain)
	t := time.NewTimer(a.drain)
	defer t.Stop()
	for {
		select {
		case n := <-notices:
			if n.GetDrain() {
				return stream.CloseSend()
			}
		case err := <-failed:
			a.log.Debug("the stream has ended", "reason", err)
			// The zone has heard it and hung up, or is gone; clients need their time all the same.
			failed = nil
		case <-t.C:
			return stream.CloseSend()
		}
	}
}
