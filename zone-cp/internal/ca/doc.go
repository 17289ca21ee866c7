// Package ca is a zone's issuing authority. It keeps the zone's root and issuing keys sealed on the
// zone's own disk, admits workloads and ingresses by enrolment token (the enrolment service of
// dataplane/enrolpb), and remembers which certificate went to which proxy, so that the xDS server
// knows who is calling. It needs nobody outside the zone.
//
// What a request says about identity is ignored: the identity is that of the token, or of the
// instance whose registered key proves itself.
package ca
