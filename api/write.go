package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// WriteInput is what every writing request may say beside its body.
type WriteInput struct {
	DryRun         string `query:"dryRun" enum:"All" doc:"All: say what would happen, change nothing."`
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"200" doc:"A repeated request with the same key answers the first result, for 24 h."`
	Reason         string `header:"Comity-Reason" maxLength:"2048" doc:"Why, for the history; percent-encoded where it is not ASCII."`
	UserAgent      string `header:"User-Agent"`
}

// batch begins a batch in the asker's name.
func (s *server) batch(ctx context.Context, w WriteInput) (store.Batch, error) {
	p, _ := s.authz.Principal(ctx)
	b := store.Batch{Actor: p.Actor(), Source: "api", DryRun: w.DryRun == "All", Reason: w.Reason}
	if strings.HasPrefix(w.UserAgent, "comity/") {
		b.Source = "cli"
	}
	if plain, err := url.PathUnescape(w.Reason); err == nil {
		b.Reason = plain
	}
	if len(b.Reason) > 512 || strings.IndexFunc(b.Reason, unicode.IsControl) >= 0 {
		return b, fail(http.StatusBadRequest, CodeMalformed, "", "Comity-Reason must be at most 512 bytes without control characters")
	}
	if w.IdempotencyKey != "" {
		// One asker's key is no business of another's.
		sum := sha256.Sum256([]byte(b.Actor + "\x00" + w.IdempotencyKey))
		b.IdempotencyKey = hex.EncodeToString(sum[:16])
	}
	return b, nil
}

// mayWrite says whether a document may be written here by a user, and fills in the origin.
func (s *server) mayWrite(res *mesh.Resource) *problem {
	if res.Origin != "" && res.Origin != s.cfg.Origin {
		return notOwner(res.Key)
	}
	res.Origin = s.cfg.Origin
	kind, ok := policy.Lookup(string(res.Kind))
	if !ok || kind.Kind != res.Kind {
		return nil // the validation says it better
	}
	switch {
	case kind.MadeAt == policy.MadeDiscovery:
		return fail(http.StatusForbidden, CodeForbidden, "enrol the machine's sidecar; see comity token", "a %s is registered by its sidecar, not by hand", kind.Kind)
	case kind.MadeAt == policy.MadeGlobal && s.cfg.Mode != ModeGlobal:
		return fail(http.StatusForbidden, CodeForbidden, "do it at the global control plane", "a %s is made at global", kind.Kind)
	}
	return nil
}

func notOwner(k mesh.Key) *problem {
	where := "zone " + string(k.Origin)
	if k.Origin == mesh.OriginGlobal {
		where = "global"
	}
	return fail(http.StatusForbidden, CodeNotOwner, "change it at "+where, "%s %s belongs to %s; here is a copy", k.Kind, k.Name, where)
}

// validate says what is wrong with a resource by itself.
func (s *server) validate(r mesh.Resource) []policy.FieldError {
	if bad := policy.Validate(r); bad != nil || s.cfg.Check == nil {
		return bad
	}
	return s.cfg.Check(r)
}

// prepare checks documents and makes them the writes of a batch. Whatever is wrong with any of them is said at once, after what was
// wrong already.
func (s *server) prepare(ctx context.Context, docs []document, wrong []client.ProblemField) ([]store.Write, error) {
	var forbidden *problem
	writes := make([]store.Write, 0, len(docs))
	seen := map[mesh.Key]bool{}
	for _, d := range docs {
		res := fromObject(d.obj)
		if p := s.mayWrite(&res); p != nil {
			forbidden = cmp.Or(forbidden, p)
			wrong = append(wrong, client.ProblemField{Pointer: d.at + "/kind", Code: p.Code, Message: p.Detail, Hint: p.Try})
			continue
		}
		if bad := s.validate(res); bad != nil {
			if len(wrong) < mostWrong {
				wrong = append(wrong, fieldsAt(d.at, res.Kind, bad)...)
			}
			continue
		}
		if seen[res.Key] {
			wrong = append(wrong, client.ProblemField{Pointer: d.at + "/metadata/name", Code: policy.CodeDuplicate, Message: fmt.Sprintf("%s %s is in the request twice", res.Kind, res.Name)})
		}
		seen[res.Key] = true
		spec, err := policy.Canonical(res.Spec)
		if err != nil {
			return nil, err
		}
		res.Spec = spec
		w := store.Write{Resource: res}
		bad, err := s.checkChange(ctx, res)
		if err != nil {
			return nil, err
		}
		wrong = append(wrong, fieldsAt(d.at, res.Kind, bad)...)
		if v := d.obj.Metadata.ResourceVersion; v != "" {
			rev, err := strconv.ParseUint(v, 10, 63)
			if err != nil {
				wrong = append(wrong, client.ProblemField{Pointer: d.at + "/metadata/resourceVersion", Code: policy.CodeInvalid, Message: "must be what the server gave, or left out"})
			}
			w.IfRevision = (*mesh.Revision)(&rev)
		}
		if s.cfg.Admit != nil {
			bad, err := s.cfg.Admit(ctx, w)
			if err != nil {
				return nil, err
			}
			wrong = append(wrong, fieldsAt(d.at, res.Kind, bad)...)
		}
		writes = append(writes, w)
	}
	more, err := s.unknownZones(ctx, docs)
	if err != nil {
		return nil, err
	}
	wrong = append(wrong, more...)
	switch {
	case forbidden != nil: // it weighs more than what is only mistyped, and its status tells the asker to look elsewhere
		forbidden.Errors = wrong
		if len(docs) > 1 || len(wrong) > 1 {
			forbidden.Detail += "; nothing was changed"
		}
		return nil, forbidden
	case len(wrong) > 0:
		return nil, invalid(wrong)
	}
	return writes, nil
}

// checkChange reports what a write may not make of what is there.
func (s *server) checkChange(ctx context.Context, res mesh.Resource) ([]policy.FieldError, error) {
	if res.Kind != mesh.KindZone {
		return nil, nil
	}
	old, err := s.cfg.Store.Get(ctx, res.Key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return policy.ValidateChange(old, res), err
}

// unknownZones reports scopes that name zones which neither exist nor are made by the same request.
func (s *server) unknownZones(ctx context.Context, docs []document) ([]client.ProblemField, error) {
	var wrong []client.ProblemField
	var known []string
	for _, d := range docs {
		list := d.obj.Metadata.Annotations[mesh.AnnotationZones]
		if s.cfg.Mode != ModeGlobal || strings.TrimSpace(list) == "" {
			continue
		}
		if known == nil {
			zones, err := s.zones(ctx)
			if err != nil {
				return nil, err
			}
			for _, other := range docs {
				if other.obj.Kind == mesh.KindZone {
					zones = append(zones, other.obj.Metadata.Name)
				}
			}
			slices.Sort(zones)
			known = slices.Compact(zones)
		}
		for z := range strings.SplitSeq(list, ",") {
			if z = strings.TrimSpace(z); !slices.Contains(known, z) && len(wrong) < 100 {
				wrong = append(wrong, client.ProblemField{
					Pointer: d.at + "/metadata/annotations/" + strings.ReplaceAll(mesh.AnnotationZones, "/", "~1"),
					Code:    CodeUnknownZone, Message: fmt.Sprintf("there is no zone %.80q", z), Choices: known, Hint: "make the zone first, or in the same apply",
				})
			}
		}
	}
	return wrong, nil
}

// commit applies a batch and tells whoever wants to know.
func (s *server) commit(ctx context.Context, b store.Batch) (store.Result, error) {
	r, err := s.cfg.Store.Apply(ctx, b)
	if err == nil && s.cfg.OnApply != nil && !b.DryRun && !r.Replayed {
		s.cfg.OnApply(ctx, r)
	}
	return r, err
}

// pathMatches refuses a body that is about something else than its URL.
func pathMatches(o *client.Object, kind policy.KindInfo, namespace, name string) error {
	var wrong []client.ProblemField
	check := func(pointer string, have *string, want string) {
		if *have == "" {
			*have = want
		}
		if want != "" && *have != want {
			wrong = append(wrong, client.ProblemField{Pointer: pointer, Code: policy.CodeInvalid, Message: fmt.Sprintf("the URL says %q, the body %.80q", want, *have)})
		}
	}
	check("/kind", (*string)(&o.Kind), string(kind.Kind))
	check("/apiVersion", &o.APIVersion, kind.APIVersion)
	check("/metadata/namespace", &o.Metadata.Namespace, namespace)
	check("/metadata/name", &o.Metadata.Name, name)
	if wrong != nil {
		return invalid(wrong)
	}
	return nil
}

// one applies one document with a precondition on its revision; nil for none.
func (s *server) one(ctx context.Context, o client.Object, w WriteInput, ifRevision *mesh.Revision) (store.Result, error) {
	b, err := s.batch(ctx, w)
	if err != nil {
		return store.Result{}, err
	}
	// Here the precondition is in the headers.
	o.Metadata.ResourceVersion = ""
	if b.Writes, err = s.prepare(ctx, []document{{obj: o}}, nil); err != nil {
		return store.Result{}, err
	}
	b.Writes[0].IfRevision = ifRevision
	return s.commit(ctx, b)
}

func answerOne(status int, r store.Result, w WriteInput) (*huma.StreamResponse, error) {
	res := r.Items[0].Resource
	header := map[string]string{"Comity-Outcome": string(r.Items[0].Outcome), "Comity-Revision": strconv.FormatUint(uint64(r.Revision), 10)}
	if w.DryRun == "" {
		header["ETag"] = etag(res)
	}
	if r.Replayed {
		header["Idempotent-Replayed"] = "true"
	}
	return reply(status, header, toObject(res))
}

func (s *server) create(ctx context.Context, kind policy.KindInfo, namespace, contentType string, body []byte, w WriteInput) (*huma.StreamResponse, error) {
	o, err := decodeOne(contentType, body)
	if err != nil {
		return nil, err
	}
	if err := pathMatches(&o, kind, namespace, ""); err != nil {
		return nil, err
	}
	r, err := s.one(ctx, o, w, new(mesh.Revision))
	if errors.Is(err, store.ErrConflict) {
		p := problemOf(ctx, s.cfg.Log, err)
		p.Code, p.Detail, p.Try = CodeExists, fmt.Sprintf("%s %q exists", kind.Kind, o.Metadata.Name), "replace it with PUT, or use _apply"
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	return answerOne(http.StatusCreated, r, w)
}

// MatchInput are the headers of optimistic concurrency (RFC 9110, 13.1).
type MatchInput struct {
	IfMatch     string `header:"If-Match" doc:"The ETag that was read, or * for whatever is there."`
	IfNoneMatch string `header:"If-None-Match" doc:"* to create only."`
}

// revision is the precondition for the store. cur is what is there, nil for nothing.
func (c MatchInput) revision(cur *mesh.Resource) (*mesh.Revision, error) {
	stale := func() error {
		p := fail(http.StatusPreconditionFailed, CodeStale, "read it again, decide again", "it is not as it was when you read it")
		if cur != nil {
			o := toObject(*cur)
			p.Current = &o
			return p.with("ETag", etag(*cur))
		}
		return p
	}
	switch {
	case c.IfNoneMatch != "" && (c.IfNoneMatch != "*" || c.IfMatch != ""):
		return nil, fail(http.StatusBadRequest, CodeMalformed, "", "If-None-Match can only be *, and alone")
	case c.IfNoneMatch == "*":
		if cur != nil {
			return nil, stale()
		}
		return new(mesh.Revision), nil
	case c.IfMatch == "":
		return nil, nil
	case cur == nil:
		return nil, stale()
	}
	for tag := range strings.SplitSeq(c.IfMatch, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag(*cur) {
			return &cur.Revision, nil
		}
	}
	return nil, stale()
}

// own returns the store's own resource of a name; nil if there is none. If only others have it, that
// is an error that names the owner.
func (s *server) own(ctx context.Context, kind policy.KindInfo, namespace, name, origin string) (*mesh.Resource, error) {
	key := mesh.Key{Origin: s.cfg.Origin, Kind: kind.Kind, Namespace: namespace, Name: name}
	if origin != "" && mesh.Origin(origin) != s.cfg.Origin {
		key.Origin = mesh.Origin(origin)
		return nil, notOwner(key)
	}
	r, err := s.cfg.Store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

func (s *server) replace(ctx context.Context, kind policy.KindInfo, namespace, name, origin, contentType string, body []byte, c MatchInput, w WriteInput) (*huma.StreamResponse, error) {
	if c.IfMatch == "" && c.IfNoneMatch == "" {
		return nil, fail(http.StatusPreconditionRequired, CodePrecondition, "send If-Match with the ETag that you read, or If-None-Match: * to create",
			"a replacement must say what it replaces")
	}
	o, err := decodeOne(contentType, body)
	if err != nil {
		return nil, err
	}
	if err := pathMatches(&o, kind, namespace, name); err != nil {
		return nil, err
	}
	cur, err := s.own(ctx, kind, namespace, name, origin)
	if err != nil {
		return nil, err
	}
	if cur == nil && c.IfNoneMatch == "" {
		if other, err := s.named(ctx, kind.Kind, namespace, name, ""); err == nil {
			return nil, notOwner(other.Key)
		}
	}
	rev, err := c.revision(cur)
	if err != nil {
		return nil, err
	}
	r, err := s.one(ctx, o, w, rev)
	if err != nil {
		return nil, raced(err)
	}
	status := http.StatusOK
	if r.Items[0].Outcome == store.Created {
		status = http.StatusCreated
	}
	return answerOne(status, r, w)
}

// raced turns a conflict between our reading and our writing into the 412 that reading would have given.
func raced(err error) error {
	var c *store.ConflictError
	if !errors.As(err, &c) {
		return err
	}
	p := fail(http.StatusPreconditionFailed, CodeStale, "read it again, decide again", "somebody else was faster")
	if c.Current != nil {
		o := toObject(*c.Current)
		p.Current = &o
	}
	return p
}

func (s *server) remove(ctx context.Context, kind policy.KindInfo, namespace, name, origin string, c MatchInput, w WriteInput) (*huma.StreamResponse, error) {
	if kind.MadeAt == policy.MadeGlobal && s.cfg.Mode != ModeGlobal {
		return nil, notOwner(mesh.Key{Origin: mesh.OriginGlobal, Kind: kind.Kind, Name: name})
	}
	cur, err := s.own(ctx, kind, namespace, name, origin)
	if err != nil {
		return nil, err
	}
	b, err := s.batch(ctx, w)
	if err != nil {
		return nil, err
	}
	key := mesh.Key{Origin: s.cfg.Origin, Kind: kind.Kind, Namespace: namespace, Name: name}
	if cur == nil && b.IdempotencyKey == "" {
		if other, err := s.named(ctx, kind.Kind, namespace, name, ""); err == nil {
			return nil, notOwner(other.Key)
		}
		return nil, notFound(kind.Kind, namespace, name)
	}
	b.Writes = []store.Write{{Resource: mesh.Resource{Key: key}, Delete: true}}
	if cur != nil {
		if b.Writes[0].IfRevision, err = c.revision(cur); err != nil {
			return nil, err
		}
	}
	r, err := s.commit(ctx, b)
	if err != nil {
		return nil, raced(err)
	}
	if r.Items[0].Outcome == store.Absent {
		return nil, notFound(kind.Kind, namespace, name)
	}
	return answerOne(http.StatusOK, r, WriteInput{DryRun: "All"}) // what is gone has no ETag
}

// applyMany is POST _apply.
func (s *server) applyMany(ctx context.Context, contentType string, body []byte, w WriteInput) (*huma.StreamResponse, error) {
	docs, wrong, err := decodeMany(contentType, body)
	if err != nil {
		return nil, err
	}
	b, err := s.batch(ctx, w)
	if err != nil {
		return nil, err
	}
	if b.Writes, err = s.prepare(ctx, docs, wrong); err != nil {
		return nil, err
	}
	r, err := s.commit(ctx, b)
	if err != nil {
		return nil, err
	}
	out := client.ApplyResult{Revision: r.Revision, DryRun: b.DryRun, Replayed: r.Replayed, Items: []client.ApplyItem{}}
	applied := make([]mesh.Resource, len(r.Items))
	for i, it := range r.Items {
		applied[i] = it.Resource
	}
	notes, err := s.notes(ctx, applied, applied)
	if err != nil { // what was asked for is done all the same
		s.cfg.Log.WarnContext(ctx, "names in what was applied can't be looked for", "error", err)
	}
	for _, it := range r.Items {
		item := client.ApplyItem{Kind: it.Resource.Kind, Namespace: it.Resource.Namespace, Name: it.Resource.Name, Outcome: string(it.Outcome), Notes: notes[it.Resource.Key]}
		if b.DryRun {
			o := toObject(it.Resource)
			item.Object = &o
		}
		out.Items = append(out.Items, item)
	}
	return reply(http.StatusOK, nil, out)
}
