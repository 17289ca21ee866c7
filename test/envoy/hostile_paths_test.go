package envoy

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/comity-mesh/comity/mesh"
)

// rawRequest is what somebody sends who has a certificate and no sidecar that tidies up: header fields as they are, in order.
func (w *world) rawRequest(t *testing.T, workload, service string, cert *tls.Certificate, fields ...[2]string) (status int, body []byte) {
	t.Helper()
	spec := w.spec(t, workload).Spec
	name := mesh.ServicePort{Zone: "one", Namespace: "shop", Service: service, Port: 80}.SNI("one")
	c, err := handshake(t, fmt.Sprintf("%s:%d", spec.Address, spec.InboundPort), name, cert)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range append([][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", service}}, fields...) {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return status, body // refused as no request at all
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status, _ = strconv.Atoi(frame.PseudoValue("status"))
			if frame.StreamEnded() {
				return status, body
			}
		case *http2.DataFrame:
			body = append(body, frame.Data()...)
			if frame.StreamEnded() {
				return status, body
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status, body
		}
	}
}

// TestHostilePaths: what is denied by a path can't be reached by writing the path in another way, and what a path means to applications in
// different ways is refused where policies look at paths.
func TestHostilePaths(t *testing.T) {
	w := newWorld(t)
	w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec: {targetRef: {kind: Service, name: echo-v1}, action: Deny, rules: [{to: [{paths: ["/admin*"]}]}]}
`)
	web := w.zones[0].authority.issue(t, "/ns/shop/sa/web")
	for path, want := range map[string]string{ // what the application is asked, empty for what is refused
		"/":                   "/",
		"/public?to=/admin":   "/public?to=/admin",
		"/public?a=%2f;b=1":   "/public?a=%2f;b=1",
		"/a%20b/%7euser":      "/a%20b/~user",
		"/admin":              "",
		"/admin/x":            "",
		"/admin?x":            "",
		"/admin;x=1":          "",
		"//admin":             "",
		"///admin":            "",
		"/./admin":            "",
		"/x/../admin":         "",
		"/x/%2e%2e/admin":     "",
		"/x/%2E./admin":       "",
		"/%61dmin":            "",
		"/%61%64min/x":        "",
		"/x/..//admin":        "",
		"/x/..;/admin":        "",
		"/;/admin":            "",
		"/;a=b/admin":         "",
		"/x;/../admin":        "",
		"/%3b/admin":          "",
		"/x%2f..%2fadmin":     "",
		"/x%5c..%5cadmin":     "",
		`/x\..\admin`:         "",
		`\admin`:              "",
		"/admin%00":           "",
		"/%00/admin":          "",
		"/public%00/../admin": "",
		"admin":               "",
		"http://x/admin":      "",
		"*":                   "",
		"/\u00adadmin":        "/%C2%ADadmin",
	} {
		status, body := w.rawRequest(t, "echo-1", "echo-v1", &web, [2]string{":path", path})
		var got echoed
		if status == 200 {
			if err := json.Unmarshal(body, &got); err != nil {
				t.Errorf("%s: %s", path, body)
			}
		}
		if got.Path != want || want == "" && status == 200 {
			t.Errorf("%q: %d, and the application is asked %q, not %q", path, status, got.Path, want)
		}
	}
}
