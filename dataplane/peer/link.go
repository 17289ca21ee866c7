package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
)

const (
	// firstGrace is how long an ingress that has never answered may take before it counts as unreachable: two
	// zones that get to know each other don't open their doors in the same millisecond.
	firstGrace = 3 * time.Second
	// firstLimit bounds a handshake while nothing is known of the way.
	firstLimit = 2 * time.Second
	// mostRetry is how often an unreachable ingress is tried at least.
	mostRetry = 2 * time.Second
	// stuck is how long a session may be silent while fresh handshakes work, before it is given up.
	stuck = 10 * time.Second
	// brief is a session that was not worth its handshake: the next one waits.
	brief = time.Second
	// tellEvery bounds how often a round-trip time is told that has changed much.
	tellEvery = 10 * time.Second
	// clockMatters is a difference of clocks that is told; certificates and statements take 5 minutes.
	clockMatters = time.Minute
)

// link is the way to one ingress of another zone. One goroutine, run, owns all but status.
//
// It holds one session and pings over it. An ingress is unreachable when nothing has been heard of it for long
// enough to be suspect, and a fresh handshake has failed too. Neither alone suffices: a session dies for many
// reasons, and a handshake may meet a busy moment.
type link struct {
	name     Name
	log      *slog.Logger
	settings func() (target, probe) // of the moment
	dial     func(ctx context.Context, addresses []string, t target) (*tls.Conn, error)
	// open makes a session of a connection; pongs come to l.pongs, its end to l.over.
	open    func(ctx context.Context, c *tls.Conn, l *link) *session
	changed func() // status is another; must not block

	pongs chan *peerpb.Pong
	over  chan ending

	began       time.Time
	lastHeard   time.Time // zero: never
	failure     error     // of the newest fresh handshake or first answer; nil when something was heard since
	dialling    bool
	dialled     chan dialled
	attempt     int
	retryAt     time.Time
	pause       time.Duration
	session     *session
	opened      time.Time
	sessionPong time.Time // when the session last answered
	// proven: the session has answered once. Before, a handshake says nothing: in TLS 1.3 it is over for the client
	// before the server has looked at its certificate.
	proven  bool
	pingAt  time.Time // of the next
	pinged  time.Time
	ping    uint64
	rtt     time.Duration
	toldRTT time.Time

	mu     sync.Mutex
	status *enrolpb.PeerLink
}

type dialled struct {
	conn *tls.Conn
	err  error
}

type ending struct {
	session *session
	why     error
}

func (l *link) current() *enrolpb.PeerLink {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// run keeps the link until ctx ends.
func (l *link) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	l.pongs, l.over, l.dialled = make(chan *peerpb.Pong, 1), make(chan ending, 1), make(chan dialled, 1)
	l.began = time.Now()
	l.pause = 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		cancel()
		if l.dialling {
			if d := <-l.dialled; d.conn != nil {
				_ = d.conn.Close() // nothing was said on it
			}
		}
		if l.session != nil {
			<-l.over
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-l.dialled:
			l.dialling = false
			l.answeredDial(ctx, d)
		case p := <-l.pongs:
			l.ponged(p)
		case e := <-l.over:
			l.lost(e)
		case <-timer.C:
		}
		next := l.tick(ctx, time.Now())
		timer.Reset(time.Until(next))
	}
}

// tick does what is due and returns when to look again.
func (l *link) tick(ctx context.Context, now time.Time) time.Time {
	_, probe := l.settings()
	silence := now.Sub(l.since())
	limit := probe.suspect + probe.timeout
	if l.lastHeard.IsZero() {
		limit = max(limit, firstGrace)
	}
	suspectAt := l.since().Add(probe.suspect)
	if l.session == nil {
		suspectAt = now
	}
	if !l.dialling && !suspectAt.After(now) && !l.retryAt.After(now) {
		l.begin(ctx, probe.timeout)
	}
	if l.session != nil && !l.pingAt.After(now) {
		l.ping++
		l.pinged, l.pingAt = now, now.Add(probe.interval)
		l.session.post(&peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Ping{Ping: &peerpb.Ping{Number: l.ping}}})
	}
	if l.session != nil && now.Sub(l.sessionPong) > stuck {
		l.session.end(errors.New("it has not answered for " + stuck.String() + ", though others do"))
	}
	if silence >= limit && l.failure != nil {
		l.judge(enrolpb.PeerLink_UNREACHABLE, fmt.Sprintf("no answer for %s; %v", silence.Round(time.Millisecond), l.failure))
	}
	next := now.Add(probe.interval)
	for _, at := range []time.Time{l.pingAt, suspectAt, l.since().Add(limit), l.retryAt} {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	return next
}

// since is when the silence began.
func (l *link) since() time.Time {
	if l.lastHeard.IsZero() {
		return l.began
	}
	return l.lastHeard
}

// begin begins a fresh handshake.
func (l *link) begin(ctx context.Context, timeout time.Duration) {
	t, _ := l.settings()
	limit := firstLimit
	if !l.lastHeard.IsZero() {
		limit = max(timeout, 4*l.rtt) // a handshake takes two round trips
	}
	l.dialling = true
	addresses := t.attempt(l.attempt)
	l.attempt++
	go func() {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		c, err := l.dial(ctx, addresses, t)
		l.dialled <- dialled{c, err}
	}()
}

