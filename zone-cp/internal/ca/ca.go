package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Config is what a zone's authority needs. Everything but the last three fields is required.
type Config struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	// Dir is the authority's own folder; made with mode 0700 if missing.
	Dir string
	// Records keeps tokens' public halves and registered instances.
	Records store.Records
	// Endpoints are the host:port of the enrolment service as agents reach it; written into tokens.
	Endpoints []string
	Log       *slog.Logger

	// KEKFile seals the keys; "" means "kek" in Dir. Keep it elsewhere if Dir is backed up.
	KEKFile string
	// XDSAddress is told to agents; "" means the enrolment address.
	XDSAddress string
	// LeafTTL is the life of workloads' certificates; 0 means identity.LeafTTL.
	LeafTTL time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// CA is the authority of one zone; an identity.Source. Safe for concurrent use.
type CA struct {
	cfg     Config
	sealer  *identity.Sealer
	ledger  *ledger
	updates identity.Updates
	limits  *limits

	mu       sync.Mutex
	root     *identity.Authority
	issuer   *identity.Authority
	server   *tls.Certificate // the zone control plane's own
	sequence uint64           // of the bundle
}

var _ identity.Source = (*CA)(nil)

const (
	keyRoot   = "root"
	keyIssuer = "issuer"
)

// keyFile is the secret inside a sealed key file.
type keyFile struct {
	Key      string `json:"key"`   // PKCS #8 PEM
	Chain    string `json:"chain"` // PEM, this authority first
	Sequence uint64 `json:"sequence,omitempty"`
}

// Open reads the zone's authority from its folder, or makes root and issuer at the first start. The
// trust domain must be the one the authority was made for: it never changes.
func Open(cfg Config) (*CA, error) {
	if err := mesh.CheckZoneName(cfg.Zone); err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	if err := mesh.CheckTrustDomain(string(cfg.TrustDomain)); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.LeafTTL == 0 {
		cfg.LeafTTL = identity.LeafTTL
	}
	if cfg.KEKFile == "" {
		cfg.KEKFile = filepath.Join(cfg.Dir, "kek")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the authority's folder: %w", err)
	}
	c := &CA{cfg: cfg, limits: newLimits(cfg.Now)}
	if err := c.openKeys(); err != nil {
		return nil, fmt.Errorf("open the authority of zone %s: %w", cfg.Zone, err)
	}
	l, err := openLedger(filepath.Join(cfg.Dir, "issued.jsonl"), cfg.Now)
	if err != nil {
		return nil, err
	}
	c.ledger = l
	c.updates.Set(c.root.Bundle(c.sequence))
	return c, nil
}

// Close ends the ledger's file. Certificates already issued stay valid.
func (c *CA) Close() error { return c.ledger.close() }

func (c *CA) path(key string) string { return filepath.Join(c.cfg.Dir, key+".sealed") }

func (c *CA) label(key string) identity.SealLabel {
	return identity.SealLabel{Zone: c.cfg.Zone, KeyID: key, Version: 1}
}

func (c *CA) openKeys() error {
	// A new KEK beside old sealed keys would only hide that the old KEK is lost.
	_, kekErr := os.Stat(c.cfg.KEKFile)
	_, rootErr := os.Stat(c.path(keyRoot))
	_, issuerErr := os.Stat(c.path(keyIssuer))
	if errors.Is(kekErr, fs.ErrNotExist) && rootErr == nil {
		return fmt.Errorf("the sealing key %s is missing, but the authority it seals is there: put the file back", c.cfg.KEKFile)
	}
	if errors.Is(rootErr, fs.ErrNotExist) && issuerErr == nil {
		return fmt.Errorf("%s is missing beside its issuer: put the file back", c.path(keyRoot))
	}
	sealer, err := identity.OpenSealer(c.cfg.KEKFile)
	if err != nil {
		return err
	}
	c.sealer = sealer
	c.root, c.sequence, err = c.load(keyRoot)
	if errors.Is(err, fs.ErrNotExist) {
		err = c.createRoot()
	}
	if err != nil {
		return err
	}
	c.issuer, _, err = c.load(keyIssuer)
	if err == nil && !c.issuer.Root().Equal(c.root.Root()) {
		return errors.New("issuer and root do not belong together")
	}
	if err == nil && c.cfg.Now().Before(half(c.issuer.Certificate())) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errExpired) {
		return err
	}
	return c.createIssuer()
}

var errExpired = errors.New("it has expired")

func (c *CA) load(key string) (*identity.Authority, uint64, error) {
	data, err := c.sealer.ReadSealedFile(c.path(key), c.label(key))
	if err != nil {
		return nil, 0, err
	}
	var f keyFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, 0, fmt.Errorf("%s: it can't be read", c.path(key))
	}
	signer, err := identity.ParsePEMKey([]byte(f.Key))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", c.path(key), err)
	}
	chain, err := identity.ParsePEMCertificates([]byte(f.Chain))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", c.path(key), err)
	}
	now := c.cfg.Now()
	if now.After(chain[0].NotAfter) {
		return nil, 0, fmt.Errorf("%s: %w at %s", c.path(key), errExpired, chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
	a, err := identity.LoadAuthority(c.cfg.TrustDomain, signer, chain, now)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", c.path(key), err)
	}
	return a, f.Sequence, nil
}

func (c *CA) save(key string, a *identity.Authority, sequence uint64) error {
	pem, err := identity.PEMKey(a.Key())
	if err != nil {
		return err
	}
	doc, err := json.Marshal(keyFile{Key: string(pem), Chain: string(identity.PEMCertificates(a.Chain()...)), Sequence: sequence})
	if err != nil {
		return fmt.Errorf("encode the authority: %w", err)
	}
	return c.sealer.WriteSealedFile(c.path(key), c.label(key), doc)
}

