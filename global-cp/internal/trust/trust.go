// Package trust is what global believes and what makes others believe it: the certificate authority
// of the global trust domain, which serves control planes only and no data plane, and the book of the
// zones' bundles. The authority's keys are sealed files on global's disk, never in its store.
package trust

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

const (
	// ZoneTTL is the life of a zone's federation certificate; zones renew at half of it.
	ZoneTTL = 24 * time.Hour
	// serverTTL is the life of global's own certificate, made anew at half of it.
	serverTTL = 30 * 24 * time.Hour

	// The book is one record for each trust domain, so that replicas don't write over each other's.
	bucketTrust  = "trust"
	bundlePrefix = "bundle/"
	rootKey      = "root"
)

// Options say where the authority lives.
type Options struct {
	Dir         string // of certificates and sealed keys
	KeyFile     string // of the sealing key; to be kept apart from backups of Dir
	TrustDomain mesh.TrustDomain
	Now         func() time.Time // nil means time.Now
}

// Authority is global's certificate authority and book. Safe for concurrent use.
type Authority struct {
	now  func() time.Time
	dir  string
	seal *identity.Sealer
	td   mesh.TrustDomain
	root *identity.Authority
	book *identity.BundleBook

	mu           sync.Mutex
	intermediate *identity.Authority
	server       *tls.Certificate
	saving       sync.Mutex // one writer of the book, so that writes keep their order
}

// Open reads the authority from its folder, or makes one if the folder holds none. A folder of another
// trust domain is an error: certificates of zones would be lost.
func Open(o Options) (*Authority, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the authority: %w", err)
	}
	seal, err := identity.OpenSealer(o.KeyFile)
	if err != nil {
		return nil, err
	}
	a := &Authority{now: o.Now, dir: o.Dir, seal: seal, td: o.TrustDomain, book: identity.NewBundleBook()}
	if a.root, err = a.load("root", func() (*identity.Authority, error) { return identity.NewRoot(a.td, a.now()) }); err != nil {
		return nil, err
	}
	if err := a.book.Pin(string(mesh.OriginGlobal), a.root.Bundle(1), a.now()); err != nil {
		return nil, err
	}
	_, err = a.issuer()
	return a, err
}

// load reads one authority of the folder, or makes and keeps it. The certificates are written before
// the key: a crash between them is found as a missing key, and made good while nothing was issued.
func (a *Authority) load(name string, create func() (*identity.Authority, error)) (*identity.Authority, error) {
	label := identity.SealLabel{Zone: string(mesh.OriginGlobal), KeyID: name, Version: 1}
	certs, keys := filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key.sealed")
	pem, err := a.seal.ReadSealedFile(keys, label)
	if errors.Is(err, fs.ErrNotExist) {
		return a.keep(certs, keys, label, create)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the %s authority: %w", name, err)
	}
	key, err := identity.ParsePEMKey(pem)
	if err != nil {
		return nil, fmt.Errorf("key of the %s authority: %w", name, err)
	}
	chainPEM, err := os.ReadFile(certs)
	if err != nil {
		return nil, fmt.Errorf("certificate of the %s authority: %w", name, err)
	}
	chain, err := identity.ParsePEMCertificates(chainPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate of the %s authority: %w", name, err)
	}
	return identity.LoadAuthority(a.td, key, chain, a.now())
}

func (a *Authority) keep(certs, keys string, label identity.SealLabel, create func() (*identity.Authority, error)) (*identity.Authority, error) {
	made, err := create()
	if err != nil {
		return nil, err
	}
	key, err := identity.PEMKey(made.Key())
	if err != nil {
		return nil, err
	}
	if err := identity.WriteFileAtomic(certs, identity.PEMCertificates(made.Chain()...)); err != nil {
		return nil, err
	}
	return made, a.seal.WriteSealedFile(keys, label, key)
}

// issuer is the intermediate that signs now; one past half its life is replaced.
func (a *Authority) issuer() (*identity.Authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.intermediate != nil && !pastHalf(a.intermediate.Certificate().NotBefore, a.intermediate.Certificate().NotAfter, a.now()) {
		return a.intermediate, nil
	}
	renew := func() (*identity.Authority, error) { return a.root.NewIntermediate(a.now()) }
	next, err := a.load("intermediate", renew)
	if err != nil && a.intermediate == nil {
		// It has ended while global was away, or is damaged: the root makes another one.
		next, err = a.replace(renew)
	} else if err == nil && pastHalf(next.Certificate().NotBefore, next.Certificate().NotAfter, a.now()) {
		next, err = a.replace(renew)
	}
	if err != nil {
		return nil, fmt.Errorf("signing authority: %w", err)
	}
	a.intermediate = next
	return next, nil
}

