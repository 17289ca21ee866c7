package proxyless

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// Files of the folder.
const (
	dirIdentity     = "identity" // a link to identity.1 or identity.2, so that certificate and key change at once
	fileChain       = "cert.pem"
	fileKey         = "key.pem"
	dirRoots        = "roots" // trust-<number>.pem, of one trust domain each
	fileBootstrap   = "grpc.json"
	fileEnvironment = "grpc.env"
)

// Names by which the zone's configuration means files of the bootstrap (xds/envoy, xds/translate). A client reads the
// bootstrap once, and zones may join later: so there are places for the roots of as many trust domains as there may be,
// and the zone says which has which. They are not all in one SPIFFE bundle map, because gRPC takes a name for the
// server's whatever kind of name it is: an authority of one trust domain could make itself out to be another.
const (
	providerIdentity = "identity"
	trustSlots       = 256
)

// trustSlot is the name of a place for roots.
var trustSlot = regexp.MustCompile(`^trust-[0-9]{3}$`)

// How often a gRPC client looks whether the files have changed. Certificates are renewed at half of their life; a zone
// that joins is waited for.
const (
	refreshIdentity = "60s"
	refreshRoots    = "2s"
)

// Config is one workload.
type Config struct {
	Dir    string // absolute, mode 0700
	Socket string // where Relay will listen, absolute
	Proxy  mesh.ProxyID
	// Region and Place say where the client is, as endpoints do.
	Region, Place string
	// Changed is called when Ready may say something else; it must not block.
	Changed func()
	Log     *slog.Logger
}

// Client keeps the files of one workload. It is safe for concurrent use.
type Client struct {
	conf Config

	mu       sync.Mutex
	identity bool // is written
	zone     string
	roots    map[string]string // by slot: PEM, as written
	ready    bool              // the bootstrap is written
}

// New makes a client whose folder exists.
func New(c Config) *Client { return &Client{conf: c} }

// Ready says that a gRPC client that starts now finds all that it needs.
func (c *Client) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// Environment is the file with the environment variables that the application needs, one a line, as systemd reads it.
func (c *Client) Environment() string { return c.path(fileEnvironment) }

func (c *Client) path(parts ...string) string {
	return filepath.Join(append([]string{c.conf.Dir}, parts...)...)
}

// SetRoots is told the roots of the zone, which come with those of all other trust domains too.
func (c *Client) SetRoots(identity.Bundle) error { return nil }

// SetIdentity replaces the certificate (leaf first) and its key.
func (c *Client) SetIdentity(chain []*x509.Certificate, key *ecdsa.PrivateKey) error {
	if len(chain) == 0 || !key.PublicKey.Equal(chain[0].PublicKey) {
		return errors.New("write an identity: the key does not belong to the certificate")
	}
	keyPEM, err := identity.PEMKey(key)
	if err != nil {
		return fmt.Errorf("write an identity: %w", err)
	}
	return c.change(func() error { return c.writeIdentity(chain, keyPEM) })
}

func (c *Client) writeIdentity(chain []*x509.Certificate, keyPEM []byte) error {
	// A client that found one of the two files older than the other would write the key into its log.
	next := dirIdentity + ".1"
	if now, err := os.Readlink(c.path(dirIdentity)); err == nil && now == next {
		next = dirIdentity + ".2"
	}
	if err := os.MkdirAll(c.path(next), 0o700); err != nil {
		return fmt.Errorf("write an identity: %w", err)
	}
	if err := errors.Join(
		identity.WriteFileAtomic(c.path(next, fileKey), keyPEM),
		identity.WriteFileAtomic(c.path(next, fileChain), identity.PEMCertificates(chain...)),
		c.link(next),
	); err != nil {
		return fmt.Errorf("write an identity: %w", err)
	}
	c.identity = true
	return nil
}