func (c *CA) createRoot() error {
	root, err := identity.NewRoot(c.cfg.TrustDomain, c.cfg.Now())
	if err != nil {
		return err
	}
	if err := c.save(keyRoot, root, 1); err != nil {
		return err
	}
	c.root, c.sequence = root, 1
	c.cfg.Log.Info("made the zone's root authority", "trust_domain", c.cfg.TrustDomain, "pin", identity.KeyPin(root.Root()).String(),
		"expires", root.Root().NotAfter.UTC())
	return nil
}

func (c *CA) createIssuer() error {
	issuer, err := c.root.NewIntermediate(c.cfg.Now())
	if err != nil {
		return err
	}
	if err := c.save(keyIssuer, issuer, 0); err != nil {
		return err
	}
	c.issuer = issuer
	c.cfg.Log.Info("made the zone's issuing authority", "trust_domain", c.cfg.TrustDomain, "expires", issuer.Certificate().NotAfter.UTC())
	return nil
}

// current is the issuing authority, renewed at half its life: nobody has to know it in advance,
// because it travels in every chain. If it can't be renewed, the old one serves until its end.
func (c *CA) current() *identity.Authority {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.currentLocked()
}

func (c *CA) currentLocked() *identity.Authority {
	if !c.cfg.Now().Before(half(c.issuer.Certificate())) {
		if err := c.createIssuer(); err != nil {
			c.cfg.Log.Error("renew the issuing authority", "error", err, "expires", c.issuer.Certificate().NotAfter.UTC())
		}
	}
	return c.issuer
}

func half(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}

// Zone is the zone's name.
func (c *CA) Zone() string { return c.cfg.Zone }

// Pin is the pin of the zone's root, as tokens carry it.
func (c *CA) Pin() identity.Pin { return identity.KeyPin(c.root.Root()) }

// TrustDomain implements identity.Source.
func (c *CA) TrustDomain() mesh.TrustDomain { return c.cfg.TrustDomain }

// Bundle implements identity.Source.
func (c *CA) Bundle(ctx context.Context) (identity.Bundle, error) { return c.updates.Wait(ctx) }

// Updates implements identity.Source.
func (c *CA) Updates(ctx context.Context) <-chan identity.Bundle { return c.updates.Watch(ctx) }

// BundleFor implements identity.BundleSource: the zone's own trust domain and no other.
func (c *CA) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root.Bundle(c.sequence), td == c.cfg.TrustDomain
}

// Issue implements identity.Source. It does not write to the ledger: proxies get their certificates
// by the enrolment service.
func (c *CA) Issue(_ context.Context, pub *ecdsa.PublicKey, id identity.ID, ttl time.Duration) (identity.Issued, error) {
	return c.current().Sign(pub, id, ttl, c.cfg.Now())
}

// Lookup answers to which proxy the certificate with this serial (identity.SerialOf) was issued;
// false if it was never issued, has expired, or belongs to an instance that was replaced or removed.
func (c *CA) Lookup(serial string) (mesh.ProxyID, bool) {
	e, ok := c.ledger.lookup(serial)
	return e.Proxy, ok
}

// CertifiedUntil is when the last of a proxy's certificates ends that were not replaced or revoked; zero for none.
func (c *CA) CertifiedUntil(p mesh.ProxyID) time.Time { return c.ledger.until(p) }

// ServerCertificate is an identity.CertSource: the control plane's own <trust domain>/fed/zone-cp
// with the root at the end of the chain, for agents that know only the pin. It is renewed at half
// its life.
func (c *CA) ServerCertificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if c.server != nil && now.Before(half(c.server.Leaf)) {
		return c.server, nil
	}
	cert, err := c.newServerCertificate(now)
	if err != nil {
		if c.server != nil && now.Before(c.server.Leaf.NotAfter) {
			c.cfg.Log.Error("renew the control plane's certificate", "error", err)
			return c.server, nil
		}
		return nil, err
	}
	c.server = cert
	return cert, nil
}

func (c *CA) newServerCertificate(now time.Time) (*tls.Certificate, error) {
	id, err := identity.ParseID(c.cfg.TrustDomain.ZoneCPID())
	if err != nil {
		return nil, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	issuer := c.currentLocked()
	issued, err := issuer.Sign(key.Public(), id, identity.LeafTTL, now)
	if err != nil {
		return nil, err
	}
	return identity.TLSCertificate(issuer.WithRoot(issued), key), nil
}

// ServerTLS is the TLS 1.3 configuration for everything the control plane serves to its proxies.
// Clients must be of the zone's own trust domain. With optional, clients without certificate come in
// too (the enrolment service has to let them), and each RPC decides for itself.
func (c *CA) ServerTLS(optional bool) *tls.Config {
	return identity.ServerTLS(c.ServerCertificate, c, identity.AuthorizeTrustDomain(c.cfg.TrustDomain),
		identity.TLSOptions{Now: c.cfg.Now, ClientCertOptional: optional, NextProtos: []string{"h2"}})
}

// StatementSigner signs the zone's statements. The chain in them is without the root.
func (c *CA) StatementSigner() *identity.StatementSigner {
	return identity.NewStatementSigner(func() (*tls.Certificate, error) {
		cert, err := c.ServerCertificate()
		if err != nil {
			return nil, err
		}
		short := *cert
		short.Certificate = cert.Certificate[:len(cert.Certificate)-1]
		return &short, nil
	})
}

// Service is the enrolment service; attend serves Attend streams and take takes answers. A nil one refuses them.
func (c *CA) Service(attend AttendFunc, take AnswerFunc) enrolpb.EnrolmentServer {
	return &service{ca: c, attend: attend, take: take}
}
