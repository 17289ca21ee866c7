package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/mesh"
)

// TapInput says which live requests are to be seen. Exported because huma reads embedded parameters of exported types only.
type TapInput struct {
	Namespace string   `query:"namespace" maxLength:"63"`
	Service   string   `query:"service" maxLength:"63" doc:"Requests to it; of service and proxy, one is said."`
	Side      string   `query:"side" enum:"server,client" doc:"Of a service, who tells of its requests; without it those who serve it."`
	Proxy     string   `query:"proxy" maxLength:"400" doc:"role~namespace~name, as in sidecar~shop~web-1: what it takes and sends."`
	Zone      []string `query:"zone,explode" doc:"Of the proxies; without it all. With a proxy, at global, it is required."`
	Method    []string `query:"method,explode"`
	Path      string   `query:"path" doc:"What the path begins with."`
	Status    []string `query:"status,explode" doc:"404, 5xx"`
	From      string   `query:"from" doc:"[NAMESPACE/]NAME[@ZONE] of the workload or service account."`
	To        string   `query:"to" doc:"[NAMESPACE/]NAME[@ZONE] of the service."`
	Header    []string `query:"header,explode" doc:"NAME:VALUE of a request's header. Most headers are not known here."`
	Rate      int      `query:"rate" minimum:"0" maximum:"1000" doc:"Most requests that are shown in a second; 0 means 100."`
	Seconds   int      `query:"seconds" minimum:"0" maximum:"600" doc:"After which it ends; 0 means 60."`
}

func (in TapInput) tap() (mesh.Tap, error) {
	t := mesh.Tap{
		Namespace: in.Namespace, Service: in.Service, Side: mesh.TapSide(in.Side), Proxy: in.Proxy, Rate: in.Rate, Seconds: in.Seconds,
		Filter: mesh.TapFilter{Methods: in.Method, Path: in.Path, Status: in.Status, From: in.From, To: in.To},
	}
	for _, h := range in.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return t, fail(http.StatusUnprocessableEntity, CodeInvalid, "write NAME:VALUE", "%.80q is no header", h)
		}
		if t.Filter.Headers == nil {
			t.Filter.Headers = map[string]string{}
		}
		t.Filter.Headers[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	if err := t.Check(); err != nil {
		return t, fail(http.StatusUnprocessableEntity, CodeInvalid, "see /openapi.json", "%v", err)
	}
	return t, nil
}

// tap streams live requests. It is not for every viewer: what is asked of services may say much about people. Who looked at what is in
// the log.
//
//	request    data: a mesh.TapRequest
//	left       data: a mesh.TapLeft
//	watching   data: a mesh.TapWatching
//	end        data: a mesh.TapEnd; the stream ends
//	error      data: a problem; the stream ends
func (s *server) tap(ctx context.Context, in TapInput) (*huma.StreamResponse, error) {
	if err := s.authz.RequirePermission(ctx, PermissionTap); err != nil {
		return nil, err
	}
	t, err := in.tap()
	if err != nil {
		return nil, err
	}
	if s.cfg.Tap == nil {
		return nil, fail(http.StatusServiceUnavailable, CodeUnavailable, "", "this control plane can't show live requests")
	}
	zones, err := s.tapped(ctx, in)
	if err != nil {
		return nil, err
	}
	p, _ := s.authz.Principal(ctx)
	t.By = p.Actor()
	if s.cfg.Mode == ModeZone { // which logs what it shows, to whomever
		return s.stream(ctx, func(ctx context.Context, e *events) error {
			_, err := s.showTap(ctx, e, zones, t)
			return err
		})
	}
	t.By += " at global"
	return s.stream(ctx, func(ctx context.Context, e *events) error {
		log, begin := s.cfg.Log.With("by", t.By, "zones", zones, "namespace", t.Namespace, "service", t.Service, "proxy", t.Proxy, "filter", t.Filter), time.Now()
		log.InfoContext(ctx, "requests are shown to somebody")
		shown, err := s.showTap(ctx, e, zones, t)
		log.InfoContext(ctx, "requests are not shown any more", "requests", shown, "lasted", time.Since(begin).Round(time.Millisecond))
		return err
	})
}

// tapped are the zones that are asked.
func (s *server) tapped(ctx context.Context, in TapInput) ([]string, error) {
	if in.Proxy != "" && s.cfg.Mode == ModeGlobal && len(in.Zone) == 0 {
		return nil, fail(http.StatusUnprocessableEntity, CodeInvalid, "add ?zone=", "in which zone the proxy is must be said")
	}
	return s.chosenZones(ctx, in.Zone)
}

// showTap shows what the zones tell until all have ended, the time is over or the reader has gone. A zone that can't be watched is
// said, and the others go on.
func (s *server) showTap(ctx context.Context, e *events, zones []string, t mesh.Tap) (shown int, err error) {
	_, length := t.Limits()
	asked, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	err = ofZones(asked, e, zones, func(ctx context.Context, zone string, tell func(mesh.TapEvent) error) {
		if err := s.cfg.Tap(ctx, zone, t, tell); err != nil && ctx.Err() == nil {
			_ = tell(mesh.TapEvent{Watching: &mesh.TapWatching{Zone: zone, Problems: []mesh.TapProblem{{Reason: err.Error()}}}}) // fails if nobody reads any more
		}
	}, func(ev mesh.TapEvent) error {
		if ev.Request != nil {
			shown++
		}
		return e.tapEvent(ev)
	})
	if err != nil || ctx.Err() != nil {
		return shown, err
	}
	reason := "nobody is watched any more"
	if asked.Err() != nil {
		reason = "the time is over"
	}
	return shown, e.tapEvent(mesh.TapEvent{End: &mesh.TapEnd{Reason: reason}})
}

func (e *events) tapEvent(ev mesh.TapEvent) error {
	switch {
	case ev.Request != nil:
		return e.send("request", "", ev.Request)
	case ev.Left != nil:
		return e.send("left", "", ev.Left)
	case ev.Watching != nil:
		return e.send("watching", "", ev.Watching)
	default:
		return e.send("end", "", ev.End)
	}
}
