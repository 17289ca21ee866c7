// Package vm finds the workloads and ingresses of a zone without an orchestrator: every sidecar and
// ingress agent opens one stream, says what it runs and how that does, and so holds a lease.
//
//   - A report, of any kind, renews the lease. Agents send at a third of it.
//   - Silent for half a lease, or without stream for lostAfter: UNHEALTHY. It still counts in the denominator
//     of failover thresholds, and Envoy still knows it.
//   - Silent for a whole lease: gone.
//   - `leaving`: gone at once.
//   - A newer stream of the same name fences the older one.
//
// What is known is kept in the zone's store, written on change and never on a heartbeat. After a
// restart everything has its last state for a grace period, so that agents can come back before
// traffic notices.
package vm
