package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// Bounds of a spec.
const (
	MaxSpecBytes = 256 << 10
	MaxSpecDepth = 32
)

// Decode reads the spec of a kind strictly: a field that the kind does not have, a name in the wrong
// case, a field given twice, a value of the wrong type, or more than MaxSpecBytes or MaxSpecDepth are
// refused with an *InvalidError whose pointers begin with "/spec". A null is as if the field were not
// there; an empty spec is an empty object. The result is a pointer to the kind's type: *Zone,
// *MeshConfig, *Service, *Workload, *ServiceExport, *HTTPRoute, *AuthorizationPolicy or *FailoverPolicy.
//
// Decode does not say whether the values make sense; Validate does.
func Decode(kind mesh.Kind, spec json.RawMessage) (any, error) {
	info, ok := exactKind(kind)
	if !ok {
		return nil, &InvalidError{Fields: []FieldError{{
			Pointer: "/kind", Code: CodeUnknownKind, Message: fmt.Sprintf("there is no kind %q", kind), Choices: kindNames(),
		}}}
	}
	out := info.newSpec()
	if err := DecodeStrict("/spec", spec, MaxSpecBytes, out); err != nil {
		return nil, err
	}
	return out, nil
}

// DecodeStrict reads JSON of at most maxBytes and MaxSpecDepth levels into out, a pointer to a struct, as strictly as Decode.
// A field whose type reads its own JSON, such as json.RawMessage, takes whatever is there. base is
// the pointer of the whole value in the errors. Empty data leave out as it is.
func DecodeStrict(base string, data json.RawMessage, maxBytes int, out any) error {
	tree, fields := parse(base, data, maxBytes)
	if fields != nil {
		return &InvalidError{Fields: fields}
	}
	r := &report{}
	checkShape(r, base, reflect.TypeOf(out).Elem(), tree)
	if len(r.fields) > 0 {
		return &InvalidError{Fields: r.fields}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	// The shape was checked, so this can only fail on what a type's own UnmarshalJSON refuses.
	if err := json.Unmarshal(data, out); err != nil {
		return &InvalidError{Fields: []FieldError{{Pointer: base, Code: CodeInvalid, Message: err.Error()}}}
	}
	return nil
}

// DecodeAs is Decode for a caller that knows the type, as in DecodeAs[Service](res).
func DecodeAs[T any](res mesh.Resource) (*T, error) {
	v, err := Decode(res.Kind, res.Spec)
	if err != nil {
		return nil, err
	}
	t, ok := v.(*T)
	if !ok {
		return nil, fmt.Errorf("kind %s is a %T, not a %T", res.Kind, v, new(T))
	}
	return t, nil
}

// Canonical writes a spec in the one form in which equal specs are equal bytes: members sorted, no
// space, nulls left out of objects, numbers in their shortest form. It needs no knowledge of the kind.
func Canonical(spec json.RawMessage) (json.RawMessage, error) {
	tree, fields := parse("/spec", spec, MaxSpecBytes)
	if fields != nil {
		return nil, &InvalidError{Fields: fields}
	}
	if tree == nil {
		return json.RawMessage("{}"), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(tree); err != nil {
		return nil, fmt.Errorf("canonical form: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func exactKind(kind mesh.Kind) (KindInfo, bool) {
	for _, k := range Kinds() {
		if k.Kind == kind {
			return k, true
		}
	}
	return KindInfo{}, false
}

// parse reads bounded JSON into maps, slices, strings, bools and json.Numbers, without nulls in maps.
func parse(base string, data json.RawMessage, maxBytes int) (any, []FieldError) {
	fail := func(code, pointer, format string, a ...any) (any, []FieldError) {
		return nil, []FieldError{{Pointer: pointer, Code: code, Message: fmt.Sprintf(format, a...)}}
	}
	if len(data) > maxBytes {
		return fail(CodeTooLarge, base, "has %d bytes; at most %d are allowed", len(data), maxBytes)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	tree, err := p.value(base, 0)
	if err == nil {
		if _, more := p.dec.Token(); !errors.Is(more, io.EOF) {
			err = &parseError{CodeMalformed, base, "there is something after the end of the document"}
		}
	}
	if pe := (*parseError)(nil); errors.As(err, &pe) {
		return fail(pe.code, pe.pointer, "%s", pe.message)
	}
	if err != nil {
		return fail(CodeMalformed, base, "not JSON: %v", err)
	}
	return tree, nil
}

type parser struct{ dec *json.Decoder }

type parseError struct{ code, pointer, message string }

func (e *parseError) Error() string { return e.message }

func (p *parser) value(at string, depth int) (any, error) {
	if depth > MaxSpecDepth {
		return nil, &parseError{CodeTooLarge, at[:min(len(at), 256)], fmt.Sprintf("nested deeper than %d levels", MaxSpecDepth)}
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", p.dec.InputOffset(), err)
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '{' {
			return p.object(at, depth)
		}
		list := []any{}
		for p.dec.More() {
			v, err := p.value(ptr(at, len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := p.dec.Token()
		return list, err
	case json.Number:
		return shortest(t), nil
	}
	return tok, nil
}

func (p *parser) object(at string, depth int) (any, error) {
	obj := map[string]any{}
	seen := map[string]bool{}
	for p.dec.More() {
		tok, err := p.dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := tok.(string)
		if !ok {
			return nil, &parseError{CodeMalformed, at, "a member needs a name"}
		}
		if seen[name] {
			return nil, &parseError{CodeDuplicate, ptr(at, name), fmt.Sprintf("%q is given twice", name)}
		}
		seen[name] = true
		v, err := p.value(ptr(at, name), depth+1)
		if err != nil {
			return nil, err
		}
		if v != nil {
			obj[name] = v
		}
	}
	_, err := p.dec.Token()
	return obj, err
}

// shortest keeps integers as they are and writes other numbers as encoding/json writes a float64.
func shortest(n json.Number) json.Number {
	if _, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return n
	}
	f, err := n.Float64()
	if err != nil || math.IsInf(f, 0) {
		return n
	}
	b, err := json.Marshal(f)
	if err != nil {
		return n
	}
	return json.Number(b)
}

// checkShape reports where a JSON value does not fit a Go type.
func checkShape(r *report, at string, t reflect.Type, v any) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if v == nil || r.full() {
		return
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return
	}
	wrong := func(want string) {
		r.add(FieldError{Pointer: at, Code: CodeWrongType, Message: fmt.Sprintf("must be %s, not %s", want, jsonType(v))})
	}
	switch t.Kind() {
	case reflect.Struct:
		obj, ok := v.(map[string]any)
		if !ok {
			wrong("an object")
			return
		}
		checkObject(r, at, t, obj)
	case reflect.Map:
		obj, ok := v.(map[string]any)
		if !ok {
			wrong("an object")
			return
		}
		for _, name := range sortedKeys(obj) {
			checkShape(r, ptr(at, name), t.Elem(), obj[name])
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			wrong("a list")
			return
		}
		for i, e := range list {
			if e == nil {
				r.add(FieldError{Pointer: ptr(at, i), Code: CodeWrongType, Message: "an item of a list can't be null"})
			}
			checkShape(r, ptr(at, i), t.Elem(), e)
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			wrong("a string")
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			wrong("true or false")
		}
	default:
		checkNumber(r, at, t, v, wrong)
	}
}

func checkNumber(r *report, at string, t reflect.Type, v any, wrong func(string)) {
	n, ok := v.(json.Number)
	if !ok {
		wrong("a number")
		return
	}
	var err error
	var ends [2]string
	switch {
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		_, err = strconv.ParseInt(n.String(), 10, t.Bits())
		ends = [2]string{strconv.FormatInt(-(int64(1) << (t.Bits() - 1)), 10), strconv.FormatInt(int64(1)<<(t.Bits()-1)-1, 10)}
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		_, err = strconv.ParseUint(n.String(), 10, t.Bits())
		ends = [2]string{"0", strconv.FormatUint(min(uint64(math.MaxUint64)>>(64-t.Bits()), math.MaxInt64), 10)} // more is no number that is kept exactly
	default:
		if _, err = strconv.ParseFloat(n.String(), 64); err != nil {
			r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: fmt.Sprintf("must be a number that a 64-bit float holds, not %s", clip(n.String()))})
		}
		return
	}
	if err != nil {
		f, notFloat := strconv.ParseFloat(n.String(), 64)
		r.add(FieldError{
			Pointer: at, Code: CodeOutOfRange, Message: fmt.Sprintf("must be a number from %s to %s, not %s", ends[0], ends[1], clip(n.String())),
			wide: ends, fraction: notFloat == nil && f != math.Trunc(f),
		})
	}
}

func checkObject(r *report, at string, t reflect.Type, obj map[string]any) {
	known := map[string]reflect.Type{}
	jsonFields(t, known)
	for _, name := range sortedKeys(obj) {
		ft, ok := known[name]
		if ok {
			checkShape(r, ptr(at, name), ft, obj[name])
			continue
		}
		f := FieldError{Pointer: ptr(at, name), Code: CodeUnknownField, Message: fmt.Sprintf("there is no field %q here", clip(name)), Choices: sortedKeys(known)}
		f.suggest(name)
		r.add(f)
	}
}

// jsonFields maps the JSON names of a struct to their types, embedded structs included.
func jsonFields(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			jsonFields(f.Type, into)
		case name != "":
			into[name] = f.Type
		default:
			into[f.Name] = f.Type
		}
	}
}

func jsonType(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "true or false"
	}
	return "a number"
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// clip shortens what is echoed to a sender of nonsense.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}
