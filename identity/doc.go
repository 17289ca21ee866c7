// Package identity holds everything that decides who somebody is: SPIFFE IDs in their canonical
// form, trust bundles, the verification of X509-SVIDs, the certificate authority of a zone (and of
// global, for the certificates between control planes), sealing of its keys, signed statements
// between zones, and the tokens that admit a zone or a workload for the first time.
//
// It follows SPIFFE-ID, X509-SVID and "SPIFFE Trust Domain and Bundle" and is stricter where Envoy,
// go-spiffe or TLS stacks disagree about what is valid: what one of them might read differently is
// refused here. No identity is ever taken from a certificate request or from a name that the peer
// chose.
package identity
