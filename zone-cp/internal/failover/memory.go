package failover

import "time"

// memory is what counts of a service in one zone.
type memory struct {
	kept
	recent window
}

// kept is what survives a restart.
type kept struct {
	Seen bool `json:"seen"`
	// Ready counts as ready, and Whole is what there should be: what was declared when the service was first seen, then the
	// most that was ready at once. Whole shrinks by what leaves in order, as Declared does.
	Ready    uint64 `json:"ready"`
	Whole    uint64 `json:"whole"`
	Declared uint64 `json:"declared"`
	// Fell is when it last lost something that did not leave in order; zero if it has been whole since.
	Fell time.Time `json:"fell,omitzero"`
}

// see takes in what is ready and declared now. A loss counts at once. What comes back after a loss counts when it has
// lasted delay, and not before dwell after the loss; next is then when to look again. What grows without a
// loss counts at once: nothing comes back.
func (m *memory) see(ready, declared uint64, now time.Time, dwell, delay time.Duration) (next time.Time) {
	if !m.Seen {
		m.kept = kept{Seen: true, Ready: ready, Whole: declared, Declared: declared}
		m.recent = window{{now, ready}}
		return time.Time{}
	}
	left := m.Declared - min(declared, m.Declared)
	m.Declared = declared
	m.recent.add(ready, now, delay)
	switch {
	case ready < m.Ready:
		if m.Ready-ready > left {
			m.Fell = now
		}
		m.Ready = ready
	case ready > m.Ready && m.Fell.IsZero():
		m.Ready = ready
	case ready > m.Ready:
		least, until := m.recent.least(delay)
		if dwelt := m.Fell.Add(dwell); now.Before(dwelt) {
			return later(dwelt, until)
		}
		if m.Ready = max(m.Ready, least); m.Ready < ready {
			next = until
		}
	}
	m.Whole = min(declared, max(m.Whole, m.Ready))
	if m.Ready >= m.Whole {
		m.Fell = time.Time{}
	}
	return next
}

// believe takes what is ready for what counts.
func (m *memory) believe(ready uint64) {
	m.Ready = ready
	m.Whole = min(m.Declared, max(m.Whole, m.Ready))
}

// window is a sliding minimum: that many were ready since then, in the order of time and of number.
type window []sample

type sample struct {
	since time.Time
	ready uint64
}

// add notes what is ready, and forgets what no window of the given length has in it any more.
func (w *window) add(ready uint64, now time.Time, length time.Duration) {
	list, since := *w, now
	for len(list) > 0 && list[len(list)-1].ready >= ready {
		since = list[len(list)-1].since
		list = list[:len(list)-1]
	}
	list = append(list, sample{since, ready})
	for len(list) > 1 && !list[1].since.After(now.Add(-length)) {
		list = list[1:]
	}
	*w = list
}

// least is the minimum, and when it will be a higher one if nothing changes; zero for never.
func (w window) least(length time.Duration) (least uint64, until time.Time) {
	if len(w) > 1 {
		until = w[1].since.Add(length)
	}
	return w[0].ready, until
}

func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}
