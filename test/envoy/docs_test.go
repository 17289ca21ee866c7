package envoy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
)

// TestDocumented applies every example of docs/policies as it stands there, to what the examples before it on its page have made: it is
// valid, real Envoys take what comes of it, and in one of two zones at least it takes effect without a complaint. What the examples do is
// shown by the tests of their features.
func TestDocumented(t *testing.T) {
	pages, err := filepath.Glob("../../docs/policies/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	// Statuses that examples have because the world has less than they name.
	lacks := map[string]string{
		"Extension/guard":             "it asks service guard",
		"Extension/patch":             "risk:",
		"ExternalService/bank":        "and there is none",
		"ExternalService/partner":     "of the zones of exit.zones not all can be used",
		"FailoverPolicy/pay":          "which is not known here",
		"TrafficPolicy/shared-limits": "it asks service quota",
	}
	w := newWorld(t)
	for _, page := range pages {
		if filepath.Base(page) == "README.md" {
			continue // says what all have in common
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			examples := 0
			var made []string // documents, each of another resource
			for i, block := range strings.Split(string(text), "```") {
				if doc, ok := strings.CutPrefix(block, "yaml\n"); ok && i%2 == 1 {
					examples++
					for _, d := range strings.Split(doc, "\n---") {
						made = append(slices.DeleteFunc(made, func(was string) bool { return named(t, was) == named(t, d) }), d)
					}
					w.apply(t, strings.Join(made, "\n---\n"))
					of := w.complaints()
					for _, d := range strings.Split(doc, "\n---") {
						name := named(t, d)
						if is, ok := of[name]; ok && (lacks[name] == "" || !strings.Contains(is, lacks[name])) {
							t.Errorf("%s has no effect in either zone: %s", name, is)
						}
					}
				}
			}
			if examples == 0 {
				t.Error("the page has no example")
			}
		})
	}
}

// named is the kind and name of a document's resource; a page calls no two of a kind alike in two namespaces.
func named(t *testing.T, doc string) string {
	t.Helper()
	var r struct {
		Kind     mesh.Kind
		Metadata struct{ Name string }
	}
	if err := yaml.Unmarshal([]byte(doc), &r); err != nil {
		t.Fatalf("%s\n%v", doc, err)
	}
	return string(r.Kind) + "/" + r.Metadata.Name
}

// complaints are what both zones say against a resource, by its kind and name.
func (w *world) complaints() map[string]string {
	_, issues := w.topologies()
	first := map[string]string{}
	for _, i := range issues[0] {
		first[string(i.Key.Kind)+"/"+i.Key.Name] += i.Message + "; "
	}
	both := map[string]string{}
	for _, i := range issues[1] {
		name := string(i.Key.Kind) + "/" + i.Key.Name
		if first[name] != "" {
			both[name] = first[name] + i.Message
		}
	}
	return both
}
