package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func (s *server) registerActing(op makeOp) {
	huma.Register(s.api, op("acting", http.MethodGet, "/acting", "The policies and routes that act on the requests to a service"), handle(s, func(ctx context.Context, in *struct {
		Namespace string `query:"namespace" required:"true" minLength:"1" maxLength:"63"`
		Service   string `query:"service" required:"true" minLength:"1" maxLength:"63"`
	}) (*huma.StreamResponse, error) {
		var all []mesh.Resource
		for _, kind := range policy.ActingKinds() {
			if err := s.each(ctx, kind, func(r mesh.Resource) { all = append(all, r) }); err != nil {
				return nil, err
			}
		}
		return reply(http.StatusOK, nil, client.ActingList{Items: policy.Acting(all, in.Namespace, in.Service)})
	}))
}
