package policy_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// pageOf are the pages of docs/policies that are for two kinds; what only programs write has none.
var pageOf = map[mesh.Kind]string{mesh.KindServiceExport: "service", mesh.KindGatewayClass: "gateway", mesh.KindWorkload: ""}

// TestPages holds the pages of docs/policies to the code: each kind has one, it or the index names every field of
// Comity's own specs, and the index names the page.
func TestPages(t *testing.T) {
	index, err := os.ReadFile("../docs/policies/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range policy.Kinds() {
		name, special := pageOf[k.Kind]
		if special && name == "" {
			continue
		}
		if !special {
			name = k.Singular
		}
		text, err := os.ReadFile("../docs/policies/" + name + ".md")
		if err != nil {
			t.Errorf("%s has no page: %v", k.Kind, err)
			continue
		}
		if !strings.Contains(string(index), "("+name+".md)") {
			t.Errorf("docs/policies/README.md does not name %s.md", name)
		}
		spec, err := policy.Decode(k.Kind, []byte("{}"))
		if err != nil {
			t.Fatal(k.Kind, err)
		}
		for _, field := range fieldsOf(reflect.TypeOf(spec), map[reflect.Type]bool{}) {
			if !slices.Contains(spans(string(text)), field) && !slices.Contains(spans(string(index)), field) {
				t.Errorf("docs/policies/%s.md does not name the field %q of %s", name, field, k.Kind)
			}
		}
	}
}

// spans are the words in the code spans of a page, which are where it says what fields are: not those of its prose or its examples.
func spans(page string) (words []string) {
	for i, block := range strings.Split(page, "```") {
		for j, span := range strings.Split(block, "`") {
			if i%2 == 0 && j%2 == 1 {
				words = append(words, strings.FieldsFunc(span, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })...)
			}
		}
	}
	return words
}

// TestPagePointers: what errors point at is there. Each field of each kind leads to a heading, and where a heading is named after the field, to that one.
func TestPagePointers(t *testing.T) {
	anchors := map[string][]string{}
	anchorsOf := func(page string) []string {
		if anchors[page] == nil {
			text, err := os.ReadFile("../" + page)
			if err != nil {
				t.Fatal(err)
			}
			anchors[page] = []string{""}
			for line := range strings.Lines(string(text)) {
				if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
					anchors[page] = append(anchors[page], slug(heading))
				}
			}
		}
		return anchors[page]
	}
	look := func(kind mesh.Kind, pointer string) string {
		page, anchor, _ := strings.Cut(policy.Page(kind, pointer), "#")
		if !slices.Contains(anchorsOf(page), anchor) {
			t.Errorf("%s %s: %s has no heading #%s", kind, pointer, page, anchor)
		}
		return anchor
	}
	look("Nothing", "/kind")
	for _, k := range policy.Kinds() {
		look(k.Kind, "/metadata/name")
		spec, err := policy.Decode(k.Kind, []byte("{}"))
		if err != nil {
			t.Fatal(k.Kind, err)
		}
		page, _, _ := strings.Cut(policy.Page(k.Kind, "/spec"), "#")
		for f := range reflect.TypeOf(spec).Elem().Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			anchor := look(k.Kind, "/spec/"+name+"/0")
			if own := strings.ToLower(name); own != "" && slices.Contains(anchorsOf(page), own) && anchor != own {
				t.Errorf("%s has a heading for %s, and errors point at #%s", page, name, anchor)
			}
		}
	}
}

// slug is the anchor of a heading.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

// fieldsOf are the names of all fields below a type that are of this module.
func fieldsOf(t reflect.Type, seen map[reflect.Type]bool) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return fieldsOf(t.Elem(), seen)
	case reflect.Struct:
	default:
		return nil
	}
	if seen[t] || !strings.HasPrefix(t.PkgPath(), "github.com/comity-mesh/comity/") {
		return nil
	}
	seen[t] = true
	var out []string
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			out = append(out, name)
		}
		out = append(out, fieldsOf(f.Type, seen)...)
	}
	return out
}
