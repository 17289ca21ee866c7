// Package check says of a resource what only Envoy's own messages can tell, before it is stored.
package check

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
)

// Resource reports what is wrong with a resource that is valid by itself; nil for nothing. It has no memory and asks
// nobody, so whether a patch fits what it is merged into is seen by the zones, which have that.
func Resource(r mesh.Resource) []policy.FieldError {
	if r.Kind != mesh.KindExtension {
		return nil
	}
	e, err := policy.DecodeAs[policy.Extension](r)
	if err != nil || e.Patch == nil {
		return nil // the first was said before
	}
	if err := envoy.CheckPatch(typeOf(e.Patch.Resource), e.Patch.Merge); err != nil {
		return []policy.FieldError{{
			Pointer: "/spec/patch/merge", Code: policy.CodeInvalid, Message: err.Error(),
			Hint: "write it as Envoy's API reference has the message, in snake_case or camelCase; typed_config needs its @type",
		}}
	}
	return nil
}

func typeOf(r policy.PatchedResource) string {
	switch r {
	case policy.PatchCluster:
		return envoy.TypeCluster
	case policy.PatchListener:
		return envoy.TypeListener
	default:
		return envoy.TypeRoute
	}
}
