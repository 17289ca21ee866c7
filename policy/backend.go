package policy

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// The kinds of backends, with their groups. A ServiceImport is a service wherever it is, which to us a Service is as well. A
// ZoneService is a service in one zone, named "<service>.<zone>"; it is no resource, only a name.
const (
	BackendService  = "Service"         // core
	BackendImport   = "ServiceImport"   // multicluster.x-k8s.io
	BackendZone     = "ZoneService"     // mesh.comity.dev
	BackendExternal = "ExternalService" // mesh.comity.dev

	groupMCS    = "multicluster.x-k8s.io"
	groupComity = "mesh.comity.dev"
)

// BackendKind is the kind of what a reference names, with its group; an error if it can be no backend.
func BackendKind(ref gatewayv1.BackendObjectReference) (group, kind string, err error) {
	group, kind = string(orZero(ref.Group)), BackendService
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	for _, known := range []struct{ group, kind string }{{"", BackendService}, {groupMCS, BackendImport}, {groupComity, BackendZone}, {groupComity, BackendExternal}} {
		if group == known.group && kind == known.kind {
			return group, kind, nil
		}
	}
	return group, kind, fmt.Errorf("group %q has no backend of kind %q", clip(group), clip(kind))
}

// SplitZone takes the name of a ZoneService apart.
func SplitZone(name string) (service, zone string, err error) {
	service, zone, ok := strings.Cut(name, ".")
	if !ok || mesh.CheckLabel(service) != nil || mesh.CheckZoneName(zone) != nil {
		return "", "", fmt.Errorf("%q must be <service>.<zone>", clip(name))
	}
	return service, zone, nil
}

// validateBackendRef checks what a backend names.
func validateBackendRef(r *report, at string, ref gatewayv1.BackendObjectReference) {
	_, kind, err := BackendKind(ref)
	if err != nil {
		r.add(FieldError{Pointer: at + "/kind", Code: CodeUnsupported, Message: err.Error(), Hint: "leave out group and kind for a Service; " +
			groupMCS + " has ServiceImport, " + groupComity + " has ZoneService (<service>.<zone>) and ExternalService"})
	}
	switch kind {
	case BackendZone:
		if _, _, err := SplitZone(string(ref.Name)); err != nil {
			r.invalid(at+"/name", "%s", err)
		}
	default:
		r.checked(at+"/name", string(ref.Name), mesh.CheckLabel)
	}
	if ref.Namespace != nil {
		r.checked(at+"/namespace", string(*ref.Namespace), mesh.CheckLabel)
	}
}
