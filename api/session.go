package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// A browser keeps its token in a cookie that scripts can't read, so that nothing on the page can tell it to anybody,
// and that ends with the browser.
//
// What a browser attaches by itself another page can make it send. So a cookie lets read only, and only what the
// browser says a page of this very origin asks for: SameSite=Strict alone would let pages of other ports of this
// host through.

// sessionPath is where a token is put into a cookie, and taken out of it.
const sessionPath = "/api/v1/session"

// cookieName keeps control planes of one host apart: cookies do not heed ports.
func (s *server) cookieName() string {
	name := "comity_" + string(s.cfg.Mode)
	if s.cfg.ZoneName != "" {
		name += "_" + s.cfg.ZoneName
	}
	return name
}

// cookieToken returns the token of a request's cookie, where a cookie counts.
func (s *server) cookieToken(r *http.Request) string {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !reading && r.URL.Path != sessionPath || r.Header.Get("Sec-Fetch-Site") != "same-origin" {
		return ""
	}
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return ""
	}
	return c.Value
}

// SessionCookie is an answer that sets the cookie.
type SessionCookie struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
}

func (s *server) registerSession(op makeOp) {
	cookie := func(ctx context.Context, value string, age int) *SessionCookie {
		return &SessionCookie{http.Cookie{ //nolint:gosec // Secure is where the API is on TLS; a browser would drop it elsewhere
			Name: s.cookieName(), Value: value, MaxAge: age, Path: "/api/", HttpOnly: true, Secure: secure(ctx), SameSite: http.SameSiteStrictMode,
		}}
	}
	keep := op("create-session", http.MethodPost, "/session", "Keep the token of this request in a cookie, with which a browser may read")
	keep.DefaultStatus = http.StatusNoContent
	keep.Middlewares = huma.Middlewares{noteTLS}
	huma.Register(s.api, keep, func(ctx context.Context, in *struct {
		Authorization string `header:"Authorization"`
	}) (*SessionCookie, error) {
		_, token, _ := strings.Cut(in.Authorization, " ")
		if token = strings.TrimSpace(token); token == "" {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "send the token: Authorization: Bearer <token>", "there is no token to keep")
		}
		return cookie(ctx, token, 0), nil
	})
	end := op("delete-session", http.MethodDelete, "/session", "Forget the cookie")
	end.DefaultStatus = http.StatusNoContent
	end.Middlewares = huma.Middlewares{noteTLS}
	huma.Register(s.api, end, func(ctx context.Context, _ *struct{}) (*SessionCookie, error) {
		return cookie(ctx, "", -1), nil
	})
}

type tlsKey struct{}

// noteTLS tells the handler whether the request came over TLS.
func noteTLS(ctx huma.Context, next func(huma.Context)) {
	r, _ := humago.Unwrap(ctx)
	next(huma.WithValue(ctx, tlsKey{}, r.TLS != nil))
}

func secure(ctx context.Context) bool {
	is, _ := ctx.Value(tlsKey{}).(bool)
	return is
}
