package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/mesh"
)

// InspectInput names what is to be seen of a proxy. Exported because huma reads embedded parameters of exported types only.
type InspectInput struct {
	Proxy string `path:"proxy" maxLength:"400" doc:"role~namespace~name, as in sidecar~shop~web-1"`
	What  string `path:"what" enum:"config,stats,clusters"`
	Zone  string `query:"zone" doc:"Required at global; at a zone its own."`
}

// inspect answers what a proxy runs now, in its own words. It shows more of a zone than a viewer need know.
func (s *server) inspect(ctx context.Context, in InspectInput) (*huma.StreamResponse, error) {
	if err := s.authz.Require(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	id, err := mesh.ParseProxyID(in.Proxy)
	if err != nil {
		return nil, fail(http.StatusUnprocessableEntity, CodeInvalid, "write it as comity get proxies -o name does", "%v", err)
	}
	zone := in.Zone
	if zone == "" {
		zone = s.cfg.ZoneName
	}
	switch {
	case s.cfg.Inspect == nil:
		return nil, fail(http.StatusServiceUnavailable, CodeUnavailable, "", "this control plane can't ask proxies")
	case zone == "":
		return nil, fail(http.StatusUnprocessableEntity, CodeInvalid, "add ?zone=", "in which zone the proxy is must be said")
	case s.cfg.Mode == ModeZone && zone != s.cfg.ZoneName:
		return nil, notFound(mesh.KindZone, "", zone)
	}
	data, err := s.cfg.Inspect(ctx, zone, id, in.What)
	if err != nil {
		return nil, fail(http.StatusServiceUnavailable, CodeUnavailable, "comity describe proxy says whether it is connected", "%v", err)
	}
	kind := "application/json"
	if in.What == "stats" {
		kind = "text/plain; charset=utf-8"
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", kind)
		_, _ = ctx.BodyWriter().Write(data) // the asker may be gone
	}}, nil
}
