package identity

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// ErrCannotIssue says that a Source gives a bundle but signs nothing: its certificates come to the
// nodes by another way.
var ErrCannotIssue = errors.New("this source of identities does not issue certificates")

// Source is where a zone's trust domain comes from: the built-in authority (zone-cp/internal/ca),
// SPIRE (identity/spire), or files. Safe for concurrent use.
type Source interface {
	TrustDomain() mesh.TrustDomain
	// Bundle is the newest bundle; it may wait for the first one until ctx ends.
	Bundle(ctx context.Context) (Bundle, error)
	// Updates delivers the bundle at the start and after every change, until ctx ends; then the
	// channel closes. A slow reader gets the newest one only.
	Updates(ctx context.Context) <-chan Bundle
	// Issue signs a leaf for the key, or returns ErrCannotIssue.
	Issue(ctx context.Context, pub *ecdsa.PublicKey, id ID, ttl time.Duration) (Issued, error)
}

// Updates hands the newest value of a bundle to any number of readers. The zero Updates is ready.
type Updates struct {
	mu      sync.Mutex
	bundle  Bundle
	set     bool
	changed chan struct{}
}

// Set publishes a bundle.
func (u *Updates) Set(b Bundle) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.set && u.bundle.Equal(b) {
		return
	}
	u.bundle, u.set = b, true
	if u.changed != nil {
		close(u.changed)
	}
	u.changed = make(chan struct{})
}

func (u *Updates) get() (Bundle, bool, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.changed == nil {
		u.changed = make(chan struct{})
	}
	return u.bundle, u.set, u.changed
}

// Wait returns the present bundle, or the first one when it comes.
func (u *Updates) Wait(ctx context.Context) (Bundle, error) {
	for {
		b, ok, changed := u.get()
		if ok {
			return b, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Bundle{}, fmt.Errorf("wait for a trust bundle: %w", ctx.Err())
		}
	}
}

// Watch implements Source.Updates.
func (u *Updates) Watch(ctx context.Context) <-chan Bundle {
	out := make(chan Bundle)
	go func() {
		defer close(out)
		b, ok, changed := u.get()
		for {
			var send chan<- Bundle
			if ok {
				send = out
			}
			select {
			case send <- b:
				ok = false
			case <-changed:
				b, ok, changed = u.get()
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// FileSource is a trust domain whose signing authority is given by the user as PEM files.
type FileSource struct {
	td      mesh.TrustDomain
	files   AuthorityFiles
	updates Updates
	now     func() time.Time

	mu   sync.Mutex
	auth *Authority
	seq  uint64
}

// AuthorityFiles are PEM files: Chain holds the signing certificate first and the root last, Key its
// PKCS #8 key (0600).
type AuthorityFiles struct {
	Chain string
	Key   string
}

var _ Source = (*FileSource)(nil)

// NewFileSource reads and checks the files. now is the clock, nil for time.Now.
func NewFileSource(td mesh.TrustDomain, files AuthorityFiles, now func() time.Time) (*FileSource, error) {
	if now == nil {
		now = time.Now
	}
	f := &FileSource{td: td, files: files, now: now}
	return f, f.Reload()
}

// Reload reads the files again; on an error the last good authority stays.
func (f *FileSource) Reload() error {
	chainPEM, err := os.ReadFile(f.files.Chain)
	if err != nil {
		return fmt.Errorf("read the authority's chain: %w", err)
	}
	chain, err := ParsePEMCertificates(chainPEM)
	if err != nil {
		return fmt.Errorf("%s: %w", f.files.Chain, err)
	}
	keyPEM, err := readPrivate(f.files.Key, maxSealedBytes)
	if err != nil {
		return err
	}
	key, err := ParsePEMKey(keyPEM)
	if err != nil {
		return fmt.Errorf("%s: %w", f.files.Key, err)
	}
	auth, err := LoadAuthority(f.td, key, chain, f.now())
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.auth == nil || !f.auth.Root().Equal(auth.Root()) {
		// A sequence from the clock keeps ascending over restarts without a file of its own.
		f.seq = max(f.seq+1, uint64(f.now().Unix()))
	}
	f.auth = auth
	f.updates.Set(auth.Bundle(f.seq))
	return nil
}

// TrustDomain implements Source.
func (f *FileSource) TrustDomain() mesh.TrustDomain { return f.td }

// Bundle implements Source.
func (f *FileSource) Bundle(ctx context.Context) (Bundle, error) { return f.updates.Wait(ctx) }

// Updates implements Source.
func (f *FileSource) Updates(ctx context.Context) <-chan Bundle { return f.updates.Watch(ctx) }

// Issue implements Source.
func (f *FileSource) Issue(_ context.Context, pub *ecdsa.PublicKey, id ID, ttl time.Duration) (Issued, error) {
	f.mu.Lock()
	auth := f.auth
	f.mu.Unlock()
	return auth.Sign(pub, id, ttl, f.now())
}
