// Package imports is what a zone believes of the others: the statements that they signed, relayed by global or told by
// their own ingresses, and for how long it does so without word from global. It checks who speaks, for which namespaces, in which order and until when, keeps what
// passed on disk so that a restart without global knows the other zones, and resolves the names of
// their ingresses.
package imports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery/vm"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// Limits of what one other zone may state.
const (
	maxSubjects   = 10_000
	maxPending    = 1_000
	maxWaiting    = 16 << 20 // bytes of all that is pending, whoever stated it
	maxPorts      = 256
	maxIdentities = 1_000
	maxIngresses  = 64 // and as many egresses
)

// bookBucket keeps the trust in other zones, one record for each trust domain: what one zone states never keeps
// another's from being written. Before there was one record of all, which is still read.
const (
	bookBucket   = "trust"
	bundlePrefix = "bundle/"
	oldBookKey   = "book"
)

// Why a statement is not taken.
var (
	// ErrUnverified: it is kept aside until the bundle that it needs arrives.
	ErrUnverified = errors.New("its zone's bundle is not known yet")
	// ErrTooMuchWaits: its bundle is not known, and it is not kept aside either.
	ErrTooMuchWaits = errors.New("its zone's bundle is not known yet, and too much waits for bundles already")
	// ErrUnvouched: a zone said something of itself that only global can say: which trust domain it has, in which
	// incarnation, and when that ends.
	ErrUnvouched = fmt.Errorf("%w: global has not said so of the zone", identity.ErrStatement)
)

// Book holds the other zones' statements. Safe for concurrent use.
type Book struct {
	zone    string
	records store.Records
	trust   *identity.BundleBook
	changed chan struct{} // capacity 1

	mu      sync.Mutex
	zones   map[string]*zone
	heard   map[string]Heard
	revoked map[mesh.TrustDomain]revoked
	lives   map[string]life // by zone
	lanes   map[mesh.TrustDomain]*lanes
	waiting int                           // bytes of what is pending
	unkept  map[mesh.TrustDomain]struct{} // trust domains that are not yet on disk as they are
}

// Heard is when news of a zone arrived, and by which way.
type Heard struct {
	At time.Time
	By Way
}

// Way is how a statement came here. What is signed within the life of a zone that the book knows is believed either way;
// who a zone is, only global says.
type Way string

// The ways of a statement.
const (
	ByGlobal Way = "global"
	ByPeer   Way = "peer" // from the zone's own ingress
)

type zone struct {
	held    map[string]held               // by fedstore.StatementKey
	pending map[string]identity.Statement // likewise
}

// held is a verified statement with its payload read.
type held struct {
	statement identity.Statement
	export    *mesh.Export
	ingress   *mesh.IngressSet
}

// Open reads what was believed before. own is the zone's own bundle, whose trust domain and
// authorities nobody else may claim.
func Open(ctx context.Context, records store.Records, zoneName string, own identity.Bundle, now time.Time) (*Book, error) {
	b := &Book{
		zone: zoneName, records: records, trust: identity.NewBundleBook(),
		changed: make(chan struct{}, 1), zones: map[string]*zone{}, heard: map[string]Heard{},
		revoked: map[mesh.TrustDomain]revoked{}, lives: map[string]life{}, lanes: map[mesh.TrustDomain]*lanes{}, unkept: map[mesh.TrustDomain]struct{}{},
	}
	if err := b.trust.Pin(zoneName, own, now); err != nil {
		return nil, fmt.Errorf("the zone's own bundle: %w", err)
	}
	if err := b.readTrust(ctx); err != nil {
		return nil, err
	}
	if err := b.readRevoked(ctx); err != nil {
		return nil, err
	}
	if err := b.readLives(ctx); err != nil {
		return nil, err
	}
	if err := b.readLanes(ctx, now); err != nil {
		return nil, err
	}
	for td := range b.revoked {
		b.trust.Remove(td)
	}
	for _, z := range b.trust.List() {
		if z.Zone == zoneName {
			continue
		}
		list, _, err := records.ListRecords(ctx, fedstore.StatementBucket(z.Zone), "")
		if err != nil {
			return nil, fmt.Errorf("read statements of %s: %w", z.Zone, err)
		}
		for _, r := range list {
			s, err := statements.Decode(r.Value)
			if err != nil {
				return nil, fmt.Errorf("read statement %s of %s: %w", r.Key, z.Zone, err)
			}
			// Verified again: the disk is no more trusted than the wire. One whose lease has ended while
			// the zone was down is kept for its sequence, and not used.
			if h, err := b.verify(s, now); err == nil || errors.Is(err, identity.ErrLeaseEnded) {
				b.of(z.Zone).held[r.Key] = h
			}
		}
	}
	return b, nil
}

