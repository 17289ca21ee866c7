package config

import (
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// field is one key: a leaf of the configuration type.
type field struct {
	key    string // as in listen.api
	index  []int  // for reflect.Value.FieldByIndex
	typ    reflect.Type
	usage  string
	secret bool
}

// fieldsOf lists the leaves of a struct type in order. A nil-able nested struct (a pointer) is one leaf,
// written as YAML.
func fieldsOf(t reflect.Type) []field {
	var out []field
	var walk func(t reflect.Type, prefix string, index []int)
	walk = func(t reflect.Type, prefix string, index []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "-" {
				continue
			}
			if name == "" {
				name = f.Name
			}
			at := append(slices.Clone(index), i)
			if f.Type.Kind() == reflect.Struct && !reflect.PointerTo(f.Type).Implements(textType) {
				walk(f.Type, prefix+name+".", at)
				continue
			}
			out = append(out, field{
				key: prefix + name, index: at, typ: f.Type,
				usage: f.Tag.Get("usage"), secret: f.Tag.Get("secret") == "true",
			})
		}
	}
	walk(t, "", nil)
	return out
}

// composite says that the field's text form is YAML.
func (f field) composite() bool {
	switch f.typ.Kind() {
	case reflect.Slice, reflect.Map, reflect.Pointer, reflect.Array:
		return !f.typ.Implements(textType) && !reflect.PointerTo(f.typ).Implements(textType)
	}
	return false
}

// scalarList says that the field may also be written as a,b.
func (f field) scalarList() bool {
	if f.typ.Kind() != reflect.Slice {
		return false
	}
	switch f.typ.Elem().Kind() {
	case reflect.String, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return true
	}
	return false
}

func (f field) kindName() string {
	switch {
	case f.typ == durationType:
		return "duration"
	case f.scalarList():
		return "list"
	case f.composite():
		return "yaml"
	case f.typ.Kind() == reflect.Struct:
		return "text"
	}
	return f.typ.Kind().String()
}

// envName is the key in upper case, parts joined by "__", words of a part by "_": listen.restAddress is
// LISTEN__REST_ADDRESS.
func (f field) envName() string {
	return strings.ToUpper(strings.ReplaceAll(words(f.key, '_'), ".", "__"))
}

// flagName is listen-rest-address.
func (f field) flagName() string { return strings.ReplaceAll(words(f.key, '-'), ".", "-") }

func envPrefix(program string) string {
	return "COMITY_" + strings.ToUpper(strings.ReplaceAll(program, "-", "_")) + "_"
}

// words parts camelCase into lower-case words: caTTL and restAddress become ca-ttl and rest-address.
func words(s string, sep rune) string {
	var b strings.Builder
	r := []rune(s)
	for i, c := range r {
		if unicode.IsUpper(c) && i > 0 && r[i-1] != '.' &&
			(!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteRune(sep)
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// leaves lists the keys of everything in the tree that is no map, and of empty maps, in order.
func leaves(tree map[string]any) []string {
	var out []string
	var walk func(tree map[string]any, prefix string)
	walk = func(tree map[string]any, prefix string) {
		for k, v := range tree {
			if sub, ok := v.(map[string]any); ok && len(sub) > 0 {
				walk(sub, prefix+k+".")
				continue
			}
			out = append(out, prefix+k)
		}
	}
	walk(tree, "")
	slices.Sort(out)
	return out
}

func names(m map[string]field) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
