package imports

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
)

// other is a zone that makes statements.
type other struct {
	t      *testing.T
	name   string
	td     mesh.TrustDomain
	root   *identity.Authority
	signer *identity.StatementSigner
	seq    uint64
}

func newOther(t *testing.T, name string) *other {
	t.Helper()
	o := &other{t: t, name: name, td: mesh.TrustDomain(name + ".example")}
	now := time.Now()
	var err error
	if o.root, err = identity.NewRoot(o.td, now); err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ParseID(o.td.ZoneCPID())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := o.root.Sign(key.Public(), id, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.TLSCertificate(issued.Chain, key)
	o.signer = identity.NewStatementSigner(func() (*tls.Certificate, error) { return cert, nil })
	return o
}

func (o *other) says(kind, subject string, payload any) identity.Statement {
	o.t.Helper()
	raw, ok := payload.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(payload); err != nil {
			o.t.Fatal(err)
		}
	}
	o.seq++
	now := time.Now()
	s, err := o.signer.Sign(identity.Statement{
		Kind: kind, Zone: o.name, TrustDomain: o.td, Incarnation: "life", Sequence: o.seq, Subject: subject,
		Issued: now, LeaseUntil: now.Add(24 * time.Hour), Payload: raw,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

func (o *other) bundle() identity.Statement {
	o.t.Helper()
	raw, err := o.root.Bundle(1).Marshal()
	if err != nil {
		o.t.Fatal(err)
	}
	return o.says(federation.StatementBundle, string(o.td), raw)
}

func (o *other) export(namespace, service string, identities ...string) identity.Statement {
	o.t.Helper()
	return o.says(federation.StatementExport, namespace+"/"+service, mesh.Export{
		Namespace: namespace, Service: service, Identities: identities, Ready: 1, Total: 1,
		Ports: []mesh.ExportPort{{Port: 80, AppProtocol: "http"}},
	})
}

func openStore(t *testing.T) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openBook(t *testing.T, s *sqlitestore.Store, own *other) *Book {
	t.Helper()
	b, err := Open(t.Context(), s, own.name, own.root.Bundle(1), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func receive(t *testing.T, b *Book, s identity.Statement, want error) {
	t.Helper()
	if err := b.Receive(t.Context(), s, ByGlobal, time.Now()); !errors.Is(err, want) {
		t.Fatalf("%s %s of %s: %v, want %v", s.Kind, s.Subject, s.Zone, err, want)
	}
}

func TestBelievesWhatIsSigned(t *testing.T) {
	s := openStore(t)
	east, west, thief := newOther(t, "east"), newOther(t, "west"), newOther(t, "thief")
	b := openBook(t, s, east)
	pay := west.td.WorkloadID("shop", "pay")

	early := west.export("shop", "pay", pay)
	receive(t, b, early, ErrUnverified) // kept aside
	receive(t, b, west.bundle(), nil)
	receive(t, b, thief.bundle(), nil)
	zones := map[string]policy.Zone{"west": {Namespaces: []string{"shop"}}}
	exports := func(b *Book) []mesh.Export {
		p := b.Picture(zones, time.Time{}, time.Now())
		if len(p.Remotes) == 0 {
			return nil
		}
		return p.Remotes[0].Exports
	}
	if got := exports(b); len(got) != 1 || got[0].Service != "pay" {
		t.Fatalf("exports %+v: what had waited for the bundle is not there", got)
	}

	// What nobody may do, however it is signed.
	forged := thief.export("shop", "pay", pay)
	forged.Zone, forged.TrustDomain = "west", west.td
	receive(t, b, forged, identity.ErrStatement)
	receive(t, b, thief.export("shop", "pay", pay), identity.ErrStatement) // another zone's identity
	receive(t, b, west.export("shop", "cp", west.td.ZoneCPID()), identity.ErrStatement)
	receive(t, b, west.says(federation.StatementExport, "shop/x", []byte("{")), identity.ErrStatement)
	own := east.bundle()
	receive(t, b, own, identity.ErrStatement)

	receive(t, b, west.export("bank", "vault", west.td.WorkloadID("bank", "vault")), nil) // held, and not believed
	if got := exports(b); len(got) != 1 {
		t.Fatalf("exports %+v: a namespace that is not the zone's", got)
	}
	if notes := b.Picture(zones, time.Time{}, time.Now()).Notes; len(notes["west"]) == 0 || len(notes["thief"]) == 0 {
		t.Fatalf("notes %v say too little", notes)
	}
	newer := west.export("shop", "pay", pay)
	receive(t, b, newer, nil)
	receive(t, b, early, nil) // an older one again: no error, no effect
	reopened := openBook(t, s, east)
	if got := exports(reopened); len(got) != 1 {
		t.Fatalf("exports %+v after a restart", got)
	}
	if held := reopened.Held(); len(held) != 4 {
		t.Fatalf("%d statements held, want 2 bundles and 2 exports", len(held))
	}
	if p := b.Picture(zones, time.Time{}, time.Now().Add(25*time.Hour)); len(p.Remotes) != 0 || p.Roots[west.td] != nil {
		t.Fatalf("trusted beyond the lease: %+v", p.Remotes)
	}
	if p := b.Picture(map[string]policy.Zone{"west": {TrustDomain: "other.example"}}, time.Time{}, time.Now()); len(p.Remotes) != 0 {
		t.Fatal("believed under another trust domain than global says")
	}
}

func TestResolverKeepsTheLastGoodAnswer(t *testing.T) {
	s := openStore(t)
	answer, fail := []string{"10.0.0.2", "10.0.0.1"}, error(nil)
	r, err := NewResolver(t.Context(), func(context.Context, string) ([]string, error) { return answer, fail }, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	remotes := func() []topology.Remote {
		return []topology.Remote{{Ingresses: []topology.RemoteIngress{{Ingress: mesh.Ingress{Host: "in.west.example"}}, {Ingress: mesh.Ingress{Host: "192.0.2.7"}}}}}
	}
	list := remotes()
	r.Fill(list)
	if list[0].Ingresses[0].Addresses != nil || list[0].Ingresses[1].Addresses[0] != "192.0.2.7" {
		t.Fatalf("%+v", list)
	}
	r.resolve(t.Context(), "in.west.example")
	<-r.Changed()
	fail = errors.New("no such host")
	r.resolve(t.Context(), "in.west.example")
	list = remotes()
	r.Fill(list)
	if got := list[0].Ingresses[0].Addresses; len(got) != 2 || got[0] != "10.0.0.1" {
		t.Fatalf("%v", got)
	}
	after, err := NewResolver(t.Context(), nil, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	list = remotes()
	after.Fill(list)
	if len(list[0].Ingresses[0].Addresses) != 2 {
		t.Fatal("the answer did not survive a restart")
	}
}
