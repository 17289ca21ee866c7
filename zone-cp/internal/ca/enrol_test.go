package ca_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
)

func TestEnrolRenewReattest(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	key, csr := newKey(t)
	c := r.pinned(t)
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetSpiffeId() != "spiffe://aws-east.demo.example/ns/shop/sa/web" || resp.GetZone() != "aws-east" {
		t.Fatalf("enrolled as %v", resp)
	}
	first := serial(t, resp.GetCertificateChain())
	if p, ok := r.Lookup(first); !ok || p != web1 {
		t.Fatalf("Lookup = %v, %v", p, ok)
	}

	t.Run("attend over mTLS", func(t *testing.T) {
		stream, err := r.mutual(t, resp.GetCertificateChain(), key).Attend(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, err := stream.Recv()
		if err != nil || n.GetRefused().GetReason() != web1.String()+" spiffe://aws-east.demo.example/ns/shop/sa/web" {
			t.Fatalf("notice %v, %v", n, err)
		}
	})
	t.Run("attend without a certificate", func(t *testing.T) {
		stream, err := r.pinned(t).Attend(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("renew over mTLS with a new key", func(t *testing.T) {
		key2, csr2 := newKey(t)
		got, err := r.mutual(t, resp.GetCertificateChain(), key).Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr2})
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := r.Lookup(serial(t, got.GetCertificateChain())); !ok || p != web1 {
			t.Fatalf("Lookup = %v, %v", p, ok)
		}
		r.mutual(t, got.GetCertificateChain(), key2)
	})
	t.Run("renew as another proxy", func(t *testing.T) {
		_, csr2 := newKey(t)
		_, err := r.mutual(t, resp.GetCertificateChain(), key).Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-2", Csr: csr2})
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
	})

	t.Run("restart, then the instance key after the certificate's end", func(t *testing.T) {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		pin := r.Pin()
		r.open(t)
		if r.Pin() != pin {
			t.Fatal("the root changed over a restart")
		}
		if p, ok := r.Lookup(first); !ok || p != web1 {
			t.Fatalf("after a restart Lookup = %v, %v", p, ok)
		}
		r.clock.advance(identity.LeafTTL + time.Minute)
		if _, ok := r.Lookup(first); ok {
			t.Error("an expired certificate is still known")
		}
		c := r.pinned(t)
		_, csr2 := newKey(t)
		proof, err := identity.SignTranscript(key, identity.RenewTranscript{Exporter: c.exporter, CSR: csr2, Who: web1.String()}.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		req := &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr2, Proof: proof}
		got, err := c.Renew(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := r.Lookup(serial(t, got.GetCertificateChain())); !ok || p != web1 {
			t.Fatalf("Lookup = %v, %v", p, ok)
		}
		// The same proof on another connection is worth nothing.
		_, err = r.pinned(t).Renew(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
		// Nor after the instance was removed.
		if err := r.RemoveInstance(t.Context(), web1); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Lookup(serial(t, got.GetCertificateChain())); ok {
			t.Error("a removed instance's certificate is still known")
		}
		_, err = c.Renew(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
	})
}

func TestEnrolRefuses(t *testing.T) {
	r := newRig(t)
	c := r.pinned(t)
	tok := r.token(t, 1)
	_, csr := newKey(t)

	t.Run("wrong namespace", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "bank", Name: "web-1"}))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
	})
	t.Run("wrong role", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleIngress, Name: "web-1"}))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
	})
	t.Run("proof of another connection", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, r.pinned(t).exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("proof for another request", func(t *testing.T) {
		req := request(t, tok, c.exporter, csr, web1)
		_, req.Csr = newKey(t)
		_, err := c.Enrol(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("unknown token", func(t *testing.T) {
		other := tok
		other.ID = "0123456789abcdef"
		_, err := c.Enrol(t.Context(), request(t, other, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("oversize request", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, make([]byte, identity.MaxCSRBytes+1), web1))
		wantCode(t, err, codes.InvalidArgument, ca.CodeMalformed)
	})
	t.Run("name that is none", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "../x~y"}))
		wantCode(t, err, codes.InvalidArgument, ca.CodeMalformed)
	})
	t.Run("used up", func(t *testing.T) {
		if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1)); err != nil {
			t.Fatal(err)
		}
		// Again with the same key: the same instance, not another one.
		if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1)); err != nil {
			t.Fatal(err)
		}
		_, csr2 := newKey(t)
		web2 := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-2"}
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr2, web2))
		wantCode(t, err, codes.FailedPrecondition, ca.CodeTokenUsedUp)
	})
	t.Run("name held by another identity", func(t *testing.T) {
		other, err := r.CreateToken(t.Context(), ca.TokenSpec{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: "admin", TTL: time.Hour, Limit: 9})
		if err != nil {
			t.Fatal(err)
		}
		_, csr2 := newKey(t)
		_, err = c.Enrol(t.Context(), request(t, other, c.exporter, csr2, web1))
		wantCode(t, err, codes.AlreadyExists, ca.CodeNameTaken)
	})
	t.Run("revoked", func(t *testing.T) {
		tok := r.token(t, 1)
		if err := r.RevokeToken(t.Context(), tok.ID); err != nil {
			t.Fatal(err)
		}
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenRevoked)
	})
	t.Run("expired", func(t *testing.T) {
		tok := r.token(t, 1)
		r.clock.advance(time.Hour + time.Second)
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenExpired)
	})
	log := r.log.String()
	for _, code := range []string{ca.CodeTokenMismatch, ca.CodeRefused, ca.CodeTokenUsedUp, ca.CodeTokenExpired, ca.CodeTokenRevoked} {
		if !strings.Contains(log, "code="+code) {
			t.Errorf("no refusal with %s in the log", code)
		}
	}
	text, err := tok.Text()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log, text) || strings.Contains(log, "PRIVATE") {
		t.Error("a secret is in the log")
	}
}