func (l *link) answeredDial(ctx context.Context, d dialled) {
	_, probe := l.settings()
	now := time.Now()
	if d.err != nil {
		l.failure = d.err
		l.pause = min(max(probe.interval, l.pause*3/2), mostRetry)
		if l.session != nil || now.Sub(l.since()) < firstGrace {
			l.pause = probe.interval // a verdict is due
		}
		l.retryAt = now.Add(time.Duration(float64(l.pause) * (0.8 + 0.4*rand.Float64()))) //nolint:gosec // jitter
		return
	}
	l.pause, l.retryAt = 0, time.Time{}
	if l.session != nil {
		_ = d.conn.Close() // it was only a question
		if l.proven {
			l.heardOf(now)
		}
		return
	}
	l.session = l.open(ctx, d.conn, l)
	l.opened, l.sessionPong, l.pingAt, l.proven = now, now, now, false
	l.publish(func(p *enrolpb.PeerLink) { p.Session = l.session.number })
}

// heardOf notes that the ingress is there.
func (l *link) heardOf(now time.Time) {
	l.lastHeard, l.failure = now, nil
	l.judge(enrolpb.PeerLink_REACHABLE, "")
}

func (l *link) ponged(p *peerpb.Pong) {
	now := time.Now()
	l.sessionPong, l.proven = now, true
	l.heardOf(now)
	if p.GetNumber() != l.ping {
		return // a late one: its time is not known any more
	}
	rtt := now.Sub(l.pinged)
	if l.rtt == 0 {
		l.rtt = rtt
	}
	l.rtt += (rtt - l.rtt) / 8
	ahead := time.UnixMilli(p.GetClockMs()).Sub(now).Round(time.Second)
	if ahead.Abs() < clockMatters {
		ahead = 0
	}
	was := l.current()
	old := time.Duration(was.GetRttUs()) * time.Microsecond
	news := old == 0 || (l.rtt-old).Abs() > max(old/4, 500*time.Microsecond) && now.Sub(l.toldRTT) > tellEvery
	if news {
		l.toldRTT = now
	}
	if news || was.GetAttended() != p.GetAttended() || (ahead-time.Duration(was.GetClockAheadMs())*time.Millisecond).Abs() > time.Minute {
		l.publish(func(s *enrolpb.PeerLink) {
			s.RttUs = uint32(min(max(l.rtt.Microseconds(), 1), 1<<31)) //nolint:gosec // bounded
			s.Attended, s.ClockAheadMs = p.GetAttended(), ahead.Milliseconds()
		})
	}
}

// lost takes the end of the session: at once a fresh handshake says what that means.
func (l *link) lost(e ending) {
	now := time.Now()
	if l.session != e.session {
		return
	}
	l.session = nil
	if !l.proven {
		l.failure = e.why
	}
	l.log.Info("the session with an ingress of another zone ended", "peer", l.name.String(), "reason", e.why)
	if now.Sub(l.opened) < brief {
		_, probe := l.settings()
		l.pause = min(max(2*probe.interval, l.pause*2), mostRetry)
		l.retryAt = now.Add(l.pause)
	}
	l.publish(func(p *enrolpb.PeerLink) { p.Session, p.Attended = 0, false })
}

func (l *link) judge(s enrolpb.PeerLink_State, reason string) {
	if l.current().GetState() == s {
		return
	}
	if s == enrolpb.PeerLink_UNREACHABLE {
		l.log.Warn("an ingress of another zone can't be reached", "peer", l.name.String(), "reason", reason)
	} else {
		l.log.Info("an ingress of another zone answers", "peer", l.name.String())
	}
	l.publish(func(p *enrolpb.PeerLink) { p.State, p.Reason = s, bounded(reason) })
}

// publish replaces the status; readers have the old one, unchanged.
func (l *link) publish(edit func(*enrolpb.PeerLink)) {
	l.mu.Lock()
	old := l.status
	next := &enrolpb.PeerLink{
		Zone: old.GetZone(), Ingress: old.GetIngress(), State: old.GetState(), Reason: old.GetReason(), RttUs: old.GetRttUs(),
		Session: old.GetSession(), Attended: old.GetAttended(), ClockAheadMs: old.GetClockAheadMs(),
	}
	edit(next)
	l.status = next
	l.mu.Unlock()
	l.changed()
}

func bounded(s string) string {
	const most = 256
	if len(s) > most {
		return s[:most]
	}
	return s
}

// dialAny makes one TLS connection with whichever address answers first.
func dialAny(ctx context.Context, addresses []string, config func() *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialled, len(addresses))
	for _, a := range addresses {
		go func() {
			c, err := tlsTo(ctx, a, config())
			results <- dialled{c, err}
		}()
	}
	var won *tls.Conn
	var errs []error
	for range addresses {
		switch d := <-results; {
		case d.err != nil:
			errs = append(errs, d.err)
		case won == nil:
			won = d.conn
			cancel()
		default:
			_ = d.conn.Close() // too late; nothing was said on it
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, errors.Join(errs...)
}

func tlsTo(ctx context.Context, address string, config *tls.Config) (*tls.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // nothing was said on it
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return c, nil
}
