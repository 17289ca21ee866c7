package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// KindBundle is the statement kind that carries a zone's bundle as JWKS; its subject is the trust
// domain.
const KindBundle = "bundle"

const maxRetired = 16

// Why a bundle statement is refused, each beside ErrStatement or ErrBundle where those apply.
var (
	ErrRollback        = errors.New("bundle is older than the one in force")
	ErrBundleConflict  = errors.New("same sequence with other content")
	ErrSharedAuthority = errors.New("authority belongs to another trust domain")
	ErrLookalike       = errors.New("trust domain can be mistaken for another")
	ErrOwner           = errors.New("trust domain belongs to another zone")
	ErrContinuity      = errors.New("bundle is not signed under the one in force")
)

// BundleBook keeps the last good bundle of every trust domain and decides which statements may
// replace it. First contact is taken on trust from whoever relays it (global, on the strength of the
// join); from then on each bundle must be signed under its predecessor, so nobody can swap a zone's
// roots silently, global included. A refused statement changes nothing. It is a BundleSource; safe
// for concurrent use.
type BundleBook struct {
	mu      sync.RWMutex
	entries map[mesh.TrustDomain]*bookEntry
}

type bookEntry struct {
	zone    string
	own     bool // put by Pin, never changed by a statement
	bundle  Bundle
	stmt    Statement
	hash    [sha256.Size]byte
	retired []mesh.Incarnation // earlier incarnations, never again
	removed bool               // tombstone: nothing of it is trusted, the name stays taken
}

// NewBundleBook makes an empty book.
func NewBundleBook() *BundleBook {
	return &BundleBook{entries: map[mesh.TrustDomain]*bookEntry{}}
}

// Pin puts a bundle that does not come by statement: the zone's own, or global's. No statement can
// change it; its trust domain and authorities are taken.
func (b *BundleBook) Pin(zone string, bundle Bundle, now time.Time) error {
	if err := bundle.Check(now); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.entries[bundle.TrustDomain]; old != nil && !old.own {
		return fmt.Errorf("%w: %s is held by statement of zone %s", ErrOwner, bundle.TrustDomain, old.zone)
	}
	if err := b.checkOthers(bundle); err != nil {
		return err
	}
	b.entries[bundle.TrustDomain] = &bookEntry{zone: zone, own: true, bundle: bundle}
	return nil
}

