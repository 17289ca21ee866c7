package main

import (
	"fmt"
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// unmet says which conditions are False of a route or of the listeners of a Gateway, each once. Its proxies run such a resource as they
// should, so that nothing else shows that a backend or a certificate is missing. Of several only the first is said, which the others follow
// from. That a zone has no ingress for a listener which another one serves is no trouble.
func unmet(statuses []mesh.ResourceStatus) []string {
	served := map[string]bool{}
	for _, st := range statuses {
		for _, l := range st.Listeners {
			served[l.Name] = served[l.Name] || firstFalse(l.Conditions) == ""
		}
	}
	var out []string
	add := func(word string) {
		if word != "" && !slices.Contains(out, word) {
			out = append(out, word)
		}
	}
	for _, st := range statuses {
		add(firstFalse(st.Conditions))
		for _, l := range st.Listeners {
			if word := firstFalse(l.Conditions); word != "" && (word != notServed || !served[l.Name]) {
				add("listener " + l.Name + " " + word)
			}
		}
	}
	return out
}

// notServed is what firstFalse says of a listener that no ingress of a zone is asked to serve.
const notServed = "Programmed False (Pending)"

// firstFalse is the first condition that is False with its reason, empty if none is. That a listener is not Conflicted is as it should be.
func firstFalse(list []mesh.Condition) string {
	for _, c := range list {
		if c.Status == "False" && c.Type != "Conflicted" {
			return fmt.Sprintf("%s False (%s)", c.Type, c.Reason)
		}
	}
	return ""
}
