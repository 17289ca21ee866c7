package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

var (
	rangeOf = regexp.MustCompile(`from (-?[0-9][0-9.a-z]*) to ([0-9][0-9.a-z]*)`)
	mostOf  = regexp.MustCompile(`at most ([0-9.]+)$`)
	meantBy = regexp.MustCompile(`did you mean "([^"]+)"`)
)

// TestHintsAreTrue: what an error says would do, does. Every value of every golden document is replaced by one that can't be right; then each
// choice, each end of a range and each nearest word that the error names must be taken at the same place.
func TestHintsAreTrue(t *testing.T) {
	files, err := filepath.Glob("../xds/translate/testdata/*/input.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	tried := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var in struct {
			Resources []struct {
				Origin          mesh.Origin
				Kind            mesh.Kind
				Namespace, Name string
				Annotations     map[string]string
				Spec            json.RawMessage
			}
		}
		if err := yaml.Unmarshal(text, &in); err != nil {
			t.Fatal(file, err)
		}
		for _, r := range in.Resources {
			info, _ := policy.Lookup(string(r.Kind))
			res := mesh.Resource{Key: mesh.Key{Origin: r.Origin, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}, APIVersion: info.APIVersion, Annotations: r.Annotations, Spec: r.Spec}
			if policy.Validate(res) != nil {
				continue // of another time, or wrong on purpose
			}
			tried += hintsOf(t, filepath.Base(filepath.Dir(file)), res)
		}
	}
	if tried < 1000 {
		t.Errorf("only %d hints were tried", tried)
	}
	t.Logf("%d hints tried", tried)
}

// hintsOf replaces each value of a resource, and counts the hints that came of it.
func hintsOf(t *testing.T, file string, res mesh.Resource) (tried int) {
	t.Helper()
	var spec any
	if err := json.Unmarshal(res.Spec, &spec); err != nil || spec == nil {
		return 0
	}
	eachValue(spec, "/spec", func(pointer string, value any, set func(any)) {
		wrongAt := func(v any) []policy.FieldError {
			set(v)
			raw, err := json.Marshal(spec)
			set(value)
			if err != nil {
				t.Fatal(err)
			}
			other := res
			other.Spec = raw
			return slices.DeleteFunc(policy.Validate(other), func(f policy.FieldError) bool { return f.Pointer != pointer })
		}
		for _, v := range impossible(value) {
			for _, f := range wrongAt(v) {
				for _, better := range promised(f, value) {
					tried++
					for _, still := range wrongAt(better) {
						if still.Code == f.Code {
							t.Errorf("%s, %s %s: %v is refused with %q (hint %q, choices %v), and %v then with %q", file, res.Kind, pointer, v, f.Message, f.Hint, f.Choices, better, still.Message)
						}
					}
				}
			}
		}
	})
	return tried
}

// impossible are values that can't be right in place of one, of the same type.
func impossible(value any) []any {
	switch v := value.(type) {
	case string:
		out := []any{"no-such-thing", v + "x", ""}
		if _, err := time.ParseDuration(v); err == nil {
			out = append(out, "9999999h", "1ns", "0s")
		}
		return out
	case float64:
		return []any{-1, 0, v + 0.5, 1e6, 1e18, 1e40}
	}
	return nil
}

// promised are the values that an error says would do.
func promised(f policy.FieldError, was any) (out []any) {
	as := func(s string) {
		switch _, isNumber := was.(float64); {
		case isNumber:
			if n, err := strconv.ParseFloat(s, 64); err == nil {
				out = append(out, n)
			}
		default:
			out = append(out, s)
		}
	}
	for _, c := range f.Choices {
		as(c)
	}
	for _, text := range []string{f.Message, f.Hint} {
		if m := rangeOf.FindStringSubmatch(text); m != nil && !strings.Contains(text, "has no port") { // of an address the port alone
			as(m[1])
			as(m[2])
		}
		if m := mostOf.FindStringSubmatch(text); m != nil {
			as(m[1])
		}
		if m := meantBy.FindStringSubmatch(text); m != nil {
			as(m[1])
		}
	}
	return out
}

// eachValue calls f with every string and number within a value, and what sets it.
func eachValue(v any, at string, f func(pointer string, value any, set func(any))) {
	visit := func(at string, child any, set func(any)) {
		switch child.(type) {
		case string, float64:
			f(at, child, set)
		default:
			eachValue(child, at, f)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			visit(at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(k), child, func(x any) { v[k] = x })
		}
	case []any:
		for i, child := range v {
			visit(at+"/"+fmt.Sprint(i), child, func(x any) { v[i] = x })
		}
	}
}