// Accept verifies a bundle statement and puts it in force. changed is false when it is known already
// (its lease may be newer, which is kept). A statement whose lease has ended is accepted at first
// contact never, later never either: ErrLeaseEnded.
func (b *BundleBook) Accept(s Statement, now time.Time) (changed bool, err error) {
	if s.Kind != KindBundle || s.Subject != string(s.TrustDomain) {
		return false, fmt.Errorf("%w: kind %q, subject %q: not the bundle of %s", ErrStatement, s.Kind, s.Subject, s.TrustDomain)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.entries[s.TrustDomain]
	next := &bookEntry{zone: s.Zone, stmt: s, hash: sha256.Sum256(s.Payload), removed: s.Withdrawn}
	next.bundle = Bundle{TrustDomain: s.TrustDomain, RefreshHint: defaultRefreshHint}
	if !s.Withdrawn {
		if next.bundle, err = ParseBundle(s.TrustDomain, s.Payload, now); err != nil {
			return false, err
		}
	}
	if old == nil {
		if s.Withdrawn {
			return false, fmt.Errorf("%w: it withdraws a bundle that is not known", ErrStatement)
		}
		if err := VerifyStatement(s, next.bundle, now); err != nil {
			return false, err
		}
	} else if known, err := b.succeeds(old, next, now); known || err != nil {
		return false, err
	}
	if err := b.checkOthers(next.bundle); err != nil {
		return false, err
	}
	if err := b.checkZone(s.Zone, s.TrustDomain); err != nil {
		return false, err
	}
	if next.removed {
		next.stmt = next.stmt.tombstone()
	}
	b.entries[s.TrustDomain] = next
	return true, nil
}

// tombstone is what is kept of the last statement of a trust domain that was removed: whose it was, and in which order
// it came. Nobody reads the rest again, and its signer had the say over how large it is.
func (s Statement) tombstone() Statement {
	s.Payload, s.Chain, s.Signature = nil, nil, nil
	return s
}

// succeeds decides whether next may follow old; known means that it is the same again.
func (b *BundleBook) succeeds(old, next *bookEntry, now time.Time) (known bool, err error) {
	s := next.stmt
	if old.own || old.zone != s.Zone {
		return false, fmt.Errorf("%w: %s is of zone %s, not of %s", ErrOwner, s.TrustDomain, old.zone, s.Zone)
	}
	if slices.Contains(old.retired, s.Incarnation) {
		return false, fmt.Errorf("%w: incarnation %s has ended", ErrRollback, s.Incarnation)
	}
	sameLife := s.Incarnation == old.stmt.Incarnation
	switch {
	case old.removed && sameLife:
		return false, fmt.Errorf("%w: %s was removed", ErrRollback, s.TrustDomain)
	case old.removed:
		return false, fmt.Errorf("%w: %s was removed; its name has to be released first", ErrOwner, s.TrustDomain)
	case sameLife && s.Sequence < old.stmt.Sequence:
		return false, fmt.Errorf("%w: sequence %d after %d", ErrRollback, s.Sequence, old.stmt.Sequence)
	case sameLife && s.Sequence == old.stmt.Sequence && (next.hash != old.hash || s.Withdrawn != old.stmt.Withdrawn):
		return false, fmt.Errorf("%w: sequence %d of %s", ErrBundleConflict, s.Sequence, s.TrustDomain)
	case sameLife && !s.Withdrawn && next.bundle.Sequence < old.bundle.Sequence:
		return false, fmt.Errorf("%w: bundle sequence %d after %d", ErrRollback, next.bundle.Sequence, old.bundle.Sequence)
	case !sameLife && !s.Issued.After(old.stmt.Issued):
		return false, fmt.Errorf("%w: incarnation %s issued it before the present one", ErrRollback, s.Incarnation)
	}
	if err := VerifyStatement(s, old.bundle, now); err != nil {
		if errors.Is(err, ErrLeaseEnded) {
			return false, err
		}
		return false, fmt.Errorf("%w: %w", ErrContinuity, err)
	}
	next.retired = old.retired
	if !sameLife {
		next.retired = append(slices.Clone(old.retired), old.stmt.Incarnation)
		if len(next.retired) > maxRetired {
			return false, fmt.Errorf("%w: %s has had more than %d incarnations", ErrRollback, s.TrustDomain, maxRetired)
		}
		return false, nil
	}
	if next.hash == old.hash && !s.Withdrawn {
		// The same content again, its lease or sequence renewed.
		if s.LeaseUntil.After(old.stmt.LeaseUntil) || s.Sequence > old.stmt.Sequence {
			b.entries[s.TrustDomain] = next
		}
		return true, nil
	}
	return false, nil
}

// checkOthers refuses a bundle whose name or authorities clash with another trust domain's.
func (b *BundleBook) checkOthers(bundle Bundle) error {
	for td, e := range b.entries {
		if td == bundle.TrustDomain {
			continue
		}
		if err := CheckDistinct(bundle.TrustDomain, td); err != nil {
			return err
		}
		for _, mine := range bundle.Authorities {
			for _, theirs := range e.bundle.Authorities {
				if KeyPin(mine) == KeyPin(theirs) {
					return fmt.Errorf("%w: %s and %s have the key %s in common", ErrSharedAuthority, bundle.TrustDomain, td, KeyPin(mine))
				}
			}
		}
	}
	return nil
}

func (b *BundleBook) checkZone(zone string, td mesh.TrustDomain) error {
	for other, e := range b.entries {
		if other != td && e.zone == zone && !e.removed {
			return fmt.Errorf("%w: zone %s speaks for %s already, not for %s", ErrOwner, zone, other, td)
		}
	}
	return nil
}

// CheckDistinct reports why two different trust domains must not exist in one mesh: one is a parent
// of the other (TLS stacks differ on whether a name constraint covers subdomains), or people can take
// one for the other. Internationalised names are refused outright.
func CheckDistinct(a, b mesh.TrustDomain) error {
	for _, td := range []mesh.TrustDomain{a, b} {
		if strings.HasPrefix(string(td), "xn--") || strings.Contains(string(td), ".xn--") {
			return fmt.Errorf("%w: %s is an internationalised name", ErrLookalike, td)
		}
	}
	if a == b {
		return nil
	}
	if strings.HasSuffix(string(a), "."+string(b)) || strings.HasSuffix(string(b), "."+string(a)) {
		return fmt.Errorf("%w: one of %s and %s is a part of the other", ErrLookalike, a, b)
	}
	if skeleton(a) == skeleton(b) {
		return fmt.Errorf("%w: %s and %s look alike", ErrLookalike, a, b)
	}
	return nil
}

// skeleton maps names that look alike to the same string.
func skeleton(td mesh.TrustDomain) string {
	return strings.NewReplacer("0", "o", "1", "l", "rn", "m", "vv", "w", "-", ".").Replace(string(td))
}

// BundleFor implements BundleSource. A removed trust domain has none.
func (b *BundleBook) BundleFor(td mesh.TrustDomain) (Bundle, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	e := b.entries[td]
	if e == nil || e.removed {
		return Bundle{}, false
	}
	return e.bundle, true
}

// ZoneTrust is what a book holds of one trust domain.
type ZoneTrust struct {
	Zone   string
	Bundle Bundle
	// LeaseUntil is when trust ends if nobody renews it; zero for a pinned bundle.
	LeaseUntil time.Time
	// Statement is the newest one; zero for a pinned bundle.
	Statement Statement
}

// List is everything trusted, ordered by trust domain, leases that have ended included.
func (b *BundleBook) List() []ZoneTrust {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []ZoneTrust
	for _, td := range slices.Sorted(maps.Keys(b.entries)) {
		if e := b.entries[td]; !e.removed {
			out = append(out, ZoneTrust{Zone: e.zone, Bundle: e.bundle, LeaseUntil: e.stmt.LeaseUntil, Statement: e.stmt})
		}
	}
	return out
}

// Known lists every trust domain that came by statement, those that were removed included.
func (b *BundleBook) Known() []mesh.TrustDomain {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []mesh.TrustDomain
	for _, td := range slices.Sorted(maps.Keys(b.entries)) {
		if !b.entries[td].own {
			out = append(out, td)
		}
	}
	return out
}

// Zone answers what a zone's trust domain is.
func (b *BundleBook) Zone(zone string) (ZoneTrust, bool) {
	for _, z := range b.List() {
		if z.Zone == zone {
			return z, true
		}
	}
	return ZoneTrust{}, false
}

// Remove ends the trust in a trust domain. Its name stays taken, so that nobody inherits it, until
// Release.
func (b *BundleBook) Remove(td mesh.TrustDomain) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[td]; e != nil && !e.own {
		gone := *e
		gone.removed = true
		gone.stmt = gone.stmt.tombstone()
		gone.bundle = Bundle{TrustDomain: td, RefreshHint: defaultRefreshHint}
		b.entries[td] = &gone
	}
}

