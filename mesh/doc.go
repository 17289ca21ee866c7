// Package mesh is the ground floor: the names, keys, revisions and statuses that every other
// package agrees on. It imports nothing but the standard library, so that each room above it can
// be read on its own.
package mesh
