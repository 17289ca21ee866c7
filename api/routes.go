package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// The ...Input types are exported because huma reads embedded parameters of exported types only.

// NamespaceInput is the namespace of a path.
type NamespaceInput struct {
	Namespace string `path:"namespace" maxLength:"63"`
}

// NameInput is the name of a path.
type NameInput struct {
	Name string `path:"name" maxLength:"253"`
}

// OriginInput says whose resource is meant.
type OriginInput struct {
	Origin string `query:"origin" doc:"Whose resource; without it this control plane's own, or else the only one."`
}

// BodyInput is a body that the handler decodes by its content type.
type BodyInput struct {
	ContentType string `header:"Content-Type"`
	RawBody     []byte
}

// HistoryInput is the query of a history.
type HistoryInput struct {
	OriginInput
	Limit  int    `query:"limit" minimum:"0" maximum:"200" doc:"0 means 20."`
	Before uint64 `query:"before" doc:"Only revisions before this one."`
}

// registerKinds adds the operations of every kind. Those of kinds with a namespace take it from the
// path; the list also exists over all namespaces.
func (s *server) registerKinds() {
	for _, k := range policy.Kinds() {
		base := "/api/v1/" + k.Plural
		op := func(id, method, path, summary string) huma.Operation {
			return huma.Operation{
				OperationID: id + "-" + k.Singular, Method: method, Path: path, Summary: summary, Tags: []string{string(k.Kind)},
				MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second,
			}
		}
		all := op("list", http.MethodGet, base, "List or watch "+k.Plural)
		if k.Namespaced {
			all = op("list-all", http.MethodGet, base, "List or watch "+k.Plural+" of all namespaces")
		}
		huma.Register(s.api, all, handle(s, func(ctx context.Context, in *SelectInput) (*huma.StreamResponse, error) {
			return s.list(ctx, k, "", *in)
		}))
		if k.Namespaced {
			registerNamespaced(s, k, op)
		} else {
			registerGlobal(s, k, op)
		}
	}
}

type makeOp func(id, method, path, summary string) huma.Operation

func registerGlobal(s *server, k policy.KindInfo, op makeOp) {
	base := "/api/v1/" + k.Plural
	huma.Register(s.api, op("create", http.MethodPost, base, "Create a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		BodyInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.create(ctx, k, "", in.ContentType, in.RawBody, in.WriteInput)
	}))
	huma.Register(s.api, op("get", http.MethodGet, base+"/{name}", "Get a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NameInput
		OriginInput
	}) (*huma.StreamResponse, error) {
		return s.get(ctx, k, "", in.Name, in.Origin)
	}))
	huma.Register(s.api, op("replace", http.MethodPut, base+"/{name}", "Replace or create a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NameInput
		OriginInput
		BodyInput
		MatchInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.replace(ctx, k, "", in.Name, in.Origin, in.ContentType, in.RawBody, in.MatchInput, in.WriteInput)
	}))
	huma.Register(s.api, op("delete", http.MethodDelete, base+"/{name}", "Delete a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NameInput
		OriginInput
		MatchInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.remove(ctx, k, "", in.Name, in.Origin, in.MatchInput, in.WriteInput)
	}))
	huma.Register(s.api, op("history", http.MethodGet, base+"/{name}/history", "Who changed a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NameInput
		HistoryInput
	}) (*huma.StreamResponse, error) {
		return s.history(ctx, k, "", in.Name, in.Origin, in.Limit, in.Before)
	}))
}

