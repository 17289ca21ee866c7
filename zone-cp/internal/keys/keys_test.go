package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
)

// issuer answers over TLS with what it is told to.
type issuer struct {
	policy.JWKS
	answer atomic.Pointer[string] // nil: 503
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch a := i.answer.Load(); {
		case a == nil:
			rw.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasPrefix(*a, "http"):
			http.Redirect(rw, r, *a, http.StatusFound)
		default:
			_, _ = io.WriteString(rw, *a)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	i.JWKS = policy.JWKS{URL: s.URL + "/keys", CA: &policy.ExternalCA{PEM: string(root)}, Refresh: "30ms"}
	return i
}

func (i *issuer) says(text string) { i.answer.Store(&text) }

// key is a public key of a name, as a member of a set.
func key(t *testing.T, kid string) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q,"x5c":["beside"]}`, kid, b64(point[1:33]), b64(point[33:]))
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func open(t *testing.T, records store.Records) *Fetcher {
	t.Helper()
	f, err := New(t.Context(), Config{Records: records, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// until waits for what is known of a source to be as it should.
func until(t *testing.T, f *Fetcher, of policy.JWKS, what string, ok func(topology.Keys) bool) topology.Keys {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		k := f.Want(map[string][]policy.JWKS{"shop": {of}})[of.Source()]
		if ok(k) {
			return k
		}
		select {
		case <-f.Changed():
		case <-limit:
			t.Fatalf("%s: %+v", what, k)
		}
	}
}

// TestLastGoodKeys: keys rotate, and the last good ones hold while the issuer is away or talks nonsense, over a restart too.
func TestLastGoodKeys(t *testing.T) {
	records, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	i := newIssuer(t)
	f := open(t, records)
	done := make(chan error)
	go func() { done <- f.Run(t.Context()) }()
	t.Cleanup(func() { <-done })

	none := until(t, f, i.JWKS, "say that there are none", func(k topology.Keys) bool { return k.Problem != "" })
	if none.JWKS != "" || !strings.Contains(none.Problem, "answers 503; the zone never had them") {
		t.Errorf("%+v", none)
	}
	i.says(set(key(t, "k1")))
	first := until(t, f, i.JWKS, "fetch", func(k topology.Keys) bool { return k.Problem == "" && k.JWKS != "" })
	if !strings.Contains(first.JWKS, `"k1"`) || strings.Contains(first.JWKS, "beside") {
		t.Errorf("%+v", first)
	}
	k2 := key(t, "k2")
	i.says(set(k2, `{"kty":"oct","k":"c2VjcmV0"}`, `{"kty":"EC","crv":"secp256k1"}`))
	second := until(t, f, i.JWKS, "rotate", func(k topology.Keys) bool { return strings.Contains(k.JWKS, `"k2"`) })
	if strings.Contains(second.JWKS, "oct") || strings.Contains(second.JWKS, "secp256k1") {
		t.Errorf("keys that verify nothing: %s", second.JWKS)
	}
	for what, says := range map[string]string{
		"nonsense": "<html>", "no keys": set(), "secret keys alone": set(`{"kty":"oct","k":"c2VjcmV0"}`),
		"too much": set(key(t, "k3")) + strings.Repeat(" ", maxAnswer), "a redirect": "https://localhost:1/",
	} {
		i.says(set(k2)) // mend what was said before
		until(t, f, i.JWKS, what+": be well", func(k topology.Keys) bool { return k.Problem == "" })
		i.says(says)
		k := until(t, f, i.JWKS, what, func(k topology.Keys) bool { return k.Problem != "" })
		if !strings.Contains(k.JWKS, `"k2"`) || !strings.Contains(k.Problem, "are used") {
			t.Errorf("%s: %+v", what, k)
		}
	}
	held := f.Want(map[string][]policy.JWKS{"shop": {i.JWKS}})[i.Source()]
	again := open(t, records).Want(map[string][]policy.JWKS{"shop": {i.JWKS}})[i.Source()]
	if again.JWKS != held.JWKS {
		t.Errorf("after a restart: %+v", again)
	}
	if other := f.Want(map[string][]policy.JWKS{"shop": {{URL: i.URL}}}); len(other) != 0 {
		t.Errorf("keys of who was believed by another authority: %+v", other)
	}
}
