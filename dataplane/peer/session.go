package peer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/comity-mesh/comity/dataplane/peerpb"
)

// Bounds of one session. They hold against a peer that is hostile and properly certified.
const (
	// MaxWord is the size of one word; a statement has at most 512 KiB.
	MaxWord  = 576 << 10
	maxFrame = MaxWord + 1<<10
	// Words that wait in one direction. A control plane has 32 statements under way at most.
	maxWords     = 128
	maxWordBytes = 4 << 20
	// Words a second that are passed on; each may cost the control plane the verification of a signature.
	wordRate  = 500
	wordBurst = 1000
	// Frames of any kind that a peer may send in a second.
	frameRate  = 1000
	frameBurst = 4000
	// certSlack is how long a session may outlive the peer's certificate: clocks differ.
	certSlack = 5 * time.Minute
)

// errFlood: the peer sends more than it may.
var errFlood = errors.New("the peer sends more than it may")

// stream is either end of a gRPC stream.
type stream interface {
	Send(*peerpb.PeerFrame) error
	Recv() (*peerpb.PeerFrame, error)
}

// session is one open stream between this agent and a peer.
type session struct {
	number uint64
	peer   Name
	chain  []*x509.Certificate // as the peer proved itself
	end    context.CancelCauseFunc

	control chan *peerpb.PeerFrame // pings and pongs to be sent
	say     *queue                 // words to be sent
	heard   *queue                 // words to be passed on
	dropped atomic.Uint64          // words that nobody attended to
}

func newSession(peer Name, chain []*x509.Certificate, end context.CancelCauseFunc) *session {
	return &session{peer: peer, chain: chain, end: end, control: make(chan *peerpb.PeerFrame, 8), say: newQueue(), heard: newQueue()}
}

// until is when the peer's certificate has ended everywhere.
func (s *session) until() time.Time { return s.chain[0].NotAfter.Add(certSlack) }

// post sends a ping or pong as soon as possible. Where a peer takes nothing, it is lost: a later one says the same.
func (s *session) post(f *peerpb.PeerFrame) {
	select {
	case s.control <- f:
	default:
	}
}

// run serves the stream until it ends: each frame that is no word goes to handle, words go to pass. The error is
// why it ended, never nil.
func (s *session) run(ctx context.Context, st stream, handle func(*peerpb.PeerFrame) error, pass func(context.Context, []byte) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.send(ctx, st) // ends with the stream: a peer that takes nothing holds it in Send until then
	wg.Go(func() { s.forward(ctx, pass) })
	frames := rate.NewLimiter(frameRate, frameBurst)
	for {
		f, err := st.Recv()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
		if !frames.Allow() {
			return errFlood
		}
		word, isWord := f.GetFrame().(*peerpb.PeerFrame_Word)
		switch {
		case !isWord:
			if err := handle(f); err != nil {
				return err
			}
		case !s.heard.put(word.Word):
			return fmt.Errorf("%w: words", errFlood)
		}
	}
}

// send owns the stream's sending side. What can't be sent ends the session: Recv tells why.
func (s *session) send(ctx context.Context, st stream) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-s.control:
			if st.Send(f) != nil {
				return
			}
			continue
		case <-s.say.signal:
		}
		for word := range s.say.all {
			// A ping or pong does not wait for all words.
			select {
			case f := <-s.control:
				if st.Send(f) != nil {
					return
				}
			default:
			}
			if st.Send(&peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Word{Word: word}}) != nil {
				return
			}
		}
	}
}

// forward passes words on, not faster than wordRate.
func (s *session) forward(ctx context.Context, pass func(context.Context, []byte) error) {
	words := rate.NewLimiter(wordRate, wordBurst)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.heard.signal:
		}
		for word := range s.heard.all {
			if words.Wait(ctx) != nil || pass(ctx, word) != nil {
				return
			}
		}
	}
}

// queue is words that wait, bounded in number and bytes. It is safe for concurrent use.
type queue struct {
	signal chan struct{} // capacity 1

	mu    sync.Mutex
	words [][]byte
	bytes int
}

func newQueue() *queue { return &queue{signal: make(chan struct{}, 1)} }

// put reports false where the word is too large or too many wait.
func (q *queue) put(word []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(word) > MaxWord || len(q.words) >= maxWords || q.bytes+len(word) > maxWordBytes {
		return false
	}
	q.words, q.bytes = append(q.words, word), q.bytes+len(word)
	signal(q.signal)
	return true
}

// all yields words until none waits.
func (q *queue) all(yield func([]byte) bool) {
	for {
		q.mu.Lock()
		if len(q.words) == 0 {
			q.words = nil
			q.mu.Unlock()
			return
		}
		word := q.words[0]
		q.words, q.bytes = q.words[1:], q.bytes-len(word)
		q.mu.Unlock()
		if !yield(word) {
			return
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
