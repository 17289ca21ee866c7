package main

import (
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// TestUnmet: a resource that every proxy runs and that yet does not do what it should is told from one that does.
func TestUnmet(t *testing.T) {
	is := func(kind, status, reason string) mesh.Condition {
		return mesh.Condition{Type: kind, Status: status, Reason: reason}
	}
	listener := func(conditions ...mesh.Condition) []mesh.ListenerStatus {
		return []mesh.ListenerStatus{{Name: "https", Conditions: conditions}}
	}
	zone := func(name string, conditions []mesh.Condition, listeners []mesh.ListenerStatus) mesh.ResourceStatus {
		return mesh.ResourceStatus{Zone: name, State: mesh.StateApplied, Conditions: conditions, Listeners: listeners}
	}
	noBackend := []mesh.Condition{is("Accepted", "True", "Accepted"), is("ResolvedRefs", "False", "BackendNotFound")}
	programmed, pending := is("Programmed", "True", "Programmed"), is("Programmed", "False", "Pending")
	away := zone("south", noBackend, nil)
	away.Unheard = &mesh.Unheard{Reason: mesh.UnheardRevoked}
	for name, c := range map[string]struct {
		zones []mesh.ResourceStatus
		want  string
	}{
		"all is well":                    {[]mesh.ResourceStatus{zone("east", []mesh.Condition{is("Accepted", "True", "Accepted")}, listener(programmed))}, "Programmed"},
		"no backend, said by two zones":  {[]mesh.ResourceStatus{zone("east", noBackend, nil), zone("west", noBackend, nil)}, "Programmed; ResolvedRefs False (BackendNotFound)"},
		"no certificate":                 {[]mesh.ResourceStatus{zone("east", nil, listener(is("ResolvedRefs", "False", "InvalidCertificateRef"), is("Programmed", "False", "Invalid")))}, "Programmed; listener https ResolvedRefs False (InvalidCertificateRef)"},
		"no ingress anywhere":            {[]mesh.ResourceStatus{zone("east", nil, listener(pending)), zone("west", nil, listener(pending))}, "Programmed; listener https Programmed False (Pending)"},
		"no ingress in one of two zones": {[]mesh.ResourceStatus{zone("east", nil, listener(programmed)), zone("west", nil, listener(pending))}, "Programmed"},
		"not in conflict":                {[]mesh.ResourceStatus{zone("east", nil, listener(programmed, is("Conflicted", "False", "NoConflicts")))}, "Programmed"},
		"said by a zone that is revoked": {[]mesh.ResourceStatus{zone("east", nil, nil), away}, "Programmed"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := summarise(c.zones).words(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestUnready: only a sidecar has an application.
func TestUnready(t *testing.T) {
	for _, c := range []struct {
		role           mesh.Role
		identity, want string
	}{
		{mesh.RoleSidecar, "spiffe://x/ns/shop/sa/web", "its application is unhealthy"},
		{mesh.RoleEgress, "spiffe://x/fed/zone-egress/out-1", "it is not ready"},
		{mesh.RoleEgress, "", "it is leaving: its agent has ended, and it gets no new requests"},
	} {
		f := checkProxy(mesh.ProxyStatus{Proxy: mesh.ProxyID{Role: c.role, Name: "out-1"}, Zone: "onprem", Connected: true, Identity: c.identity})
		if f.Level != "warning" || f.Message != c.want {
			t.Errorf("%s: %+v, want %q", c.role, f, c.want)
		}
	}
}
