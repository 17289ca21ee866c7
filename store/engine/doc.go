// Package engine is what the engines of store.Store have in common: what a batch does to resources (Decide), the
// form of lists and their pages (Plan), and who is told of what was committed (Hub). It does no I/O: an engine reads
// and writes, this decides.
package engine
