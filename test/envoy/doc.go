// Package envoy proves the generated configuration on real Envoys: that they take it, that it carries
// traffic across zones over mTLS, and that it refuses whom it should. The Envoys read the same
// resources that a zone would push, from files instead of ADS.
package envoy
