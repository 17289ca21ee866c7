// Package policy holds what users can ask for: the specs of all kinds, their validation, targeting,
// precedence and merge. It is pure: no I/O, no clock.
package policy
