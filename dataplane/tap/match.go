package tap

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// matcher decides what is shown to one watch.
type matcher struct {
	tap      mesh.Tap
	from, to end
}

// end is `[NAMESPACE/]NAME[@ZONE]`; what is empty is any.
type end struct{ namespace, name, zone string }

func newMatcher(t mesh.Tap) matcher {
	return matcher{tap: t, from: parseEnd(t.Filter.From), to: parseEnd(t.Filter.To)}
}

func parseEnd(s string) (e end) {
	s, e.zone, _ = strings.Cut(s, "@")
	if namespace, name, ok := strings.Cut(s, "/"); ok {
		e.namespace, e.name = namespace, name
		return e
	}
	e.name = s
	return e
}

func (e end) matches(x mesh.TapEnds) bool {
	return (e.zone == "" || e.zone == x.Zone) && (e.namespace == "" || e.namespace == x.Namespace) && (e.name == "" || e.name == x.Name)
}

func (m matcher) matches(r mesh.TapRequest, headers map[string]string) bool {
	f := m.tap.Filter
	if s := m.tap.Service; s != "" && (r.Destination.Name != s || r.Destination.Namespace != m.tap.Namespace || !m.sideOf(r.Side)) {
		return false
	}
	return (len(f.Methods) == 0 || slices.Contains(f.Methods, r.Method)) &&
		(f.Path == "" || r.Method != "" && strings.HasPrefix(r.Path, f.Path)) &&
		(len(f.Status) == 0 || slices.ContainsFunc(f.Status, func(s string) bool { return hasStatus(r.Status, s) })) &&
		m.from.matches(r.Source) && m.to.matches(r.Destination) && hasHeaders(headers, f.Headers)
}

// sideOf reports whether a request of a service is looked for where it was told.
func (m matcher) sideOf(s mesh.TapSide) bool {
	return (s == mesh.TapServer) == (m.tap.Side != mesh.TapClient)
}

func hasStatus(status uint32, pattern string) bool {
	have := strconv.FormatUint(uint64(status), 10)
	return have == pattern || strings.HasSuffix(pattern, "xx") && len(have) == 3 && have[0] == pattern[0]
}

func hasHeaders(have, want map[string]string) bool {
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// knownHeaders adds the headers of an entry that have a field of their own.
func knownHeaders(named map[string]string, more map[string]string) map[string]string {
	out := maps.Clone(named)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range more {
		if v != "" {
			out[k] = v
		}
	}
	return out
}
