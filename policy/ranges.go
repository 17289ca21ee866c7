package policy

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// ownRanges has numbers that do not fit the type of their field be refused with what the field itself takes: that a port is a 32-bit number is
// nothing that helps anybody. What a field takes only its validation knows, so it is asked with the ends of the type in place of the numbers.
func ownRanges(info KindInfo, res mesh.Resource, fields []FieldError) {
	tree, bad := parse("/spec", res.Spec, MaxSpecBytes)
	if bad != nil {
		return
	}
	asked := func(end func(wide [2]string) string) []FieldError {
		for _, f := range fields {
			if f.wide != [2]string{} {
				setNumber(tree, strings.Split(strings.TrimPrefix(f.Pointer, "/spec/"), "/"), json.Number(end(f.wide)))
			}
		}
		raw, err := json.Marshal(tree)
		if err != nil {
			return nil
		}
		spec, err := Decode(info.Kind, raw)
		if err != nil {
			return nil // something else is wrong with it
		}
		r := &report{}
		other := res
		other.Spec = raw
		info.validate(r, other, spec)
		return r.fields
	}
	said := append(asked(func(w [2]string) string { return w[1] }), asked(func(w [2]string) string { return w[0] })...)
	for i, f := range fields {
		if f.wide == [2]string{} {
			continue
		}
		for _, own := range said {
			if own.Pointer == f.Pointer && strings.ContainsAny(own.Message, "0123456789") {
				fields[i].Message = own.Message
				break
			}
		}
		if f.fraction {
			fields[i].Message = strings.Replace(strings.Replace(fields[i].Message, "must be a number ", "must be ", 1), "must be ", "must be a whole number, ", 1)
		}
	}
}

// setNumber puts a number where a pointer leads in what was parsed.
func setNumber(tree any, tokens []string, n json.Number) {
	for i, token := range tokens {
		last := i == len(tokens)-1
		switch v := tree.(type) {
		case map[string]any:
			token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
			if last {
				v[token] = n
				return
			}
			tree = v[token]
		case []any:
			at, err := strconv.Atoi(token)
			if err != nil || at >= len(v) {
				return
			}
			if last {
				v[at] = n
				return
			}
			tree = v[at]
		default:
			return
		}
	}
}
