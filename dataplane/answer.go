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
	if ask.GetWhat() == "tap" && a.tap != nil {
		a.tapped(ctx, client, ask)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	stream, err := client.Answer(ctx)
	if err == nil {
		parts := &answerParts{id: ask.GetId(), send: stream.Send}
		if err = a.inspect(ctx, ask.GetWhat(), parts); err == nil {
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

// tapped answers a question whose answer goes on: the first part is empty and says that Envoy tells, the others are an event each.
func (a *attendant) tapped(ctx context.Context, client enrolpb.EnrolmentClient, ask *enrolpb.Ask) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Answer(ctx)
	if err != nil {
		a.log.Warn("a question of the zone was not answered", "what", ask.GetWhat(), "reason", err)
		return
	}
	ended := make(chan error, 1)
	go func() { // the zone ends the call when nobody waits any more
		ended <- stream.RecvMsg(new(enrolpb.AnswerTaken))
		cancel()
	}()
	send := func(part *enrolpb.AnswerPart) error {
		part.Id = ask.GetId()
		return stream.Send(part)
	}
	var what mesh.Tap
	if err = json.Unmarshal(ask.GetTap(), &what); err == nil {
		err = a.tap.Watch(ctx, a.self(), what, func(e mesh.TapEvent) error {
			if e == (mesh.TapEvent{}) {
				a.log.Info("requests are shown to somebody", "by", what.By)
				return send(&enrolpb.AnswerPart{})
			}
			data, err := json.Marshal(e)
			if err != nil {
				return err
			}
			return send(&enrolpb.AnswerPart{Data: data})
		})
	}
	if err != nil && ctx.Err() == nil {
		_ = send(&enrolpb.AnswerPart{Error: err.Error()}) // the zone may have gone
	}
	_ = stream.CloseSend() // never fails
	<-ended
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
