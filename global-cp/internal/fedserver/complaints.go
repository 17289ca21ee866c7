package fedserver

import (
	"fmt"
	"maps"
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// maxComplaints bounds what is remembered of one session; more are counted in the log and the metric alone.
const maxComplaints = 100

// complaints are statements and statuses that are refused now, with the reason, for the zone's message: what was refused
// last of a subject holds until a later word of the subject is taken.
type complaints map[string]string

// about names a statement for people.
func about(kind, subject string) string {
	return "statement " + printableText(kind) + " " + printableText(subject)
}

// settle notes how a statement was answered, and shows it; an empty reason is that it was taken.
func (x *session) settle(what, reason string) {
	old, complained := x.complaints[what]
	if old == reason || reason == "" && !complained || reason != "" && !complained && len(x.complaints) >= maxComplaints {
		return
	}
	if reason == "" {
		delete(x.complaints, what)
	} else {
		x.complaints[what] = reason
	}
	message := x.complaints.message()
	x.server.late.change(x.zone, func(z *mesh.ZoneStatus) { z.Message = message })
}

// message is the complaints in one line.
func (c complaints) message() string {
	keys := slices.Sorted(maps.Keys(c))
	if len(keys) == 0 {
		return ""
	}
	line := fmt.Sprintf("refused: %s: %.300s", keys[0], c[keys[0]])
	if n := len(keys) - 1; n > 0 {
		line += fmt.Sprintf(" (and %d more)", n)
	}
	return line
}
