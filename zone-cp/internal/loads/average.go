package loads

import (
	"math"
	"strconv"
	"time"
)

const (
	// period is how often rates are looked at; proxies report as often.
	period = 2 * time.Second
	// remembered periods make an average.
	remembered = 5
)

// sample is what was sent in one direction, at one moment.
type sample struct {
	requests, failures float64 // a second
	active             float64
}

func (s sample) zero() bool { return s == sample{} }

// average is the mean of the last samples since the last real change: calm while traffic is steady, and at
// once where it went when it moves.
type average struct {
	samples []sample // the newest last
}

func (a *average) add(s sample) {
	if m := a.mean(); len(a.samples) > 0 && (moved(m.requests, s.requests) || moved(m.failures, s.failures)) {
		a.samples = a.samples[:0]
	}
	if len(a.samples) == remembered {
		a.samples = append(a.samples[:0], a.samples[1:]...)
	}
	a.samples = append(a.samples, s)
}

// moved tells a change of rate from chance: independent requests that come at a rate scatter about it by
// the root of their number.
func moved(mean, now float64) bool {
	expected := mean * period.Seconds()
	return math.Abs(now*period.Seconds()-expected) > 3*math.Sqrt(max(expected, 1))+1
}

func (a *average) mean() sample {
	var m sample
	for _, s := range a.samples {
		m.requests += s.requests
		m.failures += s.failures
		m.active += s.active
	}
	n := float64(max(len(a.samples), 1))
	return sample{m.requests / n, m.failures / n, m.active / n}
}

func (a *average) window() time.Duration { return time.Duration(len(a.samples)) * period }

// differs says whether now is worth telling to who knows old: it began, it ended, or it is another by a
// tenth and by more than chance makes in the window.
func differs(old, now sample, window time.Duration) bool {
	rate := func(old, now float64) bool {
		if old == 0 || now == 0 {
			return old != now
		}
		return math.Abs(now-old) > max(old/10, 2*math.Sqrt(old/window.Seconds()))
	}
	return rate(old.requests, now.requests) || rate(old.failures, now.failures) ||
		math.Abs(now.active-old.active) > max(2, old.active/4) || old.zero() != now.zero()
}

// significant rounds to three digits; what it returns prints as these.
func significant(v float64) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	if err != nil {
		return v // no number that strconv has written
	}
	return rounded
}