// change does something to the files, and then what follows for the bootstrap.
func (c *Client) change(do func() error) error {
	c.mu.Lock()
	before := c.ready
	err := do()
	if err == nil {
		err = c.writeBootstrap()
	}
	news := c.ready != before
	c.mu.Unlock()
	if news {
		c.conf.Changed()
	}
	return err
}

// link makes the identity's name mean another folder, in one step.
func (c *Client) link(to string) error {
	fresh := c.path("." + dirIdentity)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, c.path(dirIdentity))
}

// setTrust replaces the roots of all trust domains: PEM by slot.
func (c *Client) setTrust(zone string, roots map[string]string) error {
	return c.change(func() error { return c.writeTrust(zone, roots) })
}

func (c *Client) writeTrust(zone string, roots map[string]string) error {
	if err := os.MkdirAll(c.path(dirRoots), 0o700); err != nil {
		return fmt.Errorf("write roots: %w", err)
	}
	for slot, pem := range roots {
		if c.roots[slot] == pem {
			continue
		}
		if err := identity.WriteFileAtomic(c.rootsOf(slot), []byte(pem)); err != nil {
			return fmt.Errorf("write roots: %w", err)
		}
	}
	for slot := range c.roots {
		if _, still := roots[slot]; !still {
			// A client that runs keeps what it has read, and is told of no cluster that needs it.
			if err := os.Remove(c.rootsOf(slot)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove roots: %w", err)
			}
		}
	}
	c.zone, c.roots = zone, maps.Clone(roots)
	return nil
}

func (c *Client) rootsOf(slot string) string { return c.path(dirRoots, slot+".pem") }

type object = map[string]any

// writeBootstrap writes what a client reads when it starts, once there is all that it needs. The caller holds c.mu.
func (c *Client) writeBootstrap() error {
	if c.ready || !c.identity || len(c.roots) == 0 {
		return nil
	}
	providers := object{providerIdentity: watched(refreshIdentity, object{
		"certificate_file": c.path(dirIdentity, fileChain), "private_key_file": c.path(dirIdentity, fileKey),
	})}
	for n := range trustSlots {
		slot := fmt.Sprintf("trust-%03d", n)
		providers[slot] = watched(refreshRoots, object{"ca_certificate_file": c.rootsOf(slot)})
	}
	raw, err := json.MarshalIndent(object{
		"xds_servers": []any{object{
			"server_uri": "unix://" + c.conf.Socket, "channel_creds": []any{object{"type": "insecure"}}, "server_features": []any{"xds_v3"},
		}},
		"node": object{
			"id": c.conf.Proxy.String(), "cluster": c.zone, "locality": object{"region": c.conf.Region, "zone": c.conf.Place},
		},
		"certificate_providers": providers,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("gRPC bootstrap: %w", err)
	}
	env := strings.Join([]string{
		"GRPC_XDS_BOOTSTRAP=" + c.path(fileBootstrap),
		// Servers choose by the server name, which gRPC sends only if it is told to (gRFC A101).
		"GRPC_EXPERIMENTAL_XDS_SNI=true", "",
	}, "\n")
	if err := errors.Join(identity.WriteFileAtomic(c.path(fileBootstrap), raw), identity.WriteFileAtomic(c.Environment(), []byte(env))); err != nil {
		return fmt.Errorf("gRPC bootstrap: %w", err)
	}
	c.ready = true
	c.conf.Log.Info("applications can be started", "environment", c.Environment())
	return nil
}

func watched(every string, files object) object {
	files["refresh_interval"] = every
	return object{"plugin_name": "file_watcher", "config": files}
}

// Clean removes what the client made of its folder.
func (c *Client) Clean() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, name := range []string{dirIdentity, dirIdentity + ".1", dirIdentity + ".2", dirRoots, fileBootstrap, fileEnvironment} {
		errs = append(errs, os.RemoveAll(c.path(name)))
	}
	c.ready = false
	return errors.Join(errs...)
}
