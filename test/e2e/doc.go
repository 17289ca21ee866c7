// Package e2e holds tests of the whole: the real programs, built and started as processes, with real
// Envoys on loopback. A harness starts them on free ports, keeps their logs, and waits for facts.
package e2e
