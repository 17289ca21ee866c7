package ir

// Target is a name that a gRPC client without a proxy may dial, as in `xds:///pay.shop.svc.clusterset.local:9090`.
type Target struct {
	Name string `json:"name"` // host:port, or a host for its default port
	// RouteTable is of Proxyless ones, with one host.
	RouteTable string `json:"routeTable"`

	Sources Sources `json:"sources,omitempty"`
}
