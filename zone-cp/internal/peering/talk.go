package peering

import (
	"context"
	"strings"
	"time"
	"unicode"

	"golang.org/x/time/rate"

	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/federation"
)

// Bounds of what another zone can have us do over one session. What doesn't fit ends the session, so that nothing is
// lost unseen: on the next one everything that was not taken is said again.
const (
	// Statements that wait to be verified: a window of those sent before the peer was asked again, and one of those
	// sent after. Of a window the last may be the largest there is.
	maxArrived      = 2 * maxUnanswered
	maxArrivedBytes = 2 * (maxUnansweredBytes + federation.MaxStatement)
	// repeatEvery is how often one side asks the other for its statements, which costs a look at all of them;
	// repeatBurst lets both ends of a fresh session find each other at once.
	repeatEvery = time.Second
	repeatBurst = 2
	// maxRepeats is how many Resumes in a row may be passed over for a newer one.
	maxRepeats = 16
	// Lines that a zone can have us log: logBurst, then one in logEvery.
	logEvery = 10 * time.Second
	logBurst = 10
	// maxText is how many bytes of what another zone says are logged and passed on.
	maxText = 512
)

// talk is what goes on over one session: what is to be asked and answered, and what waits.
type talk struct {
	zone string
	over bool // the agent was told to end it; it counts no more

	ask      bool           // the peer is to be asked for its statements
	resume   *peerpb.Resume // to be answered; nil for none
	repeats  int            // Resumes that it took the place of
	asked    *rate.Limiter
	answered *rate.Limiter

	arrived [][]byte // statements that are not verified yet, the oldest first
	bytes   int      // of arrived
}

// openTalks has a talk for every session of the agent. h.mu is held.
func (h *Hub) openTalks(a *Agent) {
	for number, zone := range a.sessions {
		if t := h.talks[route{a, number}]; t == nil || t.zone != zone {
			h.talks[route{a, number}] = &talk{
				zone:  zone,
				asked: rate.NewLimiter(rate.Every(repeatEvery), repeatBurst), answered: rate.NewLimiter(rate.Every(repeatEvery), repeatBurst),
			}
		}
	}
}

// wants notes that the peer asks for our statements; the newest Resume counts. False if it asks too often.
func (t *talk) wants(r *peerpb.Resume) bool {
	if t.resume != nil {
		t.repeats++
	}
	t.resume = r
	return t.repeats <= maxRepeats
}

// arrive queues a statement to be verified; false where its peer doesn't wait for answers.
func (t *talk) arrive(statement []byte) bool {
	if len(t.arrived) == maxArrived || t.bytes+len(statement) > maxArrivedBytes {
		return false
	}
	t.arrived, t.bytes = append(t.arrived, statement), t.bytes+len(statement)
	return true
}

// next takes the statement that waits longest. There is one.
func (t *talk) next() []byte {
	s := t.arrived[0]
	t.arrived[0] = nil
	t.arrived, t.bytes = t.arrived[1:], t.bytes-len(s)
	return s
}

// hush forgets what the peer was asked and what of its answer waits.
func (t *talk) hush() { t.ask, t.arrived, t.bytes = false, nil, 0 }

// end ends a session: the agent closes it, and what it says meanwhile counts no more. h.mu is held.
func (h *Hub) end(at route, why string) {
	t := h.talks[at]
	if t == nil || t.over {
		return
	}
	h.talks[at] = &talk{zone: t.zone, over: true}
	delete(h.replies, at)
	if h.asks[t.zone] == at {
		delete(h.asks, t.zone)
	}
	at.agent.end(at.number)
	signal(h.dirty)
	if h.mayLog(t.zone) {
		h.cfg.Log.Warn("ended a session with another zone", "other", t.zone, "ingress", at.agent.proxy.Name, "reason", why)
	}
}

// converse asks and answers, one session after the other and each at its pace, until ctx ends.
func (h *Hub) converse(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wanted:
		case <-again.C:
		}
		tasks, wait := h.due(time.Now())
		for _, do := range tasks {
			do()
		}
		if wait {
			again.Reset(repeatEvery / 4)
		}
	}
}

// due is what is to be asked and answered now, and whether there is more to come when its pace allows it. Who is
// asked again while we still look at what it said would say the same twice.
func (h *Hub) due(now time.Time) (tasks []func(), wait bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at, t := range h.talks {
		if t.ask && len(t.arrived) == 0 {
			if t.asked.AllowN(now, 1) {
				t.ask = false
				tasks = append(tasks, func() { h.askNow(at, t.zone) })
			} else {
				wait = true
			}
		}
		if _, believed := h.zones[t.zone]; !believed {
			t.resume = nil
		}
		if r := t.resume; r != nil {
			if t.answered.AllowN(now, 1) {
				t.resume, t.repeats = nil, 0
				y := &reply{zone: t.zone, sizes: map[federation.Subject]int{}}
				h.replies[at] = y
				tasks = append(tasks, func() { h.answer(at, y, r) })
			} else {
				wait = true
			}
		}
	}
	return tasks, wait
}

// mayLog says whether a line about what another zone did is to be written: its peer could have us write any number.
// h.mu is held.
func (h *Hub) mayLog(zone string) bool {
	l := h.logged[zone]
	if l == nil {
		l = rate.NewLimiter(rate.Every(logEvery), logBurst)
		h.logged[zone] = l
	}
	return l.Allow()
}

// printable is the beginning of another zone's text, without what a log or terminal would act on.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
