package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

func (s *server) registerPlaintext(op makeOp) {
	huma.Register(s.api, op("plaintext", http.MethodGet, "/plaintext", "Who speaks plaintext to permissive ports, by zone and service port"), handle(s, func(ctx context.Context, in *struct {
		Namespace string `query:"namespace" maxLength:"63"`
		Service   string `query:"service" maxLength:"63"`
		Zone      string `query:"zone" doc:"That serves; at a zone only its own are known."`
	}) (*huma.StreamResponse, error) {
		proxies, err := s.proxiesOf(ctx, in.Zone)
		if err != nil {
			return nil, err
		}
		list := sumPlaintext(proxies)
		list = slices.DeleteFunc(list, func(p mesh.PlaintextStatus) bool {
			return in.Namespace != "" && p.Namespace != in.Namespace || in.Service != "" && p.Service != in.Service
		})
		return reply(http.StatusOK, nil, client.PlaintextList{Items: list})
	}))
}

// sumPlaintext is what proxies say of each service port together, by zone, namespace, service and port.
func sumPlaintext(proxies []mesh.ProxyStatus) []mesh.PlaintextStatus {
	type key struct {
		zone, namespace, service string
		port                     uint16
	}
	sums := map[key]*mesh.PlaintextStatus{}
	out := []mesh.PlaintextStatus{}
	for _, p := range proxies {
		for _, said := range p.Plaintext {
			k := key{p.Zone, said.Namespace, said.Service, said.Port}
			if sums[k] == nil {
				sums[k] = &mesh.PlaintextStatus{Zone: p.Zone, Unheard: p.Unheard, PlaintextPort: mesh.PlaintextPort{Namespace: k.namespace, Service: k.service, Port: k.port}}
			}
			addPlaintext(sums[k], said)
		}
	}
	for _, one := range sums {
		slices.SortFunc(one.Callers, func(a, b mesh.PlaintextCaller) int {
			return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Address, b.Address))
		})
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b mesh.PlaintextStatus) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func addPlaintext(sum *mesh.PlaintextStatus, said mesh.PlaintextPort) {
	sum.Proxies++
	sum.Requests += said.Requests
	sum.Others += said.Others
	if said.Since.After(sum.Since) {
		sum.Since = said.Since
	}
	if said.Last.After(sum.Last) {
		sum.Last = said.Last
	}
	for _, c := range said.Callers {
		i := slices.IndexFunc(sum.Callers, func(o mesh.PlaintextCaller) bool { return o.Address == c.Address })
		if i < 0 {
			sum.Callers = append(sum.Callers, c)
			continue
		}
		sum.Callers[i].Requests += c.Requests
		if c.Last.After(sum.Callers[i].Last) {
			sum.Callers[i].Last = c.Last
		}
	}
}
