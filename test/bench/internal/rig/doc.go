// Package rig is what the benches share: child processes that take orders, what processes use, and figures
// with their limits.
package rig