// Changed signals (coalesced, capacity 1) when what is believed became something else.
func (b *Book) Changed() <-chan struct{} { return b.changed }

// SetOwn replaces the zone's own bundle after a rotation.
func (b *Book) SetOwn(own identity.Bundle, now time.Time) error { return b.trust.Pin(b.zone, own, now) }

func (b *Book) of(name string) *zone {
	z := b.zones[name]
	if z == nil {
		z = &zone{held: map[string]held{}, pending: map[string]identity.Statement{}}
		b.zones[name] = z
	}
	return z
}

// Receive takes a statement, whichever way it came. An error is why it is refused; it changes nothing then. One that
// is known already, or older than what is known, is no error and costs nothing. ErrUnverified asks for nothing: the
// statement is looked at again when its zone's bundle has come. That is for what global relays; a peer's word is
// ErrUnvouched until global has said who the peer is.
func (b *Book) Receive(ctx context.Context, s identity.Statement, by Way, now time.Time) error {
	if s.Zone == b.zone {
		return fmt.Errorf("%w: zone %s speaks for itself", identity.ErrStatement, b.zone)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, gone := b.revoked[s.TrustDomain]; gone {
		return ErrRevoked
	}
	if by == ByPeer {
		if trust, ok := b.trust.Zone(s.Zone); !ok || trust.Statement.TrustDomain != s.TrustDomain || trust.Statement.Incarnation != s.Incarnation || s.Kind == identity.KindBundle && s.Withdrawn {
			return ErrUnvouched
		}
	}
	take := b.take
	if s.Kind == identity.KindBundle {
		take = b.takeBundle
	}
	changed, err := take(ctx, s, now)
	if changed {
		b.heard[s.Zone] = Heard{now, by}
		b.signal()
	}
	return err
}

// Heard says when the newest news of a zone arrived since the start; zero for none.
func (b *Book) Heard(zone string) Heard {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.heard[zone]
}

// takeBundle is take for bundles. The caller holds b.mu.
func (b *Book) takeBundle(ctx context.Context, s identity.Statement, now time.Time) (changed bool, err error) {
	before, _ := b.trust.Zone(s.Zone)
	if _, err := b.trust.Accept(s, now); err != nil {
		return false, err
	}
	// The same content again may bring a newer lease.
	after, _ := b.trust.Zone(s.Zone)
	_, unkept := b.unkept[s.TrustDomain]
	if after.Statement.Incarnation == before.Statement.Incarnation && after.Statement.Sequence == before.Statement.Sequence && !unkept {
		return false, nil
	}
	b.unkept[s.TrustDomain] = struct{}{}
	if err := b.keepTrust(ctx, s.TrustDomain); err != nil {
		return false, err
	}
	for _, p := range b.of(s.Zone).takePending(&b.waiting) {
		// Its sender was told already that it is kept; a bad one is dropped now.
		if _, err := b.take(ctx, p, now); err != nil && !errors.Is(err, ErrUnverified) {
			continue
		}
	}
	return true, nil
}

// take verifies a statement and puts it in force. The caller holds b.mu.
func (b *Book) take(ctx context.Context, s identity.Statement, now time.Time) (changed bool, err error) {
	z := b.of(s.Zone)
	key := fedstore.StatementKey(s.Kind, s.Subject)
	old, ok := z.held[key]
	if ok && old.statement.Incarnation == s.Incarnation && s.Sequence <= old.statement.Sequence {
		return false, nil // before anything is verified: what comes by two ways is paid for once
	}
	h, err := b.verify(s, now)
	if errors.Is(err, ErrUnverified) {
		return false, b.wait(z, key, s)
	}
	if err != nil {
		return false, err
	}
	if !ok && len(z.held) >= maxSubjects {
		return false, fmt.Errorf("%w: zone %s states more than %d subjects", identity.ErrStatement, s.Zone, maxSubjects)
	}
	value, err := statements.Encode(s)
	if err != nil {
		return false, fmt.Errorf("keep statement: %w", err)
	}
	if _, err := b.records.PutRecords(ctx, fedstore.StatementBucket(s.Zone), store.RecordWrite{Key: key, Value: value}); err != nil {
		return false, fmt.Errorf("keep statement: %w", err)
	}
	z.held[key] = h
	return true, nil
}

// wait keeps a statement aside until its zone's bundle comes: the newest of each subject. It returns ErrUnverified, or
// ErrTooMuchWaits. The caller holds b.mu.
func (b *Book) wait(z *zone, key string, s identity.Statement) error {
	old, again := z.pending[key]
	if again && old.Incarnation == s.Incarnation && s.Sequence <= old.Sequence {
		return ErrUnverified
	}
	waiting := b.waiting + weight(s) - weight(old)
	if !again && len(z.pending) >= maxPending || waiting > maxWaiting {
		return ErrTooMuchWaits
	}
	z.pending[key], b.waiting = s, waiting
	return ErrUnverified
}

// takePending empties what waits for the zone's bundle, ordered by subject.
func (z *zone) takePending(waiting *int) []identity.Statement {
	var out []identity.Statement
	for _, key := range slices.Sorted(maps.Keys(z.pending)) {
		out = append(out, z.pending[key])
		*waiting -= weight(z.pending[key])
	}
	clear(z.pending)
	return out
}

// weight is about how many bytes a statement holds.
func weight(s identity.Statement) int {
	n := len(s.Subject) + len(s.Payload) + len(s.Signature)
	for _, der := range s.Chain {
		n += len(der)
	}
	return n
}

// verify checks everything about a statement but its place in the sequence. With ErrLeaseEnded the
// result is good in all else.
func (b *Book) verify(s identity.Statement, now time.Time) (held, error) {
	trust, ok := b.trust.Zone(s.Zone)
	if !ok || trust.Statement.Incarnation != s.Incarnation {
		return held{}, ErrUnverified
	}
	lease := identity.VerifyStatement(s, trust.Bundle, now)
	if lease != nil && !errors.Is(lease, identity.ErrLeaseEnded) {
		return held{}, lease
	}
	h := held{statement: s}
	if s.Withdrawn {
		return h, lease
	}
	switch s.Kind {
	case federation.StatementExport:
		h.export = new(mesh.Export)
		if err := json.Unmarshal(s.Payload, h.export); err != nil {
			return held{}, fmt.Errorf("%w: %w", identity.ErrStatement, err)
		}
		if err := checkExport(h.export, s); err != nil {
			return held{}, fmt.Errorf("%w: %w", identity.ErrStatement, err)
		}
	case federation.StatementIngress:
		h.ingress = new(mesh.IngressSet)
		if err := json.Unmarshal(s.Payload, h.ingress); err != nil {
			return held{}, fmt.Errorf("%w: %w", identity.ErrStatement, err)
		}
		if n := len(h.ingress.Ingresses); n > maxIngresses {
			return held{}, fmt.Errorf("%w: %d ingresses, more than %d", identity.ErrStatement, n, maxIngresses)
		}
		for _, in := range h.ingress.Ingresses {
			if err := vm.CheckIngress(in); err != nil {
				return held{}, fmt.Errorf("%w: ingress %.64q: %w", identity.ErrStatement, in.ID, err)
			}
		}
		if n := len(h.ingress.Egresses); n > maxIngresses {
			return held{}, fmt.Errorf("%w: %d egresses, more than %d", identity.ErrStatement, n, maxIngresses)
		}
		for _, g := range h.ingress.Egresses {
			if _, err := identity.EgressID(s.TrustDomain, g.Name); err != nil {
				return held{}, fmt.Errorf("%w: %w", identity.ErrStatement, err)
			}
		}
	}
	// A kind that a later release invents is kept and passed over.
	return h, lease
}

func checkExport(e *mesh.Export, s identity.Statement) error {
	if err := mesh.CheckLabel(e.Namespace); err != nil {
		return fmt.Errorf("namespace %w", err)
	}
	if err := mesh.CheckLabel(e.Service); err != nil {
		return fmt.Errorf("service %w", err)
	}
	switch {
	case exports.Subject(e.Namespace, e.Service) != s.Subject:
		return fmt.Errorf("the subject is %q, the export is of %s/%s", s.Subject, e.Namespace, e.Service)
	case len(e.Ports) > maxPorts || len(e.Identities) > maxIdentities || len(e.Instances) > mesh.MaxInstances:
		return fmt.Errorf("%d ports, %d identities and %d instances; at most %d, %d and %d are possible",
			len(e.Ports), len(e.Identities), len(e.Instances), maxPorts, maxIdentities, mesh.MaxInstances)
	case e.Ready < 0 || e.Ready > e.Total || e.ReadyCapacity < 0 || e.ReadyCapacity > e.Capacity:
		return errors.New("more is ready than there is")
	}
	for _, p := range e.Ports {
		switch p.AppProtocol {
		case "http", "http2", "grpc", "tcp":
		default:
			return fmt.Errorf("port %d has the protocol %.32q", p.Port, p.AppProtocol)
		}
		if p.Port == 0 {
			return errors.New("port 0 can't be reached")
		}
	}
	for _, i := range e.Instances {
		if err := mesh.CheckLabel(i); err != nil {
			return fmt.Errorf("instance %w", err)
		}
	}
	for _, i := range e.Identities {
		id, err := identity.ParseID(i)
		if err != nil {
			return err
		}
		// The one rule that no signature can replace: a zone vouches for nobody else's identities.
		if id.TrustDomain() != s.TrustDomain || id.Infrastructure() {
			return fmt.Errorf("%q is not a workload of %s", i, s.TrustDomain)
		}
	}
	return nil
}

// Held lists the statements that are in force or withdrawn, bundles among them, to resume a session.
func (b *Book) Held() []identity.Statement {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []identity.Statement
	for _, t := range b.trust.List() {
		if t.Zone != b.zone {
			out = append(out, t.Statement)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.zones)) {
		z := b.zones[name]
		for _, k := range slices.Sorted(maps.Keys(z.held)) {
			out = append(out, z.held[k].statement)
		}
	}
	return out
}

// Picture is what is believed of the other zones at one moment.
type Picture struct {
	Remotes []topology.Remote // without addresses: Resolver.Fill adds them
	Roots   map[mesh.TrustDomain][]byte
	// Until is when the first lease of what is in the picture ends; zero if nothing is in it.
	Until time.Time
	// Notes say why something that was stated is not believed, by zone.
	Notes map[string][]string
}

// Picture draws what holds now, given the Zone resources of global: a zone that global does not know
// (any more) is nobody, and one may only speak for its namespaces. trust is when all of them stop being
// believed, because global was not heard of for too long; zero for never.
func (b *Book) Picture(zones map[string]policy.Zone, trust, now time.Time) Picture {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := Picture{Roots: map[mesh.TrustDomain][]byte{}, Notes: map[string][]string{}}
	until := func(t time.Time) {
		if p.Until.IsZero() || t.Before(p.Until) {
			p.Until = t
		}
	}
	for _, t := range b.trust.List() {
		if t.Zone == b.zone {
			p.Roots[t.Bundle.TrustDomain] = t.Bundle.PEM()
			continue
		}
		note := func(format string, args ...any) {
			p.Notes[t.Zone] = append(p.Notes[t.Zone], fmt.Sprintf(format, args...))
		}
		z, known := zones[t.Zone]
		switch {
		case !known:
			note("global does not list the zone")
			continue
		case !trust.IsZero() && !now.Before(trust):
			note("global has not been heard of for the trust lease (MeshConfig.spec.trust), which ended at %s", trust.UTC().Format(time.RFC3339))
			continue
		case z.TrustDomain != "" && z.TrustDomain != t.Bundle.TrustDomain:
			note("its trust domain is %s, global says %s", t.Bundle.TrustDomain, z.TrustDomain)
			continue
		case !now.Before(t.LeaseUntil):
			note("the lease of its bundle ended at %s", t.LeaseUntil.UTC().Format(time.RFC3339))
			continue
		case len(t.Bundle.Authorities) == 0:
			note("its bundle is empty: nothing of it is trusted")
			continue
		}
		until(t.LeaseUntil)
		if !trust.IsZero() {
			until(trust)
		}
		p.Roots[t.Bundle.TrustDomain] = t.Bundle.PEM()
		p.Remotes = append(p.Remotes, b.remote(t, z, now, until, note))
	}
	slices.SortFunc(p.Remotes, func(a, c topology.Remote) int { return strings.Compare(a.Zone, c.Zone) })
	return p
}

func (b *Book) remote(t identity.ZoneTrust, z policy.Zone, now time.Time, until func(time.Time), note func(string, ...any)) topology.Remote {
	r := topology.Remote{Zone: t.Zone, TrustDomain: t.Bundle.TrustDomain}
	list := b.of(t.Zone).held
	for _, k := range slices.Sorted(maps.Keys(list)) {
		h := list[k]
		switch {
		case h.statement.Withdrawn || h.statement.Incarnation != t.Statement.Incarnation:
			continue
		case !now.Before(h.statement.LeaseUntil):
			note("the lease of its %s %s ended", h.statement.Kind, h.statement.Subject)
			continue
		case h.export != nil && !exports.MaySpeak(z, h.export.Namespace):
			note("it exports %s, but may not speak for that namespace", h.statement.Subject)
			continue
		case h.export != nil:
			r.Exports = append(r.Exports, *h.export)
		case h.ingress != nil:
			for _, in := range h.ingress.Ingresses {
				r.Ingresses = append(r.Ingresses, topology.RemoteIngress{Ingress: in})
			}
			r.Egresses = append(r.Egresses, h.ingress.Egresses...)
		}
		until(h.statement.LeaseUntil)
	}
	return r
}

// Trust is the bundles of all zones, this one's own among them.
func (b *Book) Trust() *identity.BundleBook { return b.trust }

func (b *Book) signal() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// readTrust reads what was kept of the other zones' bundles. The old record of all becomes one for each.
func (b *Book) readTrust(ctx context.Context) error {
	old, err := b.records.GetRecord(ctx, bookBucket, oldBookKey)
	if err == nil {
		err = json.Unmarshal(old.Value, b.trust)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read trust: %w", err)
	}
	move := err == nil
	list, _, err := b.records.ListRecords(ctx, bookBucket, bundlePrefix)
	if err != nil {
		return fmt.Errorf("read trust: %w", err)
	}
	for _, r := range list {
		if err := b.trust.Merge(r.Value); err != nil {
			return fmt.Errorf("read trust: %w", err)
		}
	}
	if !move {
		return nil
	}
	if err := b.keepTrust(ctx, b.trust.Known()...); err != nil {
		return err
	}
	if _, err := b.records.PutRecords(ctx, bookBucket, store.RecordWrite{Key: oldBookKey, Delete: true}); err != nil {
		return fmt.Errorf("keep trust: %w", err)
	}
	return nil
}

// keepTrust writes what is believed of trust domains, one record for each. The caller holds b.mu.
func (b *Book) keepTrust(ctx context.Context, domains ...mesh.TrustDomain) error {
	for _, td := range domains {
		write := store.RecordWrite{Key: bundlePrefix + string(td), Delete: !slices.Contains(b.trust.Known(), td)}
		var err error
		if !write.Delete {
			write.Value, err = b.trust.Export(td)
		}
		if err == nil {
			_, err = b.records.PutRecords(ctx, bookBucket, write)
		}
		if err != nil {
			return fmt.Errorf("keep trust in %s: %w", td, err)
		}
		delete(b.unkept, td)
	}
	return nil
}
