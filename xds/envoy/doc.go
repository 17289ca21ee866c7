// Package envoy builds Envoy messages from the IR. Nothing else in the project makes any, so every
// setting has one place and its reason beside it.
package envoy