func registerNamespaced(s *server, k policy.KindInfo, op makeOp) {
	base := "/api/v1/namespaces/{namespace}/" + k.Plural
	huma.Register(s.api, op("list", http.MethodGet, base, "List or watch "+k.Plural+" of a namespace"), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		SelectInput
	}) (*huma.StreamResponse, error) {
		return s.list(ctx, k, in.Namespace, in.SelectInput)
	}))
	huma.Register(s.api, op("create", http.MethodPost, base, "Create a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		BodyInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.create(ctx, k, in.Namespace, in.ContentType, in.RawBody, in.WriteInput)
	}))
	huma.Register(s.api, op("get", http.MethodGet, base+"/{name}", "Get a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		NameInput
		OriginInput
	}) (*huma.StreamResponse, error) {
		return s.get(ctx, k, in.Namespace, in.Name, in.Origin)
	}))
	huma.Register(s.api, op("replace", http.MethodPut, base+"/{name}", "Replace or create a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		NameInput
		OriginInput
		BodyInput
		MatchInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.replace(ctx, k, in.Namespace, in.Name, in.Origin, in.ContentType, in.RawBody, in.MatchInput, in.WriteInput)
	}))
	huma.Register(s.api, op("delete", http.MethodDelete, base+"/{name}", "Delete a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		NameInput
		OriginInput
		MatchInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.remove(ctx, k, in.Namespace, in.Name, in.Origin, in.MatchInput, in.WriteInput)
	}))
	huma.Register(s.api, op("history", http.MethodGet, base+"/{name}/history", "Who changed a "+k.Singular), handle(s, func(ctx context.Context, in *struct {
		NamespaceInput
		NameInput
		HistoryInput
	}) (*huma.StreamResponse, error) {
		return s.history(ctx, k, in.Namespace, in.Name, in.Origin, in.Limit, in.Before)
	}))
}

// Whoami is the answer of /api/v1/whoami.
type Whoami struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	// May lists what a viewer may do besides.
	May     []Permission `json:"may,omitempty"`
	Mode    Mode         `json:"mode"`
	Zone    string       `json:"zone,omitempty"`
	Version string       `json:"version"`
}

// registerRest adds what belongs to no kind.
func (s *server) registerRest() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/api/v1" + path, Summary: summary, MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second}
	}
	huma.Register(s.api, op("apply", http.MethodPost, "/_apply", "Apply many documents as one revision"), handle(s, func(ctx context.Context, in *struct {
		BodyInput
		WriteInput
	}) (*huma.StreamResponse, error) {
		return s.applyMany(ctx, in.ContentType, in.RawBody, in.WriteInput)
	}))
	huma.Register(s.api, op("status", http.MethodGet, "/_status", "Follow a revision to the proxies"), handle(s, func(ctx context.Context, in *struct {
		Revision uint64 `query:"revision" required:"true" minimum:"1"`
	}) (*huma.StreamResponse, error) {
		return s.progress(ctx, mesh.Revision(in.Revision))
	}))
	huma.Register(s.api, op("proxies", http.MethodGet, "/proxies", "The proxies of all zones, or of one"), handle(s, func(ctx context.Context, in *struct {
		Zone string `query:"zone"`
	}) (*huma.StreamResponse, error) {
		return s.proxies(ctx, in.Zone)
	}))
	huma.Register(s.api, op("inspect", http.MethodGet, "/proxies/{proxy}/{what}", "What a proxy runs now: its configuration, counters or endpoints, in Envoy's own words"), handle(s, func(ctx context.Context, in *struct {
		InspectInput
	}) (*huma.StreamResponse, error) {
		return s.inspect(ctx, in.InspectInput)
	}))
	huma.Register(s.api, op("tap", http.MethodGet, "/tap", "Live requests of a service or a proxy as they end, and connections as they begin and end"), handle(s, func(ctx context.Context, in *TapInput) (*huma.StreamResponse, error) {
		return s.tap(ctx, *in)
	}))
	huma.Register(s.api, op("top", http.MethodGet, "/top", "What passes between pairs of services and zones, interval by interval"), handle(s, func(ctx context.Context, in *TopInput) (*huma.StreamResponse, error) {
		return s.top(ctx, *in)
	}))
	huma.Register(s.api, op("failover", http.MethodGet, "/failover", "Where the traffic of services goes from each zone, and why"), handle(s, func(ctx context.Context, in *struct {
		Namespace string `query:"namespace" maxLength:"63"`
		Service   string `query:"service" maxLength:"63"`
		Zone      string `query:"zone" doc:"Whose requests; at a zone only its own are known."`
	}) (*huma.StreamResponse, error) {
		return s.failover(ctx, client.FailoverQuery{Namespace: in.Namespace, Service: in.Service, Zone: in.Zone})
	}))
	huma.Register(s.api, op("whoami", http.MethodGet, "/whoami", "Who the token says you are, and where"), handle(s, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		p, _ := s.authz.Principal(ctx)
		return reply(http.StatusOK, nil, Whoami{Name: p.Name, Role: p.Role, May: p.May, Mode: s.cfg.Mode, Zone: s.cfg.ZoneName, Version: s.cfg.Version})
	}))
	s.registerPlaintext(op)
	s.registerOverview(op)
	s.registerActing(op)
	s.registerSession(op)
	s.registerTokens(op)
}

