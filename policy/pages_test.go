package policy_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// pageOf are the pages of docs/policies that are for two kinds; what only programs write has none, and how zones come and go is in
// docs/operations.md.
var pageOf = map[mesh.Kind]string{mesh.KindServiceExport: "service", mesh.KindGatewayClass: "gateway", mesh.KindZone: "", mesh.KindWorkload: ""}

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
			if !strings.Contains(string(text), field) && !strings.Contains(string(index), "`"+field+"`") {
				t.Errorf("docs/policies/%s.md does not name the field %q of %s", name, field, k.Kind)
			}
		}
	}
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
