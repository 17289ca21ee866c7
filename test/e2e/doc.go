// Package e2e holds tests of the whole: the real programs, built and started as processes, with real
// Envoys. A harness starts them on free ports, keeps their logs, and waits for facts.
//
// Most run on loopback. Those that break networks run on hosts of their own, which are network namespaces, so
// they need root, and are skipped without it; `make e2e` has them fail instead.
package e2e
