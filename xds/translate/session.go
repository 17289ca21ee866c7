package translate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// keepSession brings the requests of a route to the endpoint where their session began. The first word counts: what a
// route says of itself wins over what policies say.
//
// Envoy hands out the endpoint alone. The name of the backend is put before it, so that of several backends the session has
// one that routes can match (sessionAt), and keeps it when more come or weights change.
func keepSession(r *ir.Route, s *ir.Session) {
	if s == nil || len(r.Backends) == 0 {
		return
	}
	for _, f := range r.Filters.After {
		if f.Session != nil {
			return
		}
	}
	mark := &ir.Lua{Script: sessionScript(*s, r.Backends[0].Cluster), KeepRoute: true} // without its mark a request would match another
	r.Filters.After = append(r.Filters.After, ir.Filter{Lua: mark}, ir.Filter{Session: s})
}

// beforeSession is the place among filters for what may choose the route anew: as long as the mark of the session is there.
func beforeSession(list []ir.Filter) int {
	if i := slices.IndexFunc(list, func(f ir.Filter) bool { return f.Session != nil }); i > 0 {
		return i - 1
	}
	return len(list)
}

// sessionAt is met by the requests of sessions that began at a backend.
func sessionAt(s ir.Session, cluster string) ir.HeaderMatch {
	if s.Cookie == nil {
		return ir.HeaderMatch{Name: s.Header, Regex: backendMark(cluster) + `\..*`}
	}
	return ir.HeaderMatch{Name: "cookie", Regex: `(?:.*; ?)?` + regexp.QuoteMeta(s.Cookie.Name) + `="?` + backendMark(cluster) + `\..*`}
}

// backendMark stands for a backend in sessions: the same in every proxy and at any time. It is no secret: who may choose a session may choose
// among the backends of its rule.
func backendMark(cluster string) string {
	sum := sha256.Sum256([]byte(cluster))
	return hex.EncodeToString(sum[:4])
}

// The scripts around Envoy's own filter for sessions: they take the mark of the backend off what requests bring, and put it on
// what answers take along. Parameters: the name of cookie or header as a pattern and the mark; as a pattern, too, that of the cookie.
const (
	headerScript = `function envoy_on_request(handle)
  local headers = handle:headers()
  local value = headers:get(%[1]q)
  if value and value:sub(1, %[3]d) == "%[2]s." then headers:replace(%[1]q, value:sub(%[3]d + 1)) end
end
function envoy_on_response(handle)
  local headers = handle:headers()
  local value = headers:get(%[1]q)
  if value then headers:replace(%[1]q, "%[2]s." .. value) end
end`
	cookieScript = `function envoy_on_request(handle)
  local headers = handle:headers()
  local cookies = headers:get("cookie")
  if not cookies then return end
  local plain, found = ("; " .. cookies):gsub("(; ?%[1]s=\"?)%[2]s%%.", "%%1")
  if found > 0 then headers:replace("cookie", plain:sub(3)) end
end
function envoy_on_response(handle)
  local headers, marked = handle:headers(), {}
  local count = headers:getNumValues("set-cookie")
  if count == 0 then return end
  for i = 1, count do
    marked[i] = headers:getAtIndex("set-cookie", i - 1):gsub("^(%[1]s=\"?)", "%%1%[2]s.")
  end
  headers:remove("set-cookie")
  for _, cookie in ipairs(marked) do headers:add("set-cookie", cookie) end
end`
)

func sessionScript(s ir.Session, cluster string) string {
	mark := backendMark(cluster)
	if s.Cookie == nil {
		return fmt.Sprintf(headerScript, s.Header, mark, len(mark)+1)
	}
	return fmt.Sprintf(cookieScript, luaPattern(s.Cookie.Name), mark)
}

var luaMagic = regexp.MustCompile(`[^A-Za-z0-9_]`)

// luaPattern is a pattern of Lua that matches the name of a cookie (a token of RFC 9110) and nothing else.
func luaPattern(name string) string { return luaMagic.ReplaceAllString(name, "%$0") }

// sessionOf is what a rule says of sessions, nil for nothing. Without a name it is the rule's own: rules must not share sessions (GEP-1619).
func sessionOf(m policy.RouteMatch) *ir.Session {
	s := m.Does.SessionPersistence
	if s == nil {
		return nil
	}
	name := orNone(s.SessionName)
	if name == "" {
		name = "comity-session-" + backendMark(m.Route.String()+"/"+cmp.Or(m.RuleName, strconv.Itoa(m.Rule)))
	}
	if s.Type != nil && *s.Type == gatewayv1.HeaderBasedSessionPersistence {
		return &ir.Session{Header: strings.ToLower(name)}
	}
	return &ir.Session{Cookie: &ir.Cookie{Name: name, TTL: millis(policy.Length(s.AbsoluteTimeout)), Path: "/"}}
}

// sessionAsked is what a policy says of sessions, nil for nothing.
func sessionAsked(s *policy.Session) *ir.Session {
	if s == nil {
		return nil
	}
	out := &ir.Session{Header: strings.ToLower(s.Header), Strict: s.Strict}
	if s.Cookie != nil {
		out.Cookie = cookieOf(*s.Cookie)
	}
	return out
}

func cookieOf(c policy.Cookie) *ir.Cookie {
	return &ir.Cookie{Name: c.Name, TTL: millis(c.Length()), Path: cmp.Or(c.Path, "/")}
}
