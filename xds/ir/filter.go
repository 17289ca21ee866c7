package ir

// Filter is one thing that a proxy does with a request besides choosing where it goes. Exactly one field
// is set. Filters come with the routes, so that they hold from the next request of a live connection, and
// a request of which no policy asks anything meets none.
type Filter struct {
	JWT          *JWT          `json:"jwt,omitempty"`
	Audit        *Audit        `json:"audit,omitempty"`
	Visitors     *Visitors     `json:"visitors,omitempty"`
	RateLimit    *RateLimit    `json:"rateLimit,omitempty"`
	SharedLimits *SharedLimits `json:"sharedLimits,omitempty"`
	Fault        *Fault        `json:"fault,omitempty"`
	CORS         *CORS         `json:"cors,omitempty"`
	Session      *Session      `json:"session,omitempty"`
	Lua          *Lua          `json:"lua,omitempty"`
	Count        *Count        `json:"count,omitempty"`
	LoadShedding *LoadShedding `json:"loadShedding,omitempty"`
	// Resolve finds the address of the request's host, for a cluster with the same Forward.
	Resolve               *Forward               `json:"resolve,omitempty"`
	SlowRequests          *SlowRequests          `json:"slowRequests,omitempty"`
	ExternalAuthorization *ExternalAuthorization `json:"externalAuthorization,omitempty"`
}

// Filters are what the requests of a host or a route pass, in the order of the lists. A list of a route
// replaces that of its host.
type Filters struct {
	// Before those that decide by who asks: what finds out who asks.
	Before []Filter `json:"before,omitempty"`
	// After the request was allowed.
	After []Filter `json:"after,omitempty"`
	// Load is last: what bounds how many are under way.
	Load []Filter `json:"load,omitempty"`
}

// Empty reports whether there is nothing to do.
func (f Filters) Empty() bool { return len(f.Before)+len(f.After)+len(f.Load) == 0 }
