package ir

// Endpoints are the addresses behind a cluster. No two of them share IP and port: Envoy would drop one
// of them and not say so.
type Endpoints struct {
	Cluster string  `json:"cluster"`
	Groups  []Group `json:"groups,omitempty"`

	Sources Sources `json:"sources,omitempty"`
}

// Group is the endpoints of one zone in one place.
type Group struct {
	// Priority: 0 is used first.
	Priority uint32 `json:"priority"`
	Zone     string `json:"zone"` // of the mesh
	Region   string `json:"region,omitempty"`
	Place    string `json:"place,omitempty"` // within the region
	// Weight among the groups of one priority, in hundredths of an endpoint.
	Weight    uint32     `json:"weight"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one address.
type Endpoint struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	Healthy bool   `json:"healthy"`
	// Weight within its group, in hundredths.
	Weight uint32 `json:"weight"`
}
