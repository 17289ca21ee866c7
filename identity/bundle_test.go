package identity_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

func TestBundleRoundTrip(t *testing.T) {
	now := time.Now()
	a, a2 := newZone(t, "a.example", now), newZone(t, "a.example", now)
	want := a.root.Bundle(7)
	want.Authorities = append(want.Authorities, a2.root.Root())
	doc, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.ParseBundle("a.example", doc, now)
	if err != nil || !got.Equal(want) || got.RefreshHint != 5*time.Minute {
		t.Errorf("ParseBundle = %+v, %v", got, err)
	}
	again, err := got.Marshal()
	if err != nil || !bytes.Equal(again, doc) {
		t.Errorf("other bytes at the second time: %v", err)
	}
	empty, err := identity.Bundle{TrustDomain: "a.example", Sequence: 8}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err = identity.ParseBundle("a.example", empty, now)
	if err != nil || len(got.Authorities) != 0 || got.Sequence != 8 {
		t.Errorf("the empty bundle: %+v, %v", got, err)
	}
}

func TestParseBundle(t *testing.T) {
	now := time.Now()
	a := newZone(t, "a.example", now)
	doc, err := a.root.Bundle(1).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(doc, &parsed); err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(parsed.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := a.leaf(t, "/ns/x/sa/y")
	foreign := newZone(t, "b.example", now)
	x5c := base64.StdEncoding.EncodeToString(a.root.Root().Raw)
	with := func(change func(map[string]any)) string {
		k := map[string]any{}
		maps.Copy(k, parsed.Keys[0])
		change(k)
		out, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	jwk := func(z zone) string {
		doc, err := z.root.Bundle(1).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(doc, &d); err != nil {
			t.Fatal(err)
		}
		return string(d.Keys[0])
	}
	keys := func(list ...string) string { return `{"keys":[` + strings.Join(list, ",") + `]}` }
	for what, doc := range map[string]string{
		"41 unknown kty":    keys(string(good), `{"kty":"XYZ","use":"x509-svid","x5c":["AAAA"]}`),
		"41 unknown use":    keys(with(func(k map[string]any) { k["use"] = "X509-SVID" }), string(good)),
		"41 a JWT key":      keys(string(good), with(func(k map[string]any) { delete(k, "x5c"); k["use"] = "jwt-svid"; k["kid"] = "1" })),
		"41 missing x5c":    keys(string(good), with(func(k map[string]any) { delete(k, "x5c") })),
		"41 two x5c":        keys(with(func(k map[string]any) { k["x5c"] = []string{x5c, "AAAA"} })),
		"42 the same twice": keys(string(good), string(good)),
		"41 unknown member": `{"keys":[` + string(good) + `],"future":{"a":1}}`,
	} {
		b, err := identity.ParseBundle("a.example", []byte(doc), now)
		if err != nil || len(b.Authorities) != 1 {
			t.Errorf("%s: %d authorities, %v", what, len(b.Authorities), err)
		}
	}
	for what, doc := range map[string]string{
		"37 HTML":                  "<html>",
		"37 truncated":             string(good)[:50],
		"37 nothing":               "",
		"37 no keys":               `{}`,
		"37 null keys":             `{"keys":null}`,
		"44 keys twice":            `{"keys":[],"keys":[]}`,
		"44 use twice":             keys(strings.Replace(string(good), `{`, `{"use":"x509-svid",`, 1)),
		"42 a leaf":                keys(with(func(k map[string]any) { k["x5c"] = []string{base64.StdEncoding.EncodeToString(leaf.Leaf.Raw)} })),
		"25 another domain's root": keys(string(good), jwk(foreign)),
		"40 10,000 keys":           keys(strings.TrimSuffix(strings.Repeat(`{"kty":"EC"},`, 10_000), ",")),
		"40 oversize":              `{"keys":[]` + strings.Repeat(" ", identity.MaxBundleBytes) + `}`,
		"40 nested":                `{"keys":[],"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`,
		"something follows":        `{"keys":[]}{"keys":[]}`,
	} {
		if b, err := identity.ParseBundle("a.example", []byte(doc), now); !errors.Is(err, identity.ErrBundle) {
			t.Errorf("%s: %+v, %v", what, b, err)
		}
	}
	for hint, want := range map[string]time.Duration{"-5": 30 * time.Second, "0": 5 * time.Minute, "1": 30 * time.Second, "9223372036854775807": 24 * time.Hour, "600": 10 * time.Minute} {
		b, err := identity.ParseBundle("a.example", fmt.Appendf(nil, `{"keys":[],"spiffe_refresh_hint":%s}`, hint), now)
		if err != nil || b.RefreshHint != want {
			t.Errorf("43 hint %s: %v, %v", hint, b.RefreshHint, err)
		}
	}
	b, err := identity.ParseBundle("a.example", doc, now.Add(identity.RootTTL+time.Hour))
	if err != nil || len(b.Authorities) != 0 {
		t.Errorf("42 an expired authority: %d kept, %v", len(b.Authorities), err)
	}
	for _, td := range []mesh.TrustDomain{"", ".", "..", "a.example.", "A.example", "a.example:443", "spiffe://a.example", mesh.TrustDomain(strings.Repeat("a", 256))} {
		if _, err := identity.ParseBundle(td, doc, now); !errors.Is(err, identity.ErrBundle) {
			t.Errorf("45 trust domain %q: %v", td, err)
		}
	}
}

// Whatever ParseID accepts is written the same again, and has one reading only.
func TestParseIDIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.StringMatching(`spiffe://[a-z0-9.\-]{1,12}(/[a-zA-Z0-9._\-]{1,6}){0,4}`),
			rapid.StringMatching(`[sS]piffe:/{1,3}[a-zA-Z0-9._%:@\-]{0,12}[/a-zA-Z0-9._%?#,\x00-]{0,20}`),
		).Draw(t, "id")
		id, err := identity.ParseID(s)
		if err != nil {
			if !errors.Is(err, identity.ErrID) {
				t.Fatalf("ParseID(%q) = %v", s, err)
			}
			return
		}
		if id.String() != s || strings.ContainsAny(s, "%?#@,:\x00") && strings.ContainsAny(s[9:], "%?#@,:\x00") || strings.HasSuffix(s, "/") {
			t.Fatalf("ParseID accepts %q and reads %q", s, id)
		}
		again, err := identity.NewID(id.TrustDomain(), id.Path())
		if err != nil || again != id {
			t.Fatalf("NewID of the parts of %q = %q, %v", s, again, err)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	now := time.Unix(1.9e9, 0)
	root, err := identity.NewRoot("a.example", now)
	if err != nil {
		f.Fatal(err)
	}
	doc, err := root.Bundle(1).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Add([]byte(`{"keys":[],"spiffe_sequence":18446744073709551615}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","use":"x509-svid","x5c":["AA=="]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := identity.ParseBundle("a.example", data, now)
		if err != nil {
			return
		}
		if err := b.Check(now); err != nil {
			t.Errorf("an accepted bundle fails its check: %v", err)
		}
		out, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := identity.ParseBundle("a.example", out, now); err != nil || !again.Equal(b) {
			t.Errorf("not the same after writing: %v", err)
		}
	})
}

func TestSealer(t *testing.T) {
	dir := t.TempDir()
	kek, file := filepath.Join(dir, "kek"), filepath.Join(dir, "key.sealed")
	s, err := identity.OpenSealer(kek)
	if err != nil {
		t.Fatal(err)
	}
	label := identity.SealLabel{Zone: "a", KeyID: "root", Version: 1}
	if err := s.WriteSealedFile(file, label, []byte("the secret key")); err != nil {
		t.Fatal(err)
	}
	s, err = identity.OpenSealer(kek) // the next start
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadSealedFile(file, label)
	if err != nil || string(got) != "the secret key" {
		t.Fatalf("read %q, %v", got, err)
	}
	// 57: a record in another's place.
	for _, l := range []identity.SealLabel{{"b", "root", 1}, {"a", "issuer", 1}, {"a", "root", 2}} {
		if _, err := s.ReadSealedFile(file, l); !errors.Is(err, identity.ErrSealed) {
			t.Errorf("as %+v: %v", l, err)
		}
	}
	sealed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the secret is readable")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if got, err := s.Open(label, bad); err == nil && string(got) != "the secret key" {
			t.Errorf("byte %d altered: %q", i, got)
		}
	}
	other, err := identity.OpenSealer(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(label, sealed); !errors.Is(err, identity.ErrSealed) {
		t.Errorf("with another key: %v", err)
	}
	if err := os.Chmod(kek, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.OpenSealer(kek); err == nil {
		t.Error("a key that everybody can read was taken")
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestFileSource(t *testing.T) {
	now := time.Now()
	a := newZone(t, "a.example", now)
	dir := t.TempDir()
	files := identity.AuthorityFiles{Chain: filepath.Join(dir, "chain.pem"), Key: filepath.Join(dir, "key.pem")}
	put := func(z zone) {
		t.Helper()
		key, err := identity.PEMKey(z.issuer.Key())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.Key, key, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.Chain, identity.PEMCertificates(z.issuer.Chain()...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(a)
	src, err := identity.NewFileSource("a.example", files, nil)
	if err != nil {
		t.Fatal(err)
	}
	updates := src.Updates(t.Context())
	first := <-updates
	is, err := src.Issue(t.Context(), &newKey(t).PublicKey, a.id(t, "/ns/x/sa/y"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.VerifyPeer(is.Chain, first, now); err != nil {
		t.Error(err)
	}
	put(newZone(t, "a.example", now))
	if err := src.Reload(); err != nil {
		t.Fatal(err)
	}
	if next := <-updates; next.Sequence <= first.Sequence || next.Equal(first) {
		t.Errorf("sequence %d after %d", next.Sequence, first.Sequence)
	}
	put(newZone(t, "b.example", now))
	if err := src.Reload(); err == nil {
		t.Error("another trust domain's authority was taken")
	}
}
