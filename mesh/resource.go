package mesh

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind names a type of resource, spelled as in YAML (`kind:`).
type Kind string

// The kinds that Comity knows. The first group is Comity's own (mesh.comity.dev/v1alpha1), the
// second comes from the ecosystem as it is.
const (
	KindZone                 Kind = "Zone"
	KindMeshConfig           Kind = "MeshConfig"
	KindWorkload             Kind = "Workload"
	KindAuthorizationPolicy  Kind = "AuthorizationPolicy"
	KindFailoverPolicy       Kind = "FailoverPolicy"
	KindTrafficPolicy        Kind = "TrafficPolicy"
	KindAuthenticationPolicy Kind = "AuthenticationPolicy"
	KindTelemetryPolicy      Kind = "TelemetryPolicy"
	KindExternalService      Kind = "ExternalService"
	KindExtension            Kind = "Extension"

	KindService        Kind = "Service"       // core, v1
	KindServiceExport  Kind = "ServiceExport" // multicluster.x-k8s.io/v1beta1
	KindHTTPRoute      Kind = "HTTPRoute"     // gateway.networking.k8s.io/v1, as those that follow
	KindGRPCRoute      Kind = "GRPCRoute"
	KindTCPRoute       Kind = "TCPRoute"
	KindTLSRoute       Kind = "TLSRoute"
	KindReferenceGrant Kind = "ReferenceGrant"
	KindGateway        Kind = "Gateway"
	KindGatewayClass   Kind = "GatewayClass"
)

// Origin says who owns a resource: OriginGlobal, or the name of the zone where it was made. Only
// its owner may change a resource; everybody else holds a read-only copy.
type Origin string

// OriginGlobal owns what was made at the global control plane. No zone may have this name.
const OriginGlobal Origin = "global"

// Key identifies a resource in the whole mesh. Namespace is empty for kinds without namespace
// (Zone, MeshConfig).
type Key struct {
	Origin    Origin `json:"origin"`
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is `origin/Kind/namespace/name`, the namespace empty where the kind has none. No part can
// contain a slash, so ParseKey reverses it.
func (k Key) String() string {
	return string(k.Origin) + "/" + string(k.Kind) + "/" + k.Namespace + "/" + k.Name
}

// ParseKey reads what Key.String wrote.
func ParseKey(s string) (Key, error) {
	p := strings.Split(s, "/")
	if len(p) != 4 || p[0] == "" || p[1] == "" || p[3] == "" {
		return Key{}, fmt.Errorf("key %q is not origin/Kind/namespace/name", s)
	}
	return Key{Origin: Origin(p[0]), Kind: Kind(p[1]), Namespace: p[2], Name: p[3]}, nil
}

// Compare orders keys by origin, kind, namespace and name.
func (k Key) Compare(o Key) int {
	for _, c := range [...]int{
		strings.Compare(string(k.Origin), string(o.Origin)),
		strings.Compare(string(k.Kind), string(o.Kind)),
		strings.Compare(k.Namespace, o.Namespace),
		strings.Compare(k.Name, o.Name),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

// Revision numbers one commit of one store: dense, ascending, 0 before the first.
type Revision uint64

// Incarnation names one life of a store (or zone): 128 random bits in hex. A restored database is
// another incarnation, so that revisions of the old life are never mistaken for those of the new.
type Incarnation string

// Cursor is where a stream resumes: a revision of one incarnation. The zero Cursor means "from
// nothing".
type Cursor struct {
	Incarnation Incarnation `json:"incarnation"`
	Revision    Revision    `json:"revision"`
}

// String is `incarnation:revision`, empty for the zero Cursor.
func (c Cursor) String() string {
	if c == (Cursor{}) {
		return ""
	}
	return string(c.Incarnation) + ":" + strconv.FormatUint(uint64(c.Revision), 10)
}

// ParseCursor reads what Cursor.String wrote.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return Cursor{}, nil
	}
	inc, rev, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(rev, 10, 63)
	if !ok || inc == "" || err != nil {
		return Cursor{}, fmt.Errorf("cursor %q is not incarnation:revision", s)
	}
	return Cursor{Incarnation: Incarnation(inc), Revision: Revision(n)}, nil
}

// Resource is what a user asked for, in the form every engine and every wire carries it. Values are
// treated as immutable once they have left the code that made them.
type Resource struct {
	Key
	APIVersion  string            `json:"apiVersion"`
	UID         string            `json:"uid"` // given by the origin at creation; 128 random bits in hex
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Generation counts the edits of Spec at the origin, from 1.
	Generation uint64 `json:"generation"`
	// Created and Changed are revisions of the *origin's* store: when the resource came to be, and
	// its last change. They travel with every copy.
	Created   Revision  `json:"created"`
	Changed   Revision  `json:"changed"`
	CreatedAt time.Time `json:"createdAt"`
	ChangedAt time.Time `json:"changedAt"`

	// Revision is the revision of *this* store that last wrote the row; it equals Changed where the
	// store is the origin.
	Revision Revision `json:"revision"`

	// Spec is JSON. It is opaque to stores and to the federation.
	Spec json.RawMessage `json:"spec"`
}

// AnnotationZones limits a resource made at global to the zones it lists, separated by commas.
// Without it a global resource reaches every zone. It is an annotation, not a field, so that kinds
// of the ecosystem can carry it as they are.
const AnnotationZones = "mesh.comity.dev/zones"

// InScope reports whether a global resource is meant for the zone.
func (r Resource) InScope(zone string) bool {
	list := r.Annotations[AnnotationZones]
	if strings.TrimSpace(list) == "" {
		return true
	}
	for z := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(z) == zone {
			return true
		}
	}
	return false
}
