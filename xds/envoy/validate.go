package envoy

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// Invalid is a resource that Envoy would refuse, and why.
type Invalid struct {
	Resource Resource
	Err      error
}

// Validate applies the rules that the protocol itself states (protoc-gen-validate), in the messages
// inside messages too, and returns those that break one. An Envoy applies nothing of a response in
// which one message does, and its answer often does not name it, so this runs before anything is
// published.
func Validate(resources []Resource) []Invalid {
	var out []Invalid
	for _, r := range resources {
		m, err := decode(r)
		if err == nil {
			err = validateMessage(m)
		}
		if err != nil {
			out = append(out, Invalid{Resource: r, Err: fmt.Errorf("%s: %w", r, err)})
		}
	}
	return out
}

func emptyMessage(typeURL string) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByURL(typeURL)
	if err != nil {
		return nil, fmt.Errorf("type %s: %w", typeURL, err)
	}
	return t.New().Interface(), nil
}

func validateMessage(m proto.Message) error {
	var errs []error
	if err := ownRules(m); err != nil {
		errs = append(errs, err)
	}
	eachAny(m.ProtoReflect(), func(a *anypb.Any) {
		inner, err := a.UnmarshalNew()
		if err == nil {
			err = validateMessage(inner)
		}
		if err != nil {
			errs = append(errs, err)
		}
	})
	return errors.Join(errs...)
}

// ownRules applies the rules of a message but not of those in its Anys.
func ownRules(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		return v.ValidateAll()
	}
	return nil
}

// eachAny calls f for every Any in a message, which a message's own validation does not look into.
func eachAny(m protoreflect.Message, f func(*anypb.Any)) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		f(a)
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					eachAny(e.Message(), f)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				eachAny(v.List().Get(i).Message(), f)
			}
		default:
			eachAny(v.Message(), f)
		}
		return true
	})
}
