package policy

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// Attachment is what the policies have in common that say how traffic is treated: what they are for, and
// whether a zone may say otherwise.
type Attachment struct {
	// TargetRef is a Service, HTTPRoute, GRPCRoute or, where the policy's kind can be for it, ExternalService of the policy's own
	// namespace, or nil for the whole namespace; in namespace "comity-system" nil means the whole mesh. SectionName narrows it: the
	// name of a service's port, or of a rule of a route.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	// Enforced, of a policy made at global, wins over those that zones make for the same target.
	Enforced bool `json:"enforced,omitempty"`
}

func (a Attachment) attachment() Attachment { return a }

// Attachable is a spec that embeds Attachment.
type Attachable interface{ attachment() Attachment }

// Attached is a policy with its decoded spec.
type Attached[T Attachable] struct {
	Resource mesh.Resource
	Spec     *T
}

// Target is what the policy is for, nil for its whole namespace.
func (p Attached[T]) Target() *TargetRef { return (*p.Spec).attachment().TargetRef }

// Subject is the traffic of which somebody asks what policies apply to it.
type Subject struct {
	Service ServiceRef
	// PortName is the port's, empty if it has none.
	PortName string
	// Route and Rule are what the requests matched: the zero Key for traffic of no route, an empty Rule for one without
	// a name, which no policy can target.
	Route mesh.Key
	Rule  string
}

// Level is how narrow a target is: of policies that say different things the narrower wins.
type Level int

// The levels, from wide to narrow.
const (
	LevelNone Level = iota // does not apply
	LevelMesh
	LevelNamespace
	LevelService
	LevelPort
	LevelRoute
	LevelRule
)

// LevelOf says how narrowly a policy of a namespace targets the subject.
func (a Attachment) LevelOf(namespace string, s Subject) Level {
	t := a.TargetRef
	if s.Service.Kind == mesh.KindExternalService {
		return a.levelOutside(namespace, s)
	}
	switch {
	case t == nil && namespace == SystemNamespace:
		return LevelMesh
	case t == nil && namespace == s.Service.Namespace:
		return LevelNamespace
	case t == nil:
		return LevelNone
	case t.Kind == "Service" && namespace == s.Service.Namespace && t.Name == s.Service.Name:
		switch t.SectionName {
		case "":
			return LevelService
		case s.PortName:
			return LevelPort
		}
	case s.Route.Name != "" && t.Kind == string(s.Route.Kind) && namespace == s.Route.Namespace && t.Name == s.Route.Name:
		switch t.SectionName {
		case "":
			return LevelRoute
		case s.Rule:
			return LevelRule
		}
	}
	return LevelNone
}

// levelOutside is LevelOf for an ExternalService, to which only the policies apply that name it: what is right for servers of one's
// own, to ask again or to eject, may not be for those of others.
func (a Attachment) levelOutside(namespace string, s Subject) Level {
	t := a.TargetRef
	switch {
	case t == nil, t.Kind != string(mesh.KindExternalService), namespace != s.Service.Namespace, t.Name != s.Service.Name:
		return LevelNone
	case t.SectionName == "":
		return LevelService
	case t.SectionName == s.PortName:
		return LevelPort
	}
	return LevelNone
}

// InOrder returns the policies that apply to the subject, those that win first: the narrower target, an enforced one of
// global, a zone's own before global's, the older creation, namespace and name. The order of the input plays no part.
func InOrder[T Attachable](policies []Attached[T], s Subject) []Attached[T] {
	var out []Attached[T]
	level := func(p Attached[T]) Level { return (*p.Spec).attachment().LevelOf(p.Resource.Namespace, s) }
	for _, p := range policies {
		if p.Spec != nil && level(p) != LevelNone {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Attached[T]) int {
		return cmp.Or(
			-cmp.Compare(level(a), level(b)),
			first(enforced(a), enforced(b)),
			first(a.Resource.Origin != mesh.OriginGlobal, b.Resource.Origin != mesh.OriginGlobal),
			cmp.Compare(a.Resource.Created, b.Resource.Created),
			a.Resource.Compare(b.Resource.Key),
		)
	})
	return out
}

func enforced[T Attachable](p Attached[T]) bool {
	return (*p.Spec).attachment().Enforced && p.Resource.Origin == mesh.OriginGlobal
}

// Merged is what several policies say together.
type Merged[T Attachable] struct {
	Spec T
	// Sources are the policies that said any of it, in the order in which they win.
	Sources []mesh.Key
	// Overridden are those of which something was left out for another one of the same level, by whom.
	Overridden map[mesh.Key][]mesh.Key

	by []mesh.Key // who said a field, by its index
}

// By is the policy that said a top-level field of the spec, by its name in Go; the zero Key if none did.
func (m Merged[T]) By(field string) mesh.Key {
	f, ok := reflect.TypeFor[T]().FieldByName(field)
	if !ok || m.by == nil {
		return mesh.Key{}
	}
	return m.by[f.Index[0]]
}

// Merge takes each field of the spec whole from the first policy, in the order of InOrder, that has it. Fields
// are not mixed: half of one policy's retries and half of another's would be what nobody meant.
func Merge[T Attachable](policies []Attached[T], s Subject) Merged[T] {
	var out Merged[T]
	into := reflect.ValueOf(&out.Spec).Elem()
	winner := make([]*Attached[T], into.NumField())
	for _, p := range InOrder(policies, s) {
		used := false
		from := reflect.ValueOf(p.Spec).Elem()
		for i := range into.NumField() {
			if into.Type().Field(i).Anonymous || from.Field(i).IsZero() {
				continue
			}
			w := winner[i]
			if w == nil {
				into.Field(i).Set(from.Field(i))
				winner[i], used = &p, true
				if out.by == nil {
					out.by = make([]mesh.Key, into.NumField())
				}
				out.by[i] = p.Resource.Key
				continue
			}
			if (*w.Spec).attachment().LevelOf(w.Resource.Namespace, s) != (*p.Spec).attachment().LevelOf(p.Resource.Namespace, s) {
				continue // meant to be narrowed
			}
			if out.Overridden == nil {
				out.Overridden = map[mesh.Key][]mesh.Key{}
			}
			if !slices.Contains(out.Overridden[p.Resource.Key], w.Resource.Key) {
				out.Overridden[p.Resource.Key] = append(out.Overridden[p.Resource.Key], w.Resource.Key)
			}
		}
		if used {
			out.Sources = append(out.Sources, p.Resource.Key)
		}
	}
	return out
}

// validateAttachment checks what a policy is for.
func validateAttachment(r *report, res mesh.Resource, a Attachment, kinds ...string) {
	validateTarget(r, res, a.TargetRef, kinds...)
	if a.Enforced && res.Origin != mesh.OriginGlobal {
		r.add(FieldError{Pointer: "/spec/enforced", Code: CodeInvalid, Message: "only a policy made at global can be enforced", Hint: "leave it out: a zone's own policy wins over global's anyway"})
	}
}
