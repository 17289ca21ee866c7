package mesh

import (
	"strconv"
	"time"
)

// Statuses are what was observed, never edited by users. They change often, so they live in a
// store's records, one bucket per zone, and never touch the change log.

// ResourceState is how one zone stands to one resource.
type ResourceState string

// The states of a resource in a zone.
const (
	StatePending  ResourceState = "Pending"  // sent, not yet applied
	StateApplied  ResourceState = "Applied"  // in the zone's store, proxies may still be catching up
	StateRejected ResourceState = "Rejected" // refused; the last good one stays in force
	StateUnknown  ResourceState = "Unknown"  // stored and passed over: a kind this zone does not know
)

// Unheard says of a zone's word that it is not of now: it was its last one. It may hold still, or not. Who answers for several zones marks what
// they said so; no zone says it of itself.
type Unheard struct {
	Reason UnheardReason `json:"reason"`
	// Since is when the zone was heard of last; zero if it never was.
	Since time.Time `json:"since,omitzero"`
}

// UnheardReason is why a zone's words are not of now.
type UnheardReason string

// The reasons why a zone is not heard.
const (
	UnheardAway      UnheardReason = "NotConnected" // it has no session with global: it may be dead, or only cut off
	UnheardNotJoined UnheardReason = "NotJoined"    // no control plane has joined under its name
	UnheardRevoked   UnheardReason = "Revoked"      // it is no member any more
)

// ResourceStatus is one zone's word about one resource. Bucket "status/<zone>", keyed by Key.String.
type ResourceStatus struct {
	Zone string `json:"zone"`
	// Wanted and Applied are revisions of the origin's store.
	Wanted  Revision      `json:"wanted"`
	Applied Revision      `json:"applied"`
	State   ResourceState `json:"state"`
	Message string        `json:"message,omitempty"`
	// Acked of Total: Total counts the connected proxies whose configuration the resource shapes, and those
	// that have yet to let go of it; Acked those of them that run it as it is wanted. Both follow proxies that
	// connect and leave.
	Acked int `json:"acked"`
	Total int `json:"total"`
	// Rejections are what Envoys refused, at most 8.
	Rejections []Rejection `json:"rejections,omitempty"`
	// OverriddenBy lists the resources that win over this one, where one does.
	OverriddenBy []Key `json:"overriddenBy,omitempty"`
	// Conditions of a route: Accepted by all of its parents, and ResolvedRefs, of all that it names. Programmed is what Acked
	// and Total say.
	Conditions []Condition `json:"conditions,omitempty"`
	// Listeners of a Gateway.
	Listeners  []ListenerStatus `json:"listeners,omitempty"`
	ObservedAt time.Time        `json:"observedAt"`
	// Unheard: the zone is not heard at present, and everything above is what it said last.
	Unheard *Unheard `json:"unheard,omitempty"`
}

// ListenerStatus is how a listener of a Gateway does in the zone (Gateway API, ListenerStatus).
type ListenerStatus struct {
	Name string `json:"name"`
	// SupportedKinds are the kinds of routes that it takes.
	SupportedKinds []string `json:"supportedKinds,omitempty"`
	AttachedRoutes int      `json:"attachedRoutes"`
	// Conditions: Accepted, ResolvedRefs and Programmed; Conflicted where it is.
	Conditions []Condition `json:"conditions"`
}

// Condition is one fact about a route or a listener; Type and Reason are the Gateway API's words.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // True or False
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Rejection is one Envoy's refusal of one xDS resource.
type Rejection struct {
	Proxy    string `json:"proxy"`    // ProxyID.String
	Resource string `json:"resource"` // short type and name, as in "cluster pay.shop:8080"
	Error    string `json:"error"`    // Envoy's own words, at most 1 KiB
}

