// Package metrics is what a proxy tells Prometheus: the traffic between pairs of services and zones as its Envoy counts it, the state
// of the proxy, and the application's own metrics. Envoy and the application are asked when somebody asks the agent, and at no other
// time. What each metric means is in docs/observability.md.
package metrics