func (a *Authority) replace(create func() (*identity.Authority, error)) (*identity.Authority, error) {
	label := identity.SealLabel{Zone: string(mesh.OriginGlobal), KeyID: "intermediate", Version: 1}
	return a.keep(filepath.Join(a.dir, "intermediate.pem"), filepath.Join(a.dir, "intermediate.key.sealed"), label, create)
}

func pastHalf(from, until, now time.Time) bool { return now.After(from.Add(until.Sub(from) / 2)) }

// TrustDomain is the global trust domain.
func (a *Authority) TrustDomain() mesh.TrustDomain { return a.td }

// Pin is what a join token carries: the key of the root.
func (a *Authority) Pin() identity.Pin { return identity.KeyPin(a.root.Root()) }

// Roots are the DER certificates that zones are to trust for global.
func (a *Authority) Roots() [][]byte { return [][]byte{a.root.Root().Raw} }

// Bundle is the bundle of the global trust domain.
func (a *Authority) Bundle() identity.Bundle { return a.root.Bundle(1) }

// Book is the book of the zones' bundles.
func (a *Authority) Book() *identity.BundleBook { return a.book }

// IssueZone makes a zone's federation certificate.
func (a *Authority) IssueZone(pub crypto.PublicKey, zone string) (identity.Issued, error) {
	id, err := identity.ZoneID(a.td, zone)
	if err != nil {
		return identity.Issued{}, err
	}
	by, err := a.issuer()
	if err != nil {
		return identity.Issued{}, err
	}
	return by.SignFor(pub, id, ZoneTTL, a.now())
}

// ServerCertificate is what global's federation service presents, with the root for those who come with a
// pin. It is an identity.CertSource.
func (a *Authority) ServerCertificate() (*tls.Certificate, error) {
	by, err := a.issuer()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil && !pastHalf(a.server.Leaf.NotBefore, a.server.Leaf.NotAfter, a.now()) {
		return a.server, nil
	}
	id, err := identity.NewID(a.td, identity.GlobalCPPath)
	if err != nil {
		return nil, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	issued, err := by.SignFor(key.Public(), id, serverTTL, a.now())
	if err != nil {
		return nil, fmt.Errorf("global's own certificate: %w", err)
	}
	a.server = identity.TLSCertificate(by.WithRoot(issued), key)
	return a.server, nil
}

// LoadBook reads the zones' bundles from the store, at the start, and again where another replica may have changed
// them.
func (a *Authority) LoadBook(ctx context.Context, s store.Records) error {
	recs, _, err := s.ListRecords(ctx, bucketTrust, bundlePrefix)
	if err != nil {
		return fmt.Errorf("read the zones' bundles: %w", err)
	}
	for _, r := range recs {
		if err := a.book.Merge(r.Value); err != nil {
			return err
		}
	}
	return nil
}

// FollowBook reads the zones' bundles whenever a replica has changed them, until ctx ends.
func (a *Authority) FollowBook(ctx context.Context, s store.Records) error {
	for range s.WatchRecords(ctx, bucketTrust) {
		if err := a.LoadBook(ctx, s); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// SaveBook keeps the bundle of one trust domain, after each change.
func (a *Authority) SaveBook(ctx context.Context, s store.Records, td mesh.TrustDomain) error {
	a.saving.Lock()
	defer a.saving.Unlock()
	doc, err := a.book.Export(td)
	if err != nil {
		return fmt.Errorf("keep the bundle of %s: %w", td, err)
	}
	if _, err := s.PutRecords(ctx, bucketTrust, store.RecordWrite{Key: bundlePrefix + string(td), Value: doc}); err != nil {
		return fmt.Errorf("keep the bundle of %s: %w", td, err)
	}
	return nil
}

// ErrAnotherRoot: the store belongs to a mesh whose zones trust another root than this authority's.
var ErrAnotherRoot = errors.New("the zones of this store trust another root")

// Claim makes the root that of the store, or returns ErrAnotherRoot: all replicas need the same one, and a zone that
// has joined accepts no other.
func (a *Authority) Claim(ctx context.Context, s store.Records) error {
	none := uint64(0)
	pin := a.Pin().String()
	_, err := s.PutRecords(ctx, bucketTrust, store.RecordWrite{Key: rootKey, Value: []byte(pin), IfVersion: &none})
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	rec, err := s.GetRecord(ctx, bucketTrust, rootKey)
	if err != nil {
		return err
	}
	if string(rec.Value) != pin {
		return fmt.Errorf("%w: %s; here is %s", ErrAnotherRoot, rec.Value, pin)
	}
	return nil
}
