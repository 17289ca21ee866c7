package fedtest

import (
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
)

// ErrCut is what both ends of a cut pipe get.
var ErrCut = errors.New("the stream was cut")

// Pipe is a stream between a zone and global in memory. Every frame is marshalled and read again, as on a
// wire.
type Pipe struct {
	up   chan []byte
	down chan []byte
	cut  chan struct{}
	once sync.Once
	hold time.Duration // before each frame is delivered, to make a reader slow

	// Bytes of frames sent.
	mu             sync.Mutex
	upBytes, downB int
}

// NewPipe makes a pipe that holds up to `buffer` frames each way, and delivers each frame after `hold`.
func NewPipe(buffer int, hold time.Duration) *Pipe {
	return &Pipe{up: make(chan []byte, buffer), down: make(chan []byte, buffer), cut: make(chan struct{}), hold: hold}
}

// Cut ends the pipe; what is in it is lost.
func (p *Pipe) Cut() { p.once.Do(func() { close(p.cut) }) }

// Bytes are how much was sent to global and to the zone.
func (p *Pipe) Bytes() (up, down int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upBytes, p.downB
}

// Zone is the zone's end.
func (p *Pipe) Zone() federation.Stream[*federationpb.ZoneFrame, *federationpb.GlobalFrame] {
	return zoneEnd{p}
}

// Global is global's end.
func (p *Pipe) Global() federation.Stream[*federationpb.GlobalFrame, *federationpb.ZoneFrame] {
	return globalEnd{p}
}

type (
	zoneEnd   struct{ p *Pipe }
	globalEnd struct{ p *Pipe }
)

func (e zoneEnd) Send(f *federationpb.ZoneFrame) error { return e.p.send(e.p.up, &e.p.upBytes, f) }

func (e zoneEnd) Recv() (*federationpb.GlobalFrame, error) {
	f := &federationpb.GlobalFrame{}
	return f, e.p.recv(e.p.down, f)
}

func (e globalEnd) Send(f *federationpb.GlobalFrame) error { return e.p.send(e.p.down, &e.p.downB, f) }

func (e globalEnd) Recv() (*federationpb.ZoneFrame, error) {
	f := &federationpb.ZoneFrame{}
	return f, e.p.recv(e.p.up, f)
}

func (p *Pipe) send(to chan<- []byte, count *int, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > federation.MaxMessage {
		return errors.New("the message is larger than gRPC takes")
	}
	select {
	case <-p.cut:
		return io.EOF
	case to <- b:
		p.mu.Lock()
		*count += len(b)
		p.mu.Unlock()
		return nil
	}
}

func (p *Pipe) recv(from <-chan []byte, m proto.Message) error {
	select {
	case <-p.cut:
		return ErrCut
	case b := <-from:
		if p.hold > 0 {
			wait := time.NewTimer(p.hold)
			defer wait.Stop()
			select {
			case <-wait.C:
			case <-p.cut:
				return ErrCut
			}
		}
		return proto.Unmarshal(b, m)
	}
}
