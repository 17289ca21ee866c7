package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// The codes of problems; they do not change between releases.
const (
	CodeMalformed        = "malformed"
	CodeUnauthenticated  = "unauthenticated"
	CodeForbidden        = "forbidden"
	CodeNotOwner         = "not_owner"
	CodeNotFound         = "not_found"
	CodeMethod           = "method_not_allowed"
	CodeExists           = "already_exists"
	CodeConflict         = "conflict"
	CodeAmbiguous        = "ambiguous_origin"
	CodeStale            = "stale"
	CodeTooLarge         = "too_large"
	CodeMediaType        = "unsupported_media_type"
	CodeInvalid          = "invalid"
	CodePrecondition     = "precondition_required"
	CodeTooMany          = "too_many_requests"
	CodeCompacted        = "cursor_compacted"
	CodeIncarnation      = "other_incarnation"
	CodeIdempotencyReuse = "idempotency_key_reused"
	CodeUnavailable      = "unavailable"
	CodeInternal         = "internal"
	CodeUnknownZone      = "unknown_zone" // of a field
)

// problem is an error answer. It is what handlers return.
type problem struct {
	client.Problem
	// Current is the resource as it is now, where a precondition failed.
	Current *client.Object `json:"current,omitempty"`

	header http.Header
}

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// fail makes a problem. try may be empty.
func fail(status int, code, try, format string, a ...any) *problem {
	return &problem{Problem: client.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: fmt.Sprintf(format, a...), Code: code, Try: try,
	}}
}

func (p *problem) with(header, value string) *problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(header, value)
	return p
}

// invalid is the 422 of documents with wrong fields.
func invalid(fields []client.ProblemField) *problem {
	p := fail(http.StatusUnprocessableEntity, CodeInvalid, "", "%d %s wrong; nothing was changed", len(fields), plural(len(fields), "field is", "fields are"))
	p.Errors = fields
	return p
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// fieldsAt prefixes the pointers of field errors with where their document lies, and adds where its kind documents them.
func fieldsAt(prefix string, kind mesh.Kind, in []policy.FieldError) []client.ProblemField {
	out := make([]client.ProblemField, 0, len(in))
	for _, f := range in {
		out = append(out, client.ProblemField{Pointer: prefix + f.Pointer, Code: f.Code, Message: f.Message, Hint: f.Hint, Choices: f.Choices, Docs: policy.Page(kind, f.Pointer)})
	}
	return out
}

// problemOf translates what the store and the policies say. Whatever is not for the asker is logged
// and hidden.
func problemOf(ctx context.Context, log *slog.Logger, err error) *problem {
	var p *problem
	var fields *policy.InvalidError
	var conflict *store.ConflictError
	relist := "list again and watch from the list's cursor"
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &fields):
		return invalid(fieldsAt("", "", fields.Fields))
	case errors.As(err, &conflict):
		p := fail(http.StatusConflict, CodeConflict, "read it again, decide again", "%s", conflict.Error())
		if conflict.Current != nil {
			o := toObject(*conflict.Current)
			p.Current = &o
		}
		return p
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, CodeNotFound, "", "there is no such resource")
	case errors.Is(err, store.ErrConflict):
		return fail(http.StatusConflict, CodeConflict, "try again", "somebody else was faster")
	case errors.Is(err, store.ErrCompacted):
		return fail(http.StatusGone, CodeCompacted, relist, "the changes after this cursor are no longer kept")
	case errors.Is(err, store.ErrIncarnation), errors.Is(err, store.ErrFuture):
		return fail(http.StatusGone, CodeIncarnation, relist, "the cursor belongs to another life of the store: it was restored")
	case errors.Is(err, store.ErrIdempotencyMismatch):
		return fail(http.StatusUnprocessableEntity, CodeIdempotencyReuse, "use a new key for a new request", "the idempotency key was used for another request")
	case errors.Is(err, store.ErrInvalid):
		return fail(http.StatusBadRequest, CodeMalformed, "", "%s", err.Error())
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed):
		log.ErrorContext(ctx, "the store can't serve", "error", err)
		return fail(http.StatusServiceUnavailable, CodeUnavailable, "try again; see the control plane's log", "the store can't serve now").with("Retry-After", "5")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fail(http.StatusServiceUnavailable, CodeUnavailable, "try again", "the request ended before its answer").with("Retry-After", "1")
	}
	log.ErrorContext(ctx, "a request failed", "error", err)
	return fail(http.StatusInternalServerError, CodeInternal, "see the control plane's log", "something is wrong on our side")
}

// transformError gives huma's own errors (parameters, missing or large bodies) the shape of ours.
func transformError(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := CodeInvalid
	switch m.Status {
	case http.StatusBadRequest:
		code = CodeMalformed
	case http.StatusRequestEntityTooLarge:
		code = CodeTooLarge
	case http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		code = CodeMediaType
	case http.StatusInternalServerError:
		code = CodeInternal
	}
	p := fail(m.Status, code, "", "%s", m.Detail)
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, client.ProblemField{
			Pointer: "/" + strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(e.Location), Code: CodeInvalid, Message: e.Message,
		})
	}
	return p, nil
}

// write answers outside of huma.
func (p *problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Title, p.Status)
		return
	}
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", problemType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client has gone; there is nobody to tell
}
