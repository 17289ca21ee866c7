package identity_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

func joinToken(t testing.TB) identity.JoinToken {
	t.Helper()
	s, err := identity.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewTokenID()
	if err != nil {
		t.Fatal(err)
	}
	return identity.JoinToken{ID: id, Zone: "aws-east", Endpoints: []string{"global.example:7443", "[::1]:7443"}, Pin: identity.Pin{1, 2}, Expires: time.Unix(2e9, 0).UTC(), Secret: s}
}

func enrolToken(t testing.TB) identity.EnrolToken {
	t.Helper()
	j := joinToken(t)
	return identity.EnrolToken{ID: j.ID, Zone: j.Zone, Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: "web",
		Endpoints: j.Endpoints, Pin: j.Pin, Expires: j.Expires, Limit: 3, Secret: j.Secret}
}

func TestTokens(t *testing.T) {
	j, e := joinToken(t), enrolToken(t)
	jt, err := j.Text()
	if err != nil {
		t.Fatal(err)
	}
	et, err := e.Text()
	if err != nil {
		t.Fatal(err)
	}
	j2, err := identity.ParseJoinToken(jt + "\n")
	if err != nil {
		t.Fatal(err)
	}
	e2, err := identity.ParseEnrolToken(et)
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b identity.Secret) bool { return a == b })
	if d := cmp.Diff(j, j2, same); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(e, e2, same); d != "" {
		t.Error(d)
	}
	for what, s := range map[string]string{
		"22 altered case":      strings.ToUpper(jt),
		"22 one letter's case": swapCase(jt),
		"cut":                  jt[:len(jt)-1],
		"prolonged":            jt + "A",
		"another kind":         et,
		"empty":                "",
		"only a prefix":        "comity-join-",
		"oversize":             "comity-join-" + strings.Repeat("A", 10_000),
	} {
		_, err := identity.ParseJoinToken(s)
		if !errors.Is(err, identity.ErrToken) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && len(s) > 20 && strings.Contains(err.Error(), s[15:]) {
			t.Errorf("%s: the error quotes the token", what)
		}
	}
	// The secret never shows.
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(f, j.Secret); got != "[secret]" {
			t.Errorf("%s prints %q", f, got)
		}
	}
	if _, err := json.Marshal(j); err == nil {
		t.Error("a token with its secret was marshalled")
	}

	// The proof is bound to every part of the transcript, and to the purpose of the token.
	tr := identity.JoinTranscript{Exporter: []byte("e"), CSR: []byte("c"), TokenID: j.ID, Zone: "aws-east", TrustDomain: "a.example", Incarnation: "1"}
	proof, err := j.Prove(tr.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	pub, err := j.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifyTokenProof(pub, tr.Bytes(), proof); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*identity.JoinTranscript){
		"exporter":       func(t *identity.JoinTranscript) { t.Exporter = []byte("f") },
		"csr":            func(t *identity.JoinTranscript) { t.CSR = []byte("d") },
		"zone":           func(t *identity.JoinTranscript) { t.Zone = "gcp-west" },
		"trust domain":   func(t *identity.JoinTranscript) { t.TrustDomain = "b.example" },
		"incarnation":    func(t *identity.JoinTranscript) { t.Incarnation = "2" },
		"moved boundary": func(t *identity.JoinTranscript) { t.Zone, t.TrustDomain = "aws-easta", ".example" },
	} {
		changed := tr
		change(&changed)
		if err := identity.VerifyTokenProof(pub, changed.Bytes(), proof); !errors.Is(err, identity.ErrProof) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	e.Secret = j.Secret
	other, err := e.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if other.Equal(pub) {
		t.Error("the same secret gives the same key for both purposes")
	}
}

func swapCase(s string) string {
	b := []byte(s)
	for i := len(b) / 2; i < len(b); i++ {
		if b[i] >= 'a' && b[i] <= 'z' {
			b[i] -= 32
			return string(b)
		}
	}
	return s
}

func FuzzParseTokens(f *testing.F) {
	jt, err := joinToken(f).Text()
	if err != nil {
		f.Fatal(err)
	}
	et, err := enrolToken(f).Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(jt)
	f.Add(et)
	f.Add("comity-join-e30")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := identity.ParseJoinToken(s); err == nil {
			if again, err := tok.Text(); err != nil || again == "" {
				t.Errorf("parsed, but not written again: %v", err)
			}
		}
		if tok, err := identity.ParseEnrolToken(s); err == nil {
			if again, err := tok.Text(); err != nil || again == "" {
				t.Errorf("parsed, but not written again: %v", err)
			}
		}
	})
}
