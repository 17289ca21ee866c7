package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

func TestYAMLKeepsItsTypes(t *testing.T) {
	docs, _, err := decodeMany("application/yaml", []byte("kind: Zone\nspec: {a: 0x10, b: 1.50, c: 'yes', d: yes, e: true, f: null, g: 2026-01-02, h: 1_000, i: \"<&>\"}"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":16,"b":1.5,"c":"yes","d":"yes","e":true,"f":null,"g":"2026-01-02","h":1000,"i":"\u003c\u0026\u003e"}`
	if got := string(docs[0].obj.Spec); got != want {
		t.Errorf("spec %s", got)
	}
}

// TestTooMuchIsRefusedCheaply sends as much as a body may hold of the smallest values there are.
func TestTooMuchIsRefusedCheaply(t *testing.T) {
	fill := func(size int, head, part, tail string) string {
		return head + strings.Repeat(part, (size-len(head)-len(tail))/len(part)) + tail
	}
	for name, in := range map[string]struct{ contentType, body string }{
		"array":          {"application/json", fill(maxBody, "[", "{},", "{}]")},
		"numbers":        {"application/json", fill(maxBody, "[", "1,", "1]")},
		"list":           {"application/json", fill(maxBody, `{"kind":"List","items":[`, "{},", "{}]}")},
		"flow sequence":  {"application/yaml", fill(maxYAML, "[", "{},", "{}]")},
		"flow mapping":   {"application/yaml", fill(maxYAML, "{", "a,", "a}")},
		"block sequence": {"application/yaml", fill(maxYAML, "", "-\n", "")},
		"block mapping":  {"application/yaml", fill(maxYAML, "", "a:\n", "")},
		"nested":         {"application/yaml", fill(maxYAML, "", "[", "")},
		"documents":      {"application/yaml", fill(maxYAML, "", "---\n", "")},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(in.body)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := decodeMany(in.contentType, body)
			runtime.ReadMemStats(&after)
			var p *problem
			if !errors.As(err, &p) || p.Status != http.StatusRequestEntityTooLarge {
				t.Errorf("%v", err)
			}
			if spent := (after.TotalAlloc - before.TotalAlloc) >> 20; spent > 24 {
				t.Errorf("%d MiB were allocated for %d MiB", spent, len(body)>>20)
			}
		})
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add("application/json", []byte(`{"kind":"List","items":[{"kind":"Zone","metadata":{"name":"a"},"spec":{}}]}`))
	f.Add("application/yaml", []byte("a: &x [1, *x]\n---\n- {kind: Zone}\n---\n? [a]\n: b"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		docs, _, err := decodeMany(contentType, body)
		var p *problem
		switch {
		case err != nil && !errors.As(err, &p):
			t.Fatalf("an error that is no problem: %v", err)
		case err != nil && (p.Status < 400 || p.Status > 499):
			t.Fatalf("status %d for bad input", p.Status)
		}
		for _, d := range docs {
			if len(d.obj.Spec) > 0 && !json.Valid(d.obj.Spec) {
				t.Fatalf("spec %q", d.obj.Spec)
			}
		}
	})
}