func TestEnrolIngress(t *testing.T) {
	r := newRig(t)
	tok, err := r.CreateToken(t.Context(), ca.TokenSpec{Role: mesh.RoleIngress, TTL: time.Hour, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	c := r.pinned(t)
	_, csr := newKey(t)
	p := mesh.ProxyID{Role: mesh.RoleIngress, Name: "east-1"}
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, p))
	if err != nil || resp.GetSpiffeId() != "spiffe://aws-east.demo.example/fed/zone-ingress/east-1" {
		t.Fatalf("enrolled as %q, %v", resp.GetSpiffeId(), err)
	}
	tokens, err := r.Tokens(t.Context())
	if err != nil || len(tokens) != 1 || tokens[0].Used != 1 {
		t.Errorf("tokens %+v, %v", tokens, err)
	}
	in, ok, err := r.Enrolled(t.Context(), p)
	if err != nil || !ok || in.TokenID != tok.ID {
		t.Errorf("instance %+v, %v, %v", in, ok, err)
	}
}

// A token that names its proxy admits no other, whatever its role.
func TestEnrolByName(t *testing.T) {
	r := newRig(t)
	c := r.pinned(t)
	_, csr := newKey(t)
	for _, spec := range []ca.TokenSpec{
		{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: "web", Name: "web-1"},
		{Role: mesh.RoleIngress, Name: "east-1"},
	} {
		spec.TTL, spec.Limit = time.Hour, 2
		tok, err := r.CreateToken(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		p := mesh.ProxyID{Role: spec.Role, Namespace: spec.Namespace, Name: "other"}
		_, err = c.Enrol(t.Context(), request(t, tok, c.exporter, csr, p))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
		p.Name = spec.Name
		if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, p)); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	_, err := r.CreateToken(t.Context(), ca.TokenSpec{Role: mesh.RoleIngress, Name: "no/name", TTL: time.Hour, Limit: 1})
	if !errors.Is(err, identity.ErrToken) {
		t.Errorf("a token for no name: %v", err)
	}
}

// A token of another zone whose record came into this zone's store (a copied database) is worth nothing.
func TestTokenOfAnotherZone(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.cfg.Zone, r.cfg.Dir = "gcp-west", filepath.Join(t.TempDir(), "ca")
	r.open(t)
	c := r.pinned(t)
	_, csr := newKey(t)
	_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
}

// 56: one agent that renews in a loop is stopped; others are not.
func TestRenewFlood(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 2)
	c := r.pinned(t)
	enrol := func(p mesh.ProxyID) conn {
		key, csr := newKey(t)
		resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, p))
		if err != nil {
			t.Fatal(err)
		}
		return r.mutual(t, resp.GetCertificateChain(), key)
	}
	web2 := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-2"}
	one, two := enrol(web1), enrol(web2)
	_, csr := newKey(t)
	var err error
	for range 50 {
		if _, err = one.Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr}); err != nil {
			break
		}
	}
	wantCode(t, err, codes.ResourceExhausted, ca.CodeTooMany)
	if _, err := two.Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-2", Csr: csr}); err != nil {
		t.Errorf("another agent: %v", err)
	}
	// Its certificates stay known: what it renewed last among them.
	if _, err := one.Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-2", Csr: csr}); err == nil {
		t.Error("it renewed as another")
	}
}

// No secret of the authority or of a token is in the store.
func TestStoreHoldsNoSecret(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	recs, _, err := r.cfg.Records.ListRecords(t.Context(), ca.Bucket, "")
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	text, err := tok.Text()
	if err != nil {
		t.Fatal(err)
	}
	// The text is base64 of a document with the secret in base64: neither may show up, nor the seed.
	for _, w := range strings.FieldsFunc(string(recs[0].Value), func(r rune) bool { return r == '"' }) {
		if len(w) >= 32 && strings.Contains(text, w) {
			t.Errorf("the store holds a part of the token")
		}
	}
}
