package history

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// good is a history of three calls, one after the other, that create three resources, and a count.
func good() (*recorded, *final) {
	h := &recorded{calls: map[string]*call{}, watched: make([][]event, 1)}
	f := &final{resources: map[string]mesh.Resource{}, histories: map[string][]store.HistoryEntry{}, counter: 1}
	for i, id := range []string{"a", "b", "c"} {
		rev, name := mesh.Revision(i+1), "r"+strconv.Itoa(i)
		r := mesh.Resource{Key: key(name), UID: id, Revision: rev, Spec: json.RawMessage(strconv.Quote(id))}
		c := store.Commit{Cursor: mesh.Cursor{Incarnation: "x", Revision: rev}, Actor: id, Changes: []store.Change{{Resource: r}}}
		op := Op{ID: id, Writes: []Write{{Name: name, IfRevision: new(mesh.Revision)}}}
		h.calls[id] = &call{op: op, begun: 1, first: 10 * i, ended: 10*i + 5, end: &event{ID: id, Revision: rev, Changed: true}}
		h.watched[0] = append(h.watched[0], event{Cursor: c.Cursor, Actor: id, Hash: hashOf(c)})
		f.log = append(f.log, c)
		f.resources[name] = r
		f.histories[name] = []store.HistoryEntry{{Revision: rev, RequestID: id, After: &r}}
	}
	h.calls["n"] = &call{op: Op{ID: "n", Count: true}, begun: 1, end: &event{ID: "n", Revision: 1}}
	return h, f
}

// A checker that finds nothing proves nothing: each of these histories is wrong in one way.
func TestCheckFinds(t *testing.T) {
	if h, f := good(); h.check(f) != nil {
		t.Fatalf("nothing is wrong, and it says %v", h.check(f))
	}
	for want, spoil := range map[string]func(h *recorded, f *final){
		"lost: c was acknowledged":  func(_ *recorded, f *final) { f.log = f.log[:2] },
		"repeated: a":               func(_ *recorded, f *final) { f.log[2].Actor = "a" },
		"which nobody called":       func(_ *recorded, f *final) { f.log[1].Actor = "z" },
		"has revision 3 at place 2": func(_ *recorded, f *final) { f.log[1].Cursor.Revision = 3 },
		"reordered: b ended":        func(h *recorded, _ *final) { h.calls["a"].first, h.calls["a"].ended = 90, 95 },
		"was refused":               func(h *recorded, _ *final) { h.calls["b"].end.Changed = false },
		"has not ended":             func(h *recorded, _ *final) { h.calls["b"].end = nil },
		"on the condition":          func(h *recorded, _ *final) { *h.calls["c"].op.Writes[0].IfRevision = 7 },
		"child 0 watched x:3 of c":  func(h *recorded, _ *final) { h.watched[0] = append(h.watched[0][:1], h.watched[0][2]) },
		"child 0 watched x:1 of a":  func(h *recorded, _ *final) { h.watched[0][1] = h.watched[0][0] },
		"the history of r1 lacks":   func(_ *recorded, f *final) { f.histories["r1"] = nil },
		"the history of r1 has 2":   func(_ *recorded, f *final) { f.histories["r1"] = append(f.histories["r1"], f.histories["r1"][0]) },
		"the log says 1":            func(_ *recorded, f *final) { delete(f.resources, "r0") },
		"the counter is at 0":       func(_ *recorded, f *final) { f.counter = 0 },
	} {
		h, f := good()
		spoil(h, f)
		if err := h.check(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: it says %v", want, err)
		}
	}
	h, f := good()
	h.calls["m"] = &call{op: Op{ID: "m", Count: true}, begun: 1, end: &event{ID: "m", Revision: 1}}
	if err := h.check(f); err == nil || !strings.Contains(err.Error(), "both counted to 1") {
		t.Errorf("two counts to one number: it says %v", err)
	}
}
