package snapshot

// Type is one of the xDS resource types that the control plane serves. Their order is the order in
// which a stream looks at them: secrets overtake everything, clusters and endpoints come before what
// names them.
type Type uint8

// The types.
const (
	Secret Type = iota
	Cluster
	Endpoint
	Listener
	Route
	Extension // typed filter configuration, ECDS

	typeCount
)

var typeURLs = [typeCount]string{
	Secret:    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	Cluster:   "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	Endpoint:  "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	Listener:  "type.googleapis.com/envoy.config.listener.v3.Listener",
	Route:     "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	Extension: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
}

var typeWords = [typeCount]string{
	Secret: "secret", Cluster: "cluster", Endpoint: "endpoints", Listener: "listener", Route: "route", Extension: "extension",
}

// ParseType finds the type of a type URL; ok is false for one that is not served.
func ParseType(url string) (t Type, ok bool) {
	for i, u := range typeURLs {
		if u == url {
			return Type(i), true
		}
	}
	return 0, false
}

// Types lists all types in serving order.
func Types() []Type { return []Type{Secret, Cluster, Endpoint, Listener, Route, Extension} }

// URL is the xDS type URL.
func (t Type) URL() string { return typeURLs[t] }

// String is the word for people, as in "cluster pay.shop:8080".
func (t Type) String() string { return typeWords[t] }

// wildcard reports whether Envoy asks for everything of the type rather than for names.
func (t Type) wildcard() bool { return t == Cluster || t == Listener }

// ViewKey names a view: proxies with the same key get the same resources.
type ViewKey string
