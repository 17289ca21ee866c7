package ir

// Endpoints are the addresses behind a cluster. No two of them share IP and port: Envoy would drop one
// of them and not say so.
type Endpoints struct {
	Cluster string  `json:"cluster"`
	Groups  []Group `json:"groups,omitempty"`
	// Threshold is the percentage of a priority's endpoints that must look alive to carry all of its traffic;
	// below it, it spills to the next in proportion. 0 means Envoy's own.
	Threshold uint32 `json:"threshold,omitempty"`

	Sources Sources `json:"sources,omitempty"`
}

// Group is the endpoints of one zone in one place.
type Group struct {
	// Priority: 0 is used first.
	Priority uint32 `json:"priority"`
	Zone     string `json:"zone"` // of the mesh
	Region   string `json:"region,omitempty"`
	Place    string `json:"place,omitempty"` // within the region
	// Weight among the groups of one priority: its share of the traffic, in millionths.
	Weight    uint32     `json:"weight"`
	Endpoints []Endpoint `json:"endpoints"`
	// Unchecked endpoints get no active health checks: behind a lane of an ingress each is answered by somebody else.
	Unchecked bool `json:"unchecked,omitempty"`
}

// Endpoint is one address. Those that are known to be dead are not there: Envoy finds the others itself.
type Endpoint struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	// Weight within its group, in hundredths.
	Weight uint32 `json:"weight"`
}
