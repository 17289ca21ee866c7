package envoy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// TestHostileHeaders: saying a header twice, or in another spelling, neither allows what it should not nor makes a caller somebody else to the
// application.
func TestHostileHeaders(t *testing.T) {
	w := newWorld(t)
	web := w.zones[0].authority.issue(t, "/ns/shop/sa/web")
	const header, forged = "x-forwarded-client-cert", "By=spiffe://one.example/ns/shop/sa/echo-1;URI=spiffe://one.example/ns/shop/sa/admin"
	for name, fields := range map[string][][2]string{
		"nothing":           nil,
		"another caller":    {{header, forged}},
		"twice":             {{header, forged}, {header, forged}},
		"with an underline": {{"x_forwarded_client_cert", forged}, {"x-forwarded_client-cert", forged}},
		"an end of a list":  {{header, "URI=x,"}},
		"an open quote":     {{header, `Subject="`}},
	} {
		status, body := w.rawRequest(t, "echo-1", "echo-v1", &web, append([][2]string{{":path", "/"}}, fields...)...)
		var got echoed
		if err := json.Unmarshal(body, &got); err != nil || status != 200 {
			t.Errorf("%s: %d, %s", name, status, body)
			continue
		}
		var said []string
		for k, v := range got.Header {
			if strings.ReplaceAll(strings.ToLower(k), "_", "-") == header {
				said = append(said, v...)
			}
		}
		if len(said) != 1 || !strings.HasSuffix(said[0], ";URI=spiffe://one.example/ns/shop/sa/web") || strings.Contains(said[0], "admin") || strings.Contains(said[0], ",") {
			t.Errorf("%s: the application is told %q", name, said)
		}
	}

	w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Name == "everybody-may" })
	w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: team-a}
spec: {targetRef: {kind: Service, name: echo-v1}, action: Allow, rules: [{to: [{methods: [GET], headers: [{name: X-Team, values: [a]}]}]}]}
`)
	for name, c := range map[string]struct {
		fields [][2]string
		status int
	}{
		"as it should be":    {[][2]string{{"x-team", "a"}}, 200},
		"none":               {nil, 403},
		"another":            {[][2]string{{"x-team", "A"}}, 403},
		"two, the first":     {[][2]string{{"x-team", "a"}, {"x-team", "b"}}, 403},
		"two, the last":      {[][2]string{{"x-team", "b"}, {"x-team", "a"}}, 403},
		"a list":             {[][2]string{{"x-team", "b,a"}}, 403},
		"with an underline":  {[][2]string{{"x_team", "a"}}, 403},
		"what a route says":  {[][2]string{{"x-team", "b"}, {"x-envoy-original-path", "/"}, {"x-original-url", "/"}}, 403},
		"a method that says": {[][2]string{{"x-http-method-override", "GET"}, {"x-team", "b"}}, 403},
	} {
		if status, _ := w.rawRequest(t, "echo-1", "echo-v1", &web, append([][2]string{{":path", "/"}}, c.fields...)...); status != c.status {
			t.Errorf("%s: %d, not %d", name, status, c.status)
		}
	}
}
