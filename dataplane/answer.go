package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

const (
	answerPart  = 64 << 10
	tooMuch     = 32<<20 + 1 // a byte more than a zone takes, so that it says so
	answerLimit = 15 * time.Second
)

// inspect writes what Envoy says of itself. Its configuration holds no secret: Envoy leaves private keys out.
func (a admin) inspect(ctx context.Context, what string, w io.Writer) error {
	switch what {
	case "config":
		return a.get(ctx, "/config_dump?include_eds", w, tooMuch)
	case "stats":
		return a.get(ctx, "/stats?usedonly", w, tooMuch)
	case "clusters":
		return a.get(ctx, "/clusters?format=json", w, tooMuch)
	}
	return fmt.Errorf("this agent does not know %q", what)
}

// answer answers a question of the zone, in a call beside the stream on which it came.
func (a *attendant) answer(ctx context.Context, client enrolpb.EnrolmentClient, ask *enrolpb.Ask) {
	switch {
	case ask.GetWhat() == "tap" && a.tap != nil:
		a.follow(ctx, client, ask, a.showTap)
		return
	case ask.GetWhat() == "top" && a.top != nil:
		a.follow(ctx, client, ask, a.showTop)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	stream, err := client.Answer(ctx)
	if err == nil {
		parts := &answerParts{id: ask.GetId(), send: stream.Send}
		if ask.GetWhat() == "try" && a.trials != nil {
			err = a.trials.try(ctx, ask.GetDetail(), parts)
		} else {
			err = a.inspect(ctx, ask.GetWhat(), parts)
		}
		if err == nil {
			err = parts.flush()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			err = stream.Send(&enrolpb.AnswerPart{Id: ask.GetId(), Error: err.Error()})
		}
		if err == nil || errors.Is(err, io.EOF) { // the zone ended it: why is in the status
			_, err = stream.CloseAndRecv()
		}
	}
	if err != nil {
		a.log.Warn("a question of the zone was not answered", "what", ask.GetWhat(), "reason", err)
	}
}

// follow answers a question whose answer goes on: the first part is empty and says that it begins, the others are JSON. show tells
// until ctx ends.
func (a *attendant) follow(ctx context.Context, client enrolpb.EnrolmentClient, ask *enrolpb.Ask, show func(ctx context.Context, detail []byte, tell func(any) error) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Answer(ctx)
	if err != nil {
		a.log.Warn("a question of the zone was not answered", "what", ask.GetWhat(), "reason", err)
		return
	}
	ended := make(chan struct{})
	go func() { // the zone ends the call when nobody waits any more
		defer close(ended)
		defer cancel()
		_ = stream.RecvMsg(new(enrolpb.AnswerTaken))
	}()
	begun := false
	err = show(ctx, ask.GetDetail(), func(v any) error {
		part := &enrolpb.AnswerPart{Id: ask.GetId()}
		if begun {
			var err error
			if part.Data, err = json.Marshal(v); err != nil {
				return err
			}
		}
		begun = true
		return stream.Send(part)
	})
	if err != nil && ctx.Err() == nil {
		_ = stream.Send(&enrolpb.AnswerPart{Id: ask.GetId(), Error: err.Error()}) // the zone may have gone
	}
	_ = stream.CloseSend() // never fails
	<-ended
}

// showTap shows live requests.
func (a *attendant) showTap(ctx context.Context, detail []byte, tell func(any) error) error {
	var t mesh.Tap
	if err := json.Unmarshal(detail, &t); err != nil {
		return err
	}
	a.log.Info("requests are shown to somebody", "by", t.By)
	return a.tap.Watch(ctx, a.self(), t, func(e mesh.TapEvent) error { return tell(e) })
}

// showTop tells what passes between pairs.
func (a *attendant) showTop(ctx context.Context, detail []byte, tell func(any) error) error {
	var t mesh.Top
	if err := json.Unmarshal(detail, &t); err != nil {
		return err
	}
	return a.top(ctx, t, func(f mesh.Flows) error { return tell(f) })
}

// answerParts cuts what is written into parts. The first is sent even if it is empty: it says whose answer comes.
type answerParts struct {
	id   uint64
	send func(*enrolpb.AnswerPart) error
	buf  []byte
	sent bool
}

func (p *answerParts) Write(b []byte) (int, error) {
	n := len(b)
	for len(p.buf)+len(b) >= answerPart {
		take := answerPart - len(p.buf)
		p.buf, b = append(p.buf, b[:take]...), b[take:]
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	p.buf = append(p.buf, b...)
	return n, nil
}

func (p *answerParts) flush() error {
	if len(p.buf) == 0 && p.sent {
		return nil
	}
	part := &enrolpb.AnswerPart{Id: p.id, Data: p.buf}
	p.buf, p.sent = nil, true
	return p.send(part)
}
