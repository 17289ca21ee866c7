// Package console is the web console: pages that a control plane serves beside its API, for global and for a zone alike.
// They are built from the sources in this folder by `make console` and embedded. A program that was built without them
// says so.
package console

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// The placeholder in dist is all there is before the pages are built.
//
//go:embed all:dist
var dist embed.FS

// policy lets the page load from its own origin only: no inline script or style, nothing from elsewhere, no
// frame around it, and no string that becomes script but through the framework's own door.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html"

const notBuilt = `<!doctype html>
<html lang="en"><title>Comity: no console in this build</title>
<h1>This program was built without the console</h1>
<p>The API is all there. To have the console, build with Node 20 on the path: <code>make build</code>.</p>
</html>
`

// file is one file, ready to be sent.
type file struct {
	kind   string // content type
	plain  []byte
	packed []byte // gzip; nil where that gains nothing
}

// Handler serves the pages below /ui/, and leads there from / and /ui. Whoever reads them needs no token: they hold
// nothing but the program. The redirects are relative, so the console works behind a proxy that adds a prefix.
func Handler() http.Handler {
	files, err := load(dist)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		name, below := strings.CutPrefix(r.URL.Path, "/ui/")
		if !below {
			to := url.URL{Path: "ui/", RawQuery: r.URL.RawQuery} // the query says which page of the console
			h.Set("Location", to.String())
			w.WriteHeader(http.StatusFound)
			return
		}
		if name == "" {
			name = "index.html"
		}
		f, found := files[name]
		switch {
		case err != nil && name == "index.html":
			f = file{kind: "text/html; charset=utf-8", plain: []byte(notBuilt)}
			h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		case !found:
			http.NotFound(w, r)
			return
		case strings.HasPrefix(name, "assets/"): // their names change with their content
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		f.serve(w, r)
	})
}

// errNotBuilt: there is nothing but the placeholder.
var errNotBuilt = errors.New("the console is not built")

func load(from fs.FS) (map[string]file, error) {
	out := map[string]file{}
	err := fs.WalkDir(from, "dist", func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		text, err := fs.ReadFile(from, at)
		if err != nil {
			return err
		}
		out[strings.TrimPrefix(at, "dist/")] = pack(path.Ext(at), text)
		return nil
	})
	if _, ok := out["index.html"]; err == nil && !ok {
		err = errNotBuilt
	}
	return out, err
}

func pack(ext string, text []byte) file {
	kinds := map[string]string{
		".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	f := file{kind: kinds[ext], plain: text}
	if f.kind == "" {
		f.kind = "application/octet-stream"
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return f
	}
	if _, err := z.Write(text); err != nil || z.Close() != nil || b.Len() >= len(text) {
		return f
	}
	f.packed = b.Bytes()
	return f
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	h, body := w.Header(), f.plain
	h.Set("Content-Type", f.kind)
	h.Set("Vary", "Accept-Encoding")
	if f.packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.packed
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}