func (s *server) registerTokens(op makeOp) {
	huma.Register(s.api, op("create-token", http.MethodPost, "/tokens", "Make a bearer token; it is shown this once"), handle(s, func(ctx context.Context, in *BodyInput) (*huma.StreamResponse, error) {
		docs, err := split(in.ContentType, in.RawBody)
		if err != nil {
			return nil, err
		}
		var req client.APITokenRequest
		if len(docs) != 1 {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "one request, please")
		}
		if err := policy.DecodeStrict("", docs[0].json, 4096, &req); err != nil {
			return nil, err
		}
		if req.TTLSeconds < 0 || req.TTLSeconds > 10*365*24*3600 {
			req.TTLSeconds = -1
		}
		var may []Permission
		for _, p := range req.May {
			may = append(may, Permission(p))
		}
		t, err := s.cfg.Tokens.Create(ctx, req.Name, Role(req.Role), time.Duration(req.TTLSeconds)*time.Second, may...)
		if err != nil {
			return nil, err
		}
		by, _ := s.authz.Principal(ctx)
		s.cfg.Log.InfoContext(ctx, "a token was made", "id", t.ID, "name", t.Name, "role", t.Role, "may", t.May, "by", by.Name)
		return reply(http.StatusCreated, nil, t)
	}))
	huma.Register(s.api, op("list-tokens", http.MethodGet, "/tokens", "List bearer tokens without their secrets"), handle(s, func(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		// Names and roles of others are for admins.
		if err := s.authz.Require(ctx, RoleAdmin); err != nil {
			return nil, err
		}
		list, err := s.cfg.Tokens.List(ctx)
		if err != nil {
			return nil, err
		}
		return reply(http.StatusOK, nil, client.APITokens{Items: list})
	}))
	huma.Register(s.api, op("revoke-token", http.MethodDelete, "/tokens/{id}", "End a bearer token"), handle(s, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	}) (*huma.StreamResponse, error) {
		err := s.cfg.Tokens.Revoke(ctx, in.ID)
		if errors.Is(err, store.ErrNotFound) {
			return nil, fail(http.StatusNotFound, CodeNotFound, "", "there is no token %q", in.ID)
		}
		if err != nil {
			return nil, err
		}
		by, _ := s.authz.Principal(ctx)
		s.cfg.Log.InfoContext(ctx, "a token was revoked", "id", in.ID, "by", by.Name)
		return reply(http.StatusNoContent, nil, nil)
	}))
}

// schemaName keeps types of one name in two packages apart.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	pkg := t.PkgPath()
	if t.Name() == "" || pkg == "" {
		return name
	}
	switch short := pkg[strings.LastIndex(pkg, "/")+1:]; {
	case short == "client" || short == "api":
		return name
	case strings.HasSuffix(pkg, "/apis/v1"):
		return "Gateway" + name
	default:
		return strings.ToUpper(short[:1]) + short[1:] + name
	}
}
