package api

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/mesh"
)

// TopInput says what of the traffic is to be told. Exported because huma reads embedded parameters of exported types only.
type TopInput struct {
	Zone         []string `query:"zone,explode" doc:"Of the proxies that tell; without it all."`
	Milliseconds int      `query:"ms" minimum:"0" maximum:"60000" doc:"Between two answers of a zone; 0 means 1000."`
	ByProxy      bool     `query:"byProxy" doc:"Each proxy's by itself, instead of all of a zone added up."`
}

// top streams what passes between pairs: per zone and interval, how much the metrics of its proxies grew.
//
//	flows      data: a mesh.Flows, of one zone; its first says who tells, and counts begin with it
//	error      data: a problem; the stream ends
func (s *server) top(ctx context.Context, in TopInput) (*huma.StreamResponse, error) {
	t := mesh.Top{Milliseconds: in.Milliseconds, ByProxy: in.ByProxy}
	if err := t.Check(); err != nil {
		return nil, fail(http.StatusUnprocessableEntity, CodeInvalid, "see /openapi.json", "%v", err)
	}
	if s.cfg.Top == nil {
		return nil, fail(http.StatusServiceUnavailable, CodeUnavailable, "", "this control plane can't ask proxies")
	}
	zones, err := s.chosenZones(ctx, in.Zone)
	if err != nil {
		return nil, err
	}
	p, _ := s.authz.Principal(ctx)
	t.By = p.Actor()
	return s.stream(ctx, func(ctx context.Context, e *events) error {
		return ofZones(ctx, e, zones, func(ctx context.Context, zone string, tell func(mesh.Flows) error) {
			if err := s.cfg.Top(ctx, zone, t, tell); err != nil && ctx.Err() == nil {
				_ = tell(mesh.Flows{Zone: zone, Problems: []mesh.TapProblem{{Reason: err.Error()}}}) // fails if nobody reads any more
			}
		}, func(f mesh.Flows) error { return e.send("flows", "", f) })
	})
}

// chosenZones are those that were named, else all.
func (s *server) chosenZones(ctx context.Context, named []string) ([]string, error) {
	known, err := s.zones(ctx)
	if err != nil || len(named) == 0 {
		return known, err
	}
	for _, z := range named {
		if !slices.Contains(known, z) {
			return nil, notFound(mesh.KindZone, "", z)
		}
	}
	return named, nil
}

// ofZones asks the zones, each in a goroutine of its own, and gives what they tell to show, until all have ended, with nil, ctx ends, or
// show fails. A zone that can't be asked says so itself, and the others go on.
func ofZones[E any](ctx context.Context, e *events, zones []string, ask func(ctx context.Context, zone string, tell func(E) error), show func(E) error) error {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan E)
	var wg sync.WaitGroup
	for _, zone := range zones {
		wg.Go(func() {
			ask(ctx, zone, func(v E) error {
				select {
				case told <- v:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	defer wg.Wait()
	defer cancel()
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	for {
		var err error
		select {
		case v := <-told:
			err = show(v)
		case <-idle.C:
			err = e.alive()
		case <-all:
			return nil
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}
