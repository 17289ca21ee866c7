package mesh

import "time"

const (
	// ConnectionDrain is how long Envoys go on with the connections of what is gone from their listeners: filter
	// chains of a zone that is trusted no more among them, so it bounds how long a revocation takes to end them.
	ConnectionDrain = 2 * time.Second
	// ConnectionEnd is when the last of them has ended: Envoy gives HTTP connections another second to close.
	ConnectionEnd = ConnectionDrain + time.Second
)

// FailoverStatus is a zone's word about where its requests to one service go now, and why. Bucket
// "failover/<zone>", keyed by <namespace>/<service>.
type FailoverStatus struct {
	Zone      string `json:"zone"` // whose requests
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// Policy is the FailoverPolicy that decides; nil for the default.
	Policy *Key          `json:"policy,omitempty"`
	Mode   string        `json:"mode"` // Auto, Armed or Off
	State  FailoverState `json:"state"`
	// Reason is one sentence for people.
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"` // of State
	// Targets are all zones that offer the service, in the order of tiers, then by name.
	Targets    []FailoverTarget `json:"targets"`
	ObservedAt time.Time        `json:"observedAt"`
	// Unheard: the zone is not heard at present, and everything above is what it said last.
	Unheard *Unheard `json:"unheard,omitempty"`
}

// FailoverState is how the traffic of a service stands to its policy.
type FailoverState string

// The states of a service's failover.
const (
	FailoverNormal    FailoverState = "Normal"     // the first tier carries everything
	FailoverMoved     FailoverState = "FailedOver" // later tiers carry some or all
	FailoverHeld      FailoverState = "Held"       // the better tier is whole again; dwell or failback delay runs
	FailoverDraining  FailoverState = "Draining"   // a drain moves traffic
	FailoverArmed     FailoverState = "Armed"      // it would move, and waits for a person
	FailoverExhausted FailoverState = "Exhausted"  // all tiers together are below what the policy wants
	FailoverNone      FailoverState = "NoBackend"  // nobody is ready anywhere
)

// FailoverTarget is one zone's part in a service's traffic.
type FailoverTarget struct {
	Zone string `json:"zone"`
	Tier int    `json:"tier"` // from 0
	Name string `json:"name,omitempty"`
	// Share of the requests, 0 to 1; the shares of all targets add up to 1, or to 0 if nobody is ready.
	Share float64 `json:"share"`
	// Would is the share without what holds it back (Armed, dwell, failback delay).
	Would float64 `json:"would"`
	// Capacities in endpoint-equivalents: Ready of Whole, where Whole is what was declared or last seen whole.
	Ready     float64 `json:"ready"`
	Whole     float64 `json:"whole"`
	Reachable bool    `json:"reachable"`
	// Reason says why the share is what it is.
	Reason string `json:"reason"`
}

// LinkStatus is a zone's word about its way to another zone. Bucket "links/<zone>", keyed by the other
// zone's name.
type LinkStatus struct {
	Zone string `json:"zone"`
	To   string `json:"to"`
	// Probed says that an ingress of Zone probes the other's ingresses; Reachable is then what it found.
	Probed    bool      `json:"probed"`
	Reachable bool      `json:"reachable"`
	Since     time.Time `json:"since,omitzero"` // of Reachable
	RTTMillis float64   `json:"rttMs,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	// Current: the zones' control planes are in touch through their ingresses, so that what Zone holds of the other is
	// its newest word. Else it was that at HeardAt for the last time.
	Current bool `json:"current,omitempty"`
	// HeardAt is when the newest word of the other zone arrived, HeardBy by which way: "global" or "peer".
	HeardAt time.Time `json:"heardAt,omitzero"`
	HeardBy string    `json:"heardBy,omitempty"`
	// TrustUntil is when the other zone's identities stop being believed unless global is heard of before. It is there only
	// while global is away.
	TrustUntil time.Time `json:"trustUntil,omitzero"`
	ObservedAt time.Time `json:"observedAt"`
}

// TrafficStatus is what the proxies of a zone sent lately to one service in one zone. Bucket
// "traffic/<zone>", keyed by <namespace>/<service>/<other zone>.
type TrafficStatus struct {
	Zone      string `json:"zone"` // whose proxies sent it
	To        string `json:"to"`   // the zone that served it, which may be the same
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// Requests a second that were begun with an endpoint, over the last window; for TCP, connections made.
	Requests float64 `json:"requests"`
	// Failures a second: attempts with a 5xx or without an answer, which may have succeeded elsewhere. Those that
	// found no connection are not among Requests. For TCP none are known.
	Failures float64 `json:"failures"`
	// Active requests or connections, on average.
	Active     int       `json:"active"`
	WindowMS   int       `json:"windowMs"`
	ObservedAt time.Time `json:"observedAt"`
}
