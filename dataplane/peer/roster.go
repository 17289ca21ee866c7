package peer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// Defaults and bounds of probing. What the zone says is brought within them.
const (
	defaultInterval = 250 * time.Millisecond
	defaultFailures = 2
	defaultTimeout  = 250 * time.Millisecond
	leastInterval   = 20 * time.Millisecond
	mostFailures    = 100
	mostTimeout     = time.Minute
)

// Bounds of what the zone may say of one other zone.
const (
	maxZones     = 1024
	maxRoots     = 64
	maxIngresses = 64
	maxAddresses = 64
	maxPorts     = 16
)

// roster is who is known, at one moment; nothing in it changes.
type roster struct {
	probe
	zones   map[string]zone
	bundles map[mesh.TrustDomain]identity.Bundle
	owners  map[mesh.TrustDomain]string
	targets map[Name]target
}

// probe is how links watch.
type probe struct {
	interval time.Duration // between pings
	suspect  time.Duration // of silence, after which a fresh handshake is tried
	timeout  time.Duration // of the handshake
}

// Name is one ingress of one zone.
type Name struct{ Zone, Ingress string }

func (n Name) String() string { return n.Zone + "/" + n.Ingress }

type zone struct {
	name        string
	trustDomain mesh.TrustDomain
}

// target is where an ingress is.
type target struct {
	zone
	addresses []string
	ports     []uint16
}

func emptyRoster() *roster {
	return &roster{
		probe: probe{defaultInterval, defaultFailures * defaultInterval, defaultTimeout}, zones: map[string]zone{}, bundles: map[mesh.TrustDomain]identity.Bundle{},
		owners: map[mesh.TrustDomain]string{}, targets: map[Name]target{},
	}
}

// newRoster reads what the zone said. A zone that can't be read is left out, and the error says so; the
// rest holds.
func newRoster(p *enrolpb.Peers) (*roster, error) {
	r := emptyRoster()
	if ms := p.GetIntervalMs(); ms > 0 {
		r.interval = max(time.Duration(ms)*time.Millisecond, leastInterval)
	}
	failures := uint32(defaultFailures)
	if n := p.GetFailures(); n > 0 {
		failures = min(n, mostFailures)
	}
	r.suspect = time.Duration(failures) * r.interval
	if ms := p.GetTimeoutMs(); ms > 0 {
		r.timeout = min(time.Duration(ms)*time.Millisecond, mostTimeout)
	}
	var errs []error
	for i, z := range p.GetZones() {
		if i == maxZones {
			errs = append(errs, fmt.Errorf("%d zones, more than %d", len(p.GetZones()), maxZones))
			break
		}
		if err := r.add(z); err != nil {
			errs = append(errs, fmt.Errorf("zone %.64q: %w", z.GetZone(), err))
		}
	}
	return r, errors.Join(errs...)
}

func (r *roster) add(p *enrolpb.PeerZone) error {
	z := zone{p.GetZone(), mesh.TrustDomain(p.GetTrustDomain())}
	if err := errors.Join(mesh.CheckZoneName(z.name), mesh.CheckTrustDomain(string(z.trustDomain))); err != nil {
		return err
	}
	if owner, taken := r.owners[z.trustDomain]; taken {
		return fmt.Errorf("its trust domain is that of zone %q", owner)
	}
	if _, twice := r.zones[z.name]; twice {
		return errors.New("it is there twice")
	}
	if n := len(p.GetRoots()); n == 0 || n > maxRoots {
		return fmt.Errorf("%d roots, not 1 to %d", n, maxRoots)
	}
	b := identity.Bundle{TrustDomain: z.trustDomain}
	for _, der := range p.GetRoots() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("roots: %w", err)
		}
		b.Authorities = append(b.Authorities, c)
	}
	r.zones[z.name], r.bundles[z.trustDomain], r.owners[z.trustDomain] = z, b, z.name
	var errs []error
	for i, in := range p.GetIngresses() {
		if i == maxIngresses {
			return errors.Join(append(errs, fmt.Errorf("more than %d ingresses", maxIngresses))...)
		}
		t := target{zone: z}
		for _, a := range in.GetAddresses() {
			if ip, err := netip.ParseAddr(a); err == nil && len(t.addresses) < maxAddresses {
				t.addresses = append(t.addresses, ip.String())
			}
		}
		for _, port := range in.GetPorts() {
			if port > 0 && port < 1<<16 && len(t.ports) < maxPorts {
				t.ports = append(t.ports, uint16(port))
			}
		}
		if mesh.CheckLabel(in.GetId()) != nil || len(t.addresses) == 0 || len(t.ports) == 0 {
			errs = append(errs, fmt.Errorf("ingress %.64q has no name, or no address or port to dial", in.GetId()))
			continue
		}
		r.targets[Name{z.name, in.GetId()}] = t
	}
	return errors.Join(errs...)
}

// BundleFor makes it an identity.BundleSource: zones that are not known have none.
func (r *roster) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	b, ok := r.bundles[td]
	return b, ok
}

// verify says which peer a chain proves, by what is known now.
func (r *roster) verify(chain []*x509.Certificate, now time.Time) (Name, error) {
	id, err := identity.VerifyPeer(chain, r, now)
	if err != nil {
		return Name{}, err
	}
	return r.nameOf(id)
}

// nameOf admits exactly the ingresses of the zones that are known.
func (r *roster) nameOf(id identity.ID) (Name, error) {
	owner, known := r.owners[id.TrustDomain()]
	ingress, ok := identity.IngressOf(id)
	if !known || !ok {
		return Name{}, fmt.Errorf("peer %q is not an ingress of a zone that is known here", id)
	}
	return Name{owner, ingress}, nil
}

// attempt lists where to dial: every address, at one port each, another one at each attempt.
func (t target) attempt(n int) []string {
	var out []string
	for i, a := range t.addresses {
		port := t.ports[(n+i)%len(t.ports)]
		at := netip.MustParseAddr(a)
		out = append(out, netip.AddrPortFrom(at, port).String())
	}
	// A name that resolves to dozens of addresses is a load balancer: a few of them say enough.
	if k := len(out); k > maxParallel {
		n %= k
		out = slices.Concat(out[n:], out[:n])[:maxParallel]
	}
	return out
}

// maxParallel is how many addresses of one ingress are dialled at once.
const maxParallel = 4
