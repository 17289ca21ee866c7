package snapshot

// Proven reports whether some Envoy has acknowledged the entry.
func (e *Entry) Proven() bool { return e.proven.Load() }
