package envoy

import (
	"time"

	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiestatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	httptypev3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/comity-mesh/comity/xds/ir"
)

func (b *messages) session(s ir.Session) proto.Message {
	m := &statefulv3.StatefulSession{Strict: s.Strict}
	if s.Cookie != nil {
		m.SessionState = b.extension("envoy.http.stateful_session.cookie", &cookiestatev3.CookieBasedSessionState{Cookie: cookie(*s.Cookie)})
	} else {
		m.SessionState = b.extension("envoy.http.stateful_session.header", &headerstatev3.HeaderBasedSessionState{Name: s.Header})
	}
	return m
}

// cookie has whole seconds, as Max-Age does, and at least one: 0 would end it with the browser.
func cookie(c ir.Cookie) *httptypev3.Cookie {
	m := &httptypev3.Cookie{Name: c.Name, Path: c.Path}
	if c.TTL > 0 {
		m.Ttl = durationpb.New(max(time.Duration(c.TTL)*time.Millisecond, time.Second).Truncate(time.Second))
	}
	return m
}