// ZoneStatus is global's word about a zone. Bucket "zones", keyed by the zone's name.
type ZoneStatus struct {
	Joined         bool        `json:"joined"`
	Connected      bool        `json:"connected"`
	ConnectedSince time.Time   `json:"connectedSince,omitzero"`
	LastSeen       time.Time   `json:"lastSeen,omitzero"`
	Incarnation    Incarnation `json:"incarnation,omitempty"`
	TrustDomain    TrustDomain `json:"trustDomain,omitempty"`
	Version        string      `json:"version,omitempty"`  // software
	Protocol       int         `json:"protocol,omitempty"` // federation protocol ability
	// Wanted is the newest global revision that concerns the zone, Acked the newest it has applied.
	Wanted             Revision  `json:"wanted"`
	Acked              Revision  `json:"acked"`
	CertificateExpires time.Time `json:"certificateExpires,omitzero"`
	BundleSequence     uint64    `json:"bundleSequence,omitempty"`
	Ingresses          []Ingress `json:"ingresses,omitempty"`
	Proxies            int       `json:"proxies"`
	ProxiesConnected   int       `json:"proxiesConnected"`
	// SentBytes counts configuration sent down in the present session (frames of resources).
	SentBytes uint64 `json:"sentBytes"`
	Message   string `json:"message,omitempty"`
	// Refused, at the zone itself: what global said when it would not talk to it, as to one that was revoked or removed.
	// Empty while it would.
	Refused string `json:"refused,omitempty"`
}

// Ingress is one address under which a zone takes traffic from other zones.
type Ingress struct {
	ID      string   `json:"id"`
	Network string   `json:"network,omitempty"` // zones on the same network may use Private addresses
	Host    string   `json:"host"`              // IP address or DNS name
	Ports   []uint16 `json:"ports"`             // lanes
	Source  string   `json:"source,omitempty"`  // how the address was learned: "declared", "loadbalancer", "node"
	// Peers: its agent answers the ingresses of other zones (PeerSNI), so that silence says something.
	Peers bool `json:"peers,omitempty"`
}

// ProxyStatus is a zone's word about one proxy. Bucket "proxies/<zone>", keyed by ProxyID.String.
type ProxyStatus struct {
	Proxy     ProxyID   `json:"proxy"`
	Zone      string    `json:"zone"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Identity  string    `json:"identity,omitempty"` // SPIFFE ID
	Version   string    `json:"version,omitempty"`  // Envoy's
	Healthy   bool      `json:"healthy"`
	// Draining: the zone sends it no new requests, until undrain.
	Draining  bool     `json:"draining,omitempty"`
	Applied   Revision `json:"applied"` // newest revision of the zone's store that the proxy acknowledged in full
	Nacks     uint64   `json:"nacks"`
	LastError string   `json:"lastError,omitempty"`
	// Unsevered says why its agent could not end its connections to a revoked zone; empty when none are left.
	Unsevered   string    `json:"unsevered,omitempty"`
	CertExpires time.Time `json:"certExpires,omitzero"`
	// Plaintext are its ports that take plaintext, and who speaks it.
	Plaintext  []PlaintextPort `json:"plaintext,omitempty"`
	ObservedAt time.Time       `json:"observedAt"`
	// Unheard: the zone is not heard at present, and everything above is what it said last.
	Unheard *Unheard `json:"unheard,omitempty"`
}

// RevisionSlots is how many revisions of one origin a zone remembers the progress of.
const RevisionSlots = 64

// RevisionStatus is one zone's word about one revision: how far the proxies are whose configuration it
// changed. Bucket "revisions/<zone>", keyed by RevisionSlot: a newer revision takes the place of one that
// is RevisionSlots older, so a reader must compare Origin and Revision.
type RevisionStatus struct {
	Zone     string   `json:"zone"`
	Origin   Origin   `json:"origin"`
	Revision Revision `json:"revision"` // of the origin's store
	// Changes counts the resources of the revision that the zone has taken, deleted or refused.
	Changes int           `json:"changes"`
	State   ResourceState `json:"state"` // StateApplied or StateRejected
	Message string        `json:"message,omitempty"`
	// Acked of Total: Total counts the distinct connected proxies whose configuration the revision changed.
	// One that leaves before it has acknowledged no longer counts.
	Acked int `json:"acked"`
	Total int `json:"total"`
	// Done says that nobody is waited for any more. A proxy that refused a part of it is not waited for.
	Done       bool        `json:"done"`
	Rejections []Rejection `json:"rejections,omitempty"` // at most 8
	ObservedAt time.Time   `json:"observedAt"`
}

// RevisionSlot is where the status of an origin's revision is kept.
func RevisionSlot(o Origin, r Revision) string {
	return string(o) + "/" + strconv.FormatUint(uint64(r%RevisionSlots), 10)
}
