package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/internal/nearest"
)

// FieldError says what is wrong with one field of a document.
type FieldError struct {
	// Pointer is an RFC 6901 JSON pointer into the whole document: "/spec/ports/0/port".
	Pointer string `json:"pointer"`
	// Code is one of the constants below; it does not change between releases.
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`    // what to try
	Choices []string `json:"choices,omitempty"` // all values that would do, where they can be listed

	wide     [2]string // of a number that does not fit the type of its field: the ends of that type
	fraction bool      // of such a number: it is not whole, as the field's are
}

// suggest hints at the choice that was probably meant.
func (f *FieldError) suggest(typed string) {
	if near := nearest.Word(typed, f.Choices); near != "" {
		f.Hint = fmt.Sprintf("did you mean %q?", near)
	}
}

// The codes of field errors.
const (
	CodeMalformed    = "malformed"     // not JSON
	CodeTooLarge     = "too_large"     // more bytes, items or levels than allowed
	CodeUnknownField = "unknown_field" // no such field
	CodeWrongType    = "wrong_type"    // a string where a number belongs, and the like
	CodeRequired     = "required"
	CodeInvalid      = "invalid"
	CodeDuplicate    = "duplicate"
	CodeOutOfRange   = "out_of_range"
	CodeUnsupported  = "unsupported" // valid for the API it comes from, not built here
	CodeUnknownKind  = "unknown_kind"
)

// InvalidError is what Decode returns for a spec that can't be read. Fields is never empty.
type InvalidError struct{ Fields []FieldError }

func (e *InvalidError) Error() string {
	f := e.Fields[0]
	s := f.Pointer + ": " + f.Message
	if n := len(e.Fields) - 1; n > 0 {
		s += " (and " + strconv.Itoa(n) + " more)"
	}
	return s
}

// maxFieldErrors bounds an answer: a hostile document must not buy a huge one.
const maxFieldErrors = 50

// report collects field errors, at most maxFieldErrors.
type report struct{ fields []FieldError }

func (r *report) add(f FieldError) {
	if len(r.fields) < maxFieldErrors {
		r.fields = append(r.fields, f)
	}
}

func (r *report) full() bool { return len(r.fields) >= maxFieldErrors }

// ptr extends a JSON pointer with one field name or index.
func ptr[T string | int](base string, token T) string {
	switch t := any(token).(type) {
	case int:
		return base + "/" + strconv.Itoa(t)
	case string:
		if strings.ContainsAny(t, "~/") {
			t = strings.ReplaceAll(strings.ReplaceAll(t, "~", "~0"), "/", "~1")
		}
		return base + "/" + t
	}
	return base
}
