package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// MaxIDLength is the longest SPIFFE ID in bytes that is issued or accepted (SPIFFE-ID 2.3).
const MaxIDLength = 2048

const scheme = "spiffe://"

// Paths with a meaning of their own, below a trust domain.
const (
	// FedPrefix is reserved for Comity's own programs.
	FedPrefix = "/fed/"
	// SPIREPrefix is reserved by SPIRE for its servers and agents.
	SPIREPrefix = "/spire/"
	// GlobalCPPath is global's own identity in the global trust domain.
	GlobalCPPath = "/fed/global-cp"
	// ingressPrefix leads the identities of zone ingresses, as mesh.TrustDomain.IngressID makes them.
	ingressPrefix = "/fed/zone-ingress/"
	// zonePrefix leads the federation certificates of zones in the global trust domain.
	zonePrefix = "/zone/"
)

// ErrID is wrapped by every error about the form of a SPIFFE ID.
var ErrID = errors.New("not a canonical SPIFFE ID")

// ID is a canonical SPIFFE ID: spiffe://<trust domain>/<path>. There is exactly one spelling for
// each, so IDs are compared with ==. The zero ID is nobody.
type ID struct {
	td   mesh.TrustDomain
	path string
}

// ParseID reads a SPIFFE ID (SPIFFE-ID 2). Stricter than the standard: the scheme and the trust
// domain must be written in lower case, the trust domain must be a DNS name, and the path must not
// be empty. Percent signs, empty or dot segments, ports, user info, queries and fragments are
// refused.
func ParseID(s string) (ID, error) {
	if len(s) > MaxIDLength {
		return ID{}, fmt.Errorf("%w: %d bytes, more than %d", ErrID, len(s), MaxIDLength)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return ID{}, fmt.Errorf("%w: %q doesn't begin with %s", ErrID, s, scheme)
	}
	name, path, ok := strings.Cut(rest, "/")
	if !ok {
		return ID{}, fmt.Errorf("%w: %q has no path", ErrID, s)
	}
	return NewID(mesh.TrustDomain(name), "/"+path)
}

// NewID joins a trust domain and a path, which begins with "/", under the rules of ParseID.
func NewID(td mesh.TrustDomain, path string) (ID, error) {
	if err := mesh.CheckTrustDomain(string(td)); err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrID, err)
	}
	if err := checkPath(path); err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrID, err)
	}
	id := ID{td: td, path: path}
	if n := len(id.String()); n > MaxIDLength {
		return ID{}, fmt.Errorf("%w: %d bytes, more than %d", ErrID, n, MaxIDLength)
	}
	return id, nil
}

func checkPath(path string) error {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return fmt.Errorf("path %q doesn't begin with /", path)
	}
	for seg := range strings.SplitSeq(rest, "/") {
		switch seg {
		case "":
			return fmt.Errorf("path %q has an empty segment", path)
		case ".", "..":
			return fmt.Errorf("path %q has a dot segment", path)
		}
		for i := range len(seg) {
			if !pathByte(seg[i]) {
				return fmt.Errorf("path %q has the byte %q; only a-z, A-Z, 0-9, '.', '_' and '-' are allowed", path, seg[i])
			}
		}
	}
	return nil
}

func pathByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

// TrustDomain is the trust domain that vouches for the ID.
func (i ID) TrustDomain() mesh.TrustDomain { return i.td }

// Path begins with "/". Paths mean nothing without their trust domain: compare whole IDs.
func (i ID) Path() string { return i.path }

// String is spiffe://<trust domain><path>, empty for the zero ID.
func (i ID) String() string {
	if i == (ID{}) {
		return ""
	}
	return scheme + string(i.td) + i.path
}

// Infrastructure reports whether the ID is reserved for Comity's own programs (/fed/...).
func (i ID) Infrastructure() bool { return strings.HasPrefix(i.path, FedPrefix) }

// SPIRE reports whether the ID is reserved by SPIRE (/spire/...); such IDs are never issued here.
func (i ID) SPIRE() bool { return strings.HasPrefix(i.path, SPIREPrefix) }

// WorkloadID is the ID of every workload of a service account.
func WorkloadID(td mesh.TrustDomain, namespace, serviceAccount string) (ID, error) {
	if err := mesh.CheckLabel(namespace); err != nil {
		return ID{}, fmt.Errorf("namespace %w", err)
	}
	if err := mesh.CheckSubdomain(serviceAccount); err != nil {
		return ID{}, fmt.Errorf("service account %w", err)
	}
	return ParseID(td.WorkloadID(namespace, serviceAccount))
}

// IngressID is the ID of a zone ingress.
func IngressID(td mesh.TrustDomain, name string) (ID, error) {
	if err := mesh.CheckLabel(name); err != nil {
		return ID{}, fmt.Errorf("ingress %w", err)
	}
	return ParseID(td.IngressID(name))
}

// EgressID is the ID of a zone egress.
func EgressID(td mesh.TrustDomain, name string) (ID, error) {
	if err := mesh.CheckLabel(name); err != nil {
		return ID{}, fmt.Errorf("egress %w", err)
	}
	return ParseID(td.EgressID(name))
}

// IngressOf reads what IngressID made: the name of the ingress, false if the ID is no ingress's.
func IngressOf(id ID) (string, bool) {
	name, ok := strings.CutPrefix(id.path, ingressPrefix)
	return name, ok && mesh.CheckLabel(name) == nil
}

// ZoneID is the ID of a zone's control plane toward global, in the global trust domain:
// spiffe://<global>/zone/<name>.
func ZoneID(global mesh.TrustDomain, zone string) (ID, error) {
	if err := mesh.CheckZoneName(zone); err != nil {
		return ID{}, err
	}
	return NewID(global, zonePrefix+zone)
}

// ZoneOf reads what ZoneID made: the name of the zone, or an error if the ID is no zone's ID in the
// given global trust domain.
func ZoneOf(global mesh.TrustDomain, id ID) (string, error) {
	name, ok := strings.CutPrefix(id.path, zonePrefix)
	if !ok || id.td != global || mesh.CheckZoneName(name) != nil {
		return "", fmt.Errorf("%q is not the identity of a zone of %s", id, global)
	}
	return name, nil
}

// Authorizer decides whether a verified peer may talk to us; nil means yes. It must compare whole
// IDs (SPIFFE-ID 4.1.2).
type Authorizer func(ID) error

// AuthorizeOneOf admits exactly the IDs of the list, given as strings.
func AuthorizeOneOf(ids ...string) Authorizer {
	return func(id ID) error {
		if slices.Contains(ids, id.String()) {
			return nil
		}
		return fmt.Errorf("peer %q is not one of the expected identities", id)
	}
}

// AuthorizeTrustDomain admits every identity of one trust domain.
func AuthorizeTrustDomain(td mesh.TrustDomain) Authorizer {
	return func(id ID) error {
		if id.td == td {
			return nil
		}
		return fmt.Errorf("peer %q is not of trust domain %s", id, td)
	}
}