// Release forgets a removed trust domain, so that the next statement about it is first contact
// again. It is an operator's decision.
func (b *BundleBook) Release(td mesh.TrustDomain) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[td]; e != nil && e.removed {
		delete(b.entries, td)
	}
}

// bookRecord is the JSON form of one entry that came by statement.
type bookRecord struct {
	TrustDomain mesh.TrustDomain   `json:"trustDomain"`
	Zone        string             `json:"zone"`
	Statement   Statement          `json:"statement"`
	Retired     []mesh.Incarnation `json:"retired,omitempty"`
	Removed     bool               `json:"removed,omitempty"`
}

// MarshalJSON exports what came by statement, ordered by trust domain; pinned bundles are not in it.
func (b *BundleBook) MarshalJSON() ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	records := []bookRecord{}
	for _, td := range slices.Sorted(maps.Keys(b.entries)) {
		if e := b.entries[td]; !e.own {
			records = append(records, e.record(td))
		}
	}
	return json.Marshal(records)
}

func (e *bookEntry) record(td mesh.TrustDomain) bookRecord {
	return bookRecord{td, e.zone, e.stmt, e.retired, e.removed}
}

// Export is what MarshalJSON would export if the book held this trust domain alone.
func (b *BundleBook) Export(td mesh.TrustDomain) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	records := []bookRecord{}
	if e := b.entries[td]; e != nil && !e.own {
		records = append(records, e.record(td))
	}
	return json.Marshal(records)
}

