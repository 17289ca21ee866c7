package failover

import (
	"time"

	"github.com/comity-mesh/comity/policy"
)

const (
	// rampSteps: each takes a fiftieth of a zone's traffic away, which no receiver feels as a blow.
	rampSteps = 50
	// leastStep bounds what a short drain costs: five changes of endpoints a second.
	leastStep = 200 * time.Millisecond
)

// drain is how far the drain of a zone has come: from Level at At, in the direction that Draining says. It survives a restart,
// so a ramp goes on where it would be by now.
type drain struct {
	Draining bool          `json:"draining"`
	Over     time.Duration `json:"over"` // of the whole way
	Level    float64       `json:"level"`
	At       time.Time     `json:"at"`
}

// follow turns to what global asks for; nil is no drain. It reports whether that is something else than before.
func (d *drain) follow(spec *policy.Drain, now time.Time) bool {
	switch {
	case spec != nil && (!d.Draining || d.Over != spec.Length()):
		*d = drain{Draining: true, Over: spec.Length(), Level: d.level(now), At: now}
	case spec == nil && d.Draining:
		*d = drain{Over: d.Over, Level: d.level(now), At: now}
	default:
		return false
	}
	return true
}

// level is how much of the zone's traffic is taken from it, 0 to 1, in steps.
func (d *drain) level(now time.Time) float64 {
	elapsed := max(now.Sub(d.At), 0)
	moved := 1.0
	if elapsed < d.Over {
		moved = float64(elapsed-elapsed%d.step()) / float64(d.Over)
	}
	if d.Draining {
		return min(d.Level+moved, 1)
	}
	return max(d.Level-moved, 0)
}

func (d *drain) step() time.Duration { return max(d.Over/rampSteps, leastStep) }

// next is when the level changes; false when it has arrived.
func (d *drain) next(now time.Time) (time.Time, bool) {
	if l := d.level(now); d.Draining && l == 1 || !d.Draining && l == 0 {
		return time.Time{}, false
	}
	elapsed, step := max(now.Sub(d.At), 0), d.step()
	return d.At.Add(min(elapsed-elapsed%step+step, d.Over)), true
}
