package console

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func get(t *testing.T, path, encoding string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if encoding != "" {
		r.Header.Set("Accept-Encoding", encoding)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestLeadsToThePage(t *testing.T) {
	for path, want := range map[string]string{"/": "ui/", "/ui": "ui/", "/?page=top&service=shop/pay": "ui/?page=top&service=shop/pay"} {
		if res := get(t, path, ""); res.Code != http.StatusFound || res.Header().Get("Location") != want {
			t.Errorf("%s: %d to %q", path, res.Code, res.Header().Get("Location"))
		}
	}
	if res := get(t, "/ui/nothing.js", ""); res.Code != http.StatusNotFound {
		t.Errorf("what is not there: %d", res.Code)
	}
}

// Whether the pages are built or not, there is one, and nothing may be added to it.
func TestThePage(t *testing.T) {
	res := get(t, "/ui/", "")
	body, err := io.ReadAll(res.Body)
	if err != nil || res.Code != http.StatusOK || !strings.Contains(string(body), "Comity") {
		t.Fatalf("%d %v: %s", res.Code, err, body)
	}
	h := res.Header()
	if !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'") || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers: %v", h)
	}
	for _, bad := range []string{"unsafe", "http:", "https:", "*"} {
		if strings.Contains(h.Get("Content-Security-Policy"), bad) {
			t.Errorf("the policy has %q", bad)
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := load(fstest.MapFS{"dist/.gitkeep": {}}); err == nil {
		t.Error("a placeholder passes for a console")
	}
	text := strings.Repeat("let it be long enough to pack; ", 50)
	files, err := load(fstest.MapFS{"dist/index.html": {Data: []byte("x")}, "dist/assets/a-1.js": {Data: []byte(text)}})
	if err != nil || files["index.html"].packed != nil {
		t.Fatalf("%v %v", files, err)
	}
	for encoding, want := range map[string]string{"": "", "br, gzip": "gzip"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		files["assets/a-1.js"].serve(w, r)
		var in io.Reader = w.Body
		if w.Header().Get("Content-Encoding") != want {
			t.Errorf("%q: %v", encoding, w.Header())
		}
		if want != "" {
			if in, err = gzip.NewReader(w.Body); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(in); err != nil || string(got) != text {
			t.Errorf("%q: %q, %v", encoding, got, err)
		}
	}
}
