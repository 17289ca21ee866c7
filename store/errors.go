package store

import "errors"

var (
	// ErrInvalid: the call can't be served as it stands: a continue token of another query, a limit out
	// of range, a key with a slash. Nothing was changed; the caller is at fault.
	ErrInvalid = errors.New("invalid")
	// ErrClosed: the store or the watcher was closed.
	ErrClosed = errors.New("closed")
)
