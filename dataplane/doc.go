// Package dataplane is what a sidecar and a zone ingress have in common: it proves to the zone who
// they are, keeps their keys and certificates, runs their Envoy and tells the zone how they do.
//
// One Agent is one proxy. Its parts, each in its file:
//
//	instance    the instance key and what survives a power loss (one file, mode 0600)
//	enrol       the first certificate by token, later ones by key (dataplane/enrolpb)
//	credential  certificate, key and roots of the moment; dataplane/sds hands them to Envoy
//	attend      the lease at the zone: what this proxy is, and how its application does
//	loads       where Envoy sends requests (dataplane/lrs), until the zone has been told
//	bootstrap   the part of Envoy's configuration that does not come from the zone
//	supervise   Envoy as a child process: start, readiness, restart, end
//	client      what a proxyless workload has instead (dataplane/proxyless)
//	appcheck    the application's health
//	observe     metrics and health for people, on loopback
//
// Everything but the first enrolment goes on while the zone's control plane is away. Private keys
// are made here and go nowhere but to Envoy over a Unix socket; only the instance key, which Envoy
// never sees, is ever on disk. (A gRPC client without Envoy reads its key from a file of the run directory.)
package dataplane
