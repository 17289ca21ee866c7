package api_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

func TestTokens(t *testing.T) {
	e := start(t, func(c *api.Config) {
		c.Routes = func(h huma.API, a api.Authorizer) {
			huma.Register(h, huma.Operation{OperationID: "extra", Method: http.MethodGet, Path: "/api/v1/extra"}, func(ctx context.Context, _ *struct{}) (*struct{ Body string }, error) {
				p, _ := a.Principal(ctx)
				if err := a.Require(ctx, api.RoleAdmin); err != nil {
					return nil, err
				}
				return &struct{ Body string }{p.Name}, nil
			})
		}
	})
	err := e.tokens.EnsureBootstrapAdmin(t.Context(), func(string) error { t.Error("a second bootstrap token"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	e.want(e.call("POST", "/api/v1/tokens", `{"name":"ops","role":"root"}`), 422, api.CodeInvalid)
	e.want(e.call("POST", "/api/v1/tokens", `{"name":"Not A Label","role":"viewer"}`), 422, api.CodeInvalid)
	viewer, err := e.tokens.Create(t.Context(), "reader", api.RoleViewer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	as := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	e.want(e.call("GET", "/api/v1/zones", "", as(viewer.Token)...), 200, "")
	e.want(e.call("POST", "/api/v1/zones", zone("a"), as(viewer.Token)...), 403, api.CodeForbidden)
	e.want(e.call("GET", "/api/v1/tokens", "", as(viewer.Token)...), 403, api.CodeForbidden)
	e.want(e.call("GET", "/api/v1/extra", "", as(viewer.Token)...), 403, api.CodeForbidden)
	if a := e.want(e.call("GET", "/api/v1/extra", ""), 200, ""); a.body != "\"admin\"\n" {
		t.Errorf("extra route says %q", a.body)
	}
	if a := e.want(e.call("GET", "/api/v1/whoami", "", as(viewer.Token)...), 200, ""); !strings.Contains(a.body, `"name":"reader","role":"viewer","mode":"global"`) {
		t.Errorf("whoami %s", a.body)
	}
	list := e.want(e.call("GET", "/api/v1/tokens", ""), 200, "").body
	secret := strings.SplitN(viewer.Token, "_", 3)[2] // cmt_ID_SECRET
	if strings.Contains(list, secret) || !strings.Contains(list, `"lastUsed":"20`) {
		t.Errorf("tokens %s", list)
	}
	records, _, err := e.store.ListRecords(t.Context(), "tokens", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if strings.Contains(string(r.Value), secret) {
			t.Error("the secret is stored")
		}
	}
	e.want(e.call("DELETE", "/api/v1/tokens/"+viewer.ID, ""), 204, "")
	e.want(e.call("DELETE", "/api/v1/tokens/"+viewer.ID, ""), 404, api.CodeNotFound)
	a := e.want(e.call("GET", "/api/v1/zones", "", as(viewer.Token)...), 401, api.CodeUnauthenticated)
	if a.header.Get("WWW-Authenticate") == "" || strings.Contains(a.body+e.log.String(), secret) {
		t.Errorf("refusal %v %s", a.header, a.body)
	}
}

func TestRefusedTokens(t *testing.T) {
	e := start(t, nil)
	short, err := e.tokens.Create(t.Context(), "short", api.RoleAdmin, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(e.token, "cmt_"), "_")
	for _, auth := range []string{
		"", "Bearer", "Bearer ", "Basic " + e.token, "Bearer " + e.token + "x", "Bearer " + e.token[:len(e.token)-1], "Bearer cmt_" + id + "_",
		"Bearer cmt__", "Bearer cmt_none_x", "Bearer cmt_\xff\xfe_x", "Bearer cmt_a/b_x", "Bearer " + strings.Repeat("x", 4096), "Bearer " + short.Token,
	} {
		e.want(e.call("GET", "/api/v1/zones", "", "Authorization", auth), 401, api.CodeUnauthenticated)
	}
	e.want(e.call("POST", "/api/v1/nowhere", "{}", "Authorization", ""), 401, api.CodeUnauthenticated)
	limited := false
	for range 40 {
		a := e.call("GET", "/api/v1/zones", "", "Authorization", "Bearer cmt_\xff_x")
		if limited = a.status == http.StatusTooManyRequests; limited {
			e.want(a, 429, api.CodeTooMany)
			break
		}
	}
	if !limited {
		t.Error("failing is not limited")
	}
	// Whoever has a token is not locked out by the others at the same address.
	e.want(e.call("GET", "/api/v1/zones", ""), 200, "")
}

func TestNewRefuses(t *testing.T) {
	e := start(t, nil)
	for _, c := range []api.Config{
		{}, {Store: e.store, Mode: api.ModeGlobal}, {Store: e.store, Tokens: e.tokens},
		{Store: e.store, Tokens: e.tokens, Mode: api.ModeZone}, {Store: e.store, Tokens: e.tokens, Mode: api.ModeGlobal, Origin: "east"},
	} {
		if _, err := api.New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// A token that could not be kept, or whose keeper died, is nobody's: the next start makes another.
func TestBootstrapAfterACrash(t *testing.T) {
	st, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	tokens := api.NewTokens(st, nil)
	var lost, kept string
	died := errors.New("died")
	if err := tokens.EnsureBootstrapAdmin(t.Context(), func(s string) error { lost = s; return died }); !errors.Is(err, died) {
		t.Fatal(err)
	}
	if err := tokens.EnsureBootstrapAdmin(t.Context(), func(s string) error { kept = s; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Check(t.Context(), lost); err == nil {
		t.Error("the lost token is valid")
	}
	if p, err := tokens.Check(t.Context(), kept); err != nil || p.Role != api.RoleAdmin {
		t.Errorf("%+v, %v", p, err)
	}
}