// UnmarshalJSON adds what MarshalJSON exported to the book, in place of what it has of the same
// trust domains. Statements were verified when they were accepted and are not verified again: keep
// the document as safe as the roots themselves. On an error nothing is added.
func (b *BundleBook) UnmarshalJSON(data []byte) error {
	return b.add(data, func(_, _ *bookEntry) bool { return true })
}

// Merge is UnmarshalJSON for a document of another replica's book: of two entries of a trust domain the newer one
// stays. Within one incarnation a removal is newer than any statement.
func (b *BundleBook) Merge(data []byte) error {
	return b.add(data, func(have, got *bookEntry) bool {
		if have.stmt.Incarnation != got.stmt.Incarnation {
			return slices.Contains(got.retired, have.stmt.Incarnation) || got.stmt.Issued.After(have.stmt.Issued)
		}
		return !have.removed && (got.removed || got.stmt.Sequence > have.stmt.Sequence)
	})
}

// add reads entries, and asks whether one takes the place of what the book has.
func (b *BundleBook) add(data []byte, replaces func(have, got *bookEntry) bool) error {
	var records []bookRecord
	if err := json.Unmarshal(data, &records); err != nil {
		return fmt.Errorf("read a bundle book: %w", err)
	}
	add := map[mesh.TrustDomain]*bookEntry{}
	for _, r := range records {
		e := &bookEntry{zone: r.Zone, stmt: r.Statement, hash: sha256.Sum256(r.Statement.Payload), retired: r.Retired, removed: r.Removed}
		e.bundle = Bundle{TrustDomain: r.TrustDomain, RefreshHint: defaultRefreshHint}
		if !r.Removed {
			// Read as of its issue: a root that has expired since is judged at each use.
			bundle, err := ParseBundle(r.TrustDomain, r.Statement.Payload, r.Statement.Issued)
			if err != nil {
				return fmt.Errorf("read a bundle book: %s: %w", r.TrustDomain, err)
			}
			e.bundle = bundle
		} else {
			e.stmt = e.stmt.tombstone()
		}
		add[r.TrustDomain] = e
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries == nil {
		b.entries = map[mesh.TrustDomain]*bookEntry{}
	}
	for td, got := range add {
		switch have := b.entries[td]; {
		case have != nil && have.own:
			return fmt.Errorf("read a bundle book: %w: %s is pinned", ErrOwner, td)
		case have != nil && !replaces(have, got):
			delete(add, td)
		}
	}
	maps.Copy(b.entries, add)
	return nil
}

// ContentHash is the SHA-256 of a bundle's JWKS in hex, for statuses.
func (b Bundle) ContentHash() string {
	doc, err := b.Marshal()
	if err != nil {
		return ""
	}
	return hex.EncodeToString(digest(doc))
}
