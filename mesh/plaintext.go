package mesh

import "time"

// ConditionPlaintext of an AuthenticationPolicy: True where ports that it makes permissive were spoken plaintext to, False where none was
// since all of their proxies watch, Unknown while not all of them do.
const ConditionPlaintext = "Plaintext"

// PlaintextPort is who spoke plaintext to a service port, as a proxy counted it.
type PlaintextPort struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	// Since is from when the proxy watches the port; what came before it doesn't know.
	Since time.Time `json:"since"`
	// Last is the newest; zero if nobody spoke any since.
	Last time.Time `json:"last,omitzero"`
	// Requests since then; of TCP, connections.
	Requests uint64 `json:"requests"`
	// Callers that were seen last, newest first, and how many Others there were.
	Callers []PlaintextCaller `json:"callers,omitempty"`
	Others  int               `json:"others,omitempty"`
}

// PlaintextCaller is an address from which plaintext came.
type PlaintextCaller struct {
	Address string `json:"address"` // IP address
	// Workload that is registered with the address, as namespace/name; of several the first by name. Empty for none.
	Workload string    `json:"workload,omitempty"`
	Requests uint64    `json:"requests"`
	Last     time.Time `json:"last"`
}

// PlaintextStatus is what the proxies of a zone say together about a service port.
type PlaintextStatus struct {
	Zone string `json:"zone"`
	// PlaintextPort sums up what they say; Since is that of the proxy that has watched for the shortest time.
	PlaintextPort
	// Proxies that watch the port.
	Proxies int `json:"proxies"`
	// Unheard: the zone is not heard at present, and everything above is what it said last.
	Unheard *Unheard `json:"unheard,omitempty"`
}
