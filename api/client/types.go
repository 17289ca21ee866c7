// Package client speaks with the REST API of global or of a zone. Its types are the wire forms.
package client

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// Metadata is the part of an Object that is the same for every kind.
type Metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Generation  uint64            `json:"generation,omitempty"`
	// ResourceVersion is the revision of the answering store that last wrote the resource, in decimal.
	ResourceVersion   string      `json:"resourceVersion,omitempty"`
	CreationTimestamp time.Time   `json:"creationTimestamp,omitzero"`
	Origin            mesh.Origin `json:"origin,omitempty"`
}

// Object is a resource as the API shows it.
type Object struct {
	APIVersion string          `json:"apiVersion"`
	Kind       mesh.Kind       `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Spec       json.RawMessage `json:"spec,omitempty"`
	// Status is a ZoneObjectStatus for kind Zone, else a ResourceObjectStatus.
	Status json.RawMessage `json:"status,omitempty"`
}

// ResourceObjectStatus is the status of every kind but Zone.
type ResourceObjectStatus struct {
	Conditions []Condition           `json:"conditions,omitempty"`
	Zones      []mesh.ResourceStatus `json:"zones,omitempty"`
	// Acked of Total proxies over all zones.
	Acked int `json:"acked"`
	Total int `json:"total"`
	// Notes, of one resource that is asked for by its name: as those of an ApplyItem.
	Notes []string `json:"notes,omitempty"`
}

// ZoneObjectStatus is the status of a Zone at global.
type ZoneObjectStatus struct {
	Conditions []Condition `json:"conditions,omitempty"`
	mesh.ZoneStatus
	// Unheard: what the zone said of itself, as of its proxies, is not of now.
	Unheard *mesh.Unheard `json:"unheard,omitempty"`
}

// Condition is one named fact about a resource, as in Kubernetes.
type Condition struct {
	Type               string    `json:"type"`
	Status             string    `json:"status"` // True, False or Unknown
	Reason             string    `json:"reason"`
	Message            string    `json:"message,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime,omitzero"`
}

// List is one page of objects. Continue is empty at the end.
type List struct {
	Items    []Object      `json:"items"`
	Continue string        `json:"continue,omitempty"`
	Revision mesh.Revision `json:"revision"`
}

// ProxyList is the answer of /api/v1/proxies.
type ProxyList struct {
	Items []mesh.ProxyStatus `json:"items"`
}

// FailoverQuery chooses among the services of /api/v1/failover; what is empty is all of them.
type FailoverQuery struct{ Namespace, Service, Zone string }

// FailoverList is the answer of /api/v1/failover, zone by zone, then by namespace and service.
type FailoverList struct {
	Items []mesh.FailoverStatus `json:"items"`
}

// PlaintextList is the answer of /api/v1/plaintext, by zone, namespace, service and port.
type PlaintextList struct {
	Items []mesh.PlaintextStatus `json:"items"`
}

// ApplyResult is the answer of /api/v1/_apply.
type ApplyResult struct {
	Revision mesh.Revision `json:"revision"`
	Items    []ApplyItem   `json:"items"`
	DryRun   bool          `json:"dryRun,omitempty"`
	Replayed bool          `json:"replayed,omitempty"` // answered from the idempotency key
}

// ApplyItem is what became of one document.
type ApplyItem struct {
	Kind      mesh.Kind `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Outcome   string    `json:"outcome"` // created, configured, unchanged
	// Notes say which names in it are of nothing that is known: "<pointer>: <sentence>". They refuse nothing.
	Notes []string `json:"notes,omitempty"`
	// Object is what a dry run would make of the document: without status, and at the revision that is there now.
	Object *Object `json:"object,omitempty"`
}

// Changed reports whether the apply changed anything.
func (r ApplyResult) Changed() bool {
	for _, it := range r.Items {
		if it.Outcome != "unchanged" {
			return true
		}
	}
	return false
}

// Progress is one event of /api/v1/_status: how far a revision has come.
type Progress struct {
	Revision mesh.Revision  `json:"revision"`
	Done     bool           `json:"done"` // every zone in scope is done
	Acked    int            `json:"acked"`
	Total    int            `json:"total"`
	Zones    []ZoneProgress `json:"zones"`
}

// ZoneProgress is one zone's part of a Progress. A zone that is not connected is never waited for: it is
// Done with State "Offline".
type ZoneProgress struct {
	Zone       string           `json:"zone"`
	Done       bool             `json:"done"`
	State      string           `json:"state"` // Pending, Applied, Rejected, Offline
	Acked      int              `json:"acked"`
	Total      int              `json:"total"`
	Message    string           `json:"message,omitempty"`
	Rejections []mesh.Rejection `json:"rejections,omitempty"`
}

// Problem is the body of every error (RFC 9457).
type Problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Code   string         `json:"code,omitempty"`
	Try    string         `json:"try,omitempty"`
	Errors []ProblemField `json:"errors,omitempty"`
}

// ProblemField points at one field that is wrong.
type ProblemField struct {
	Pointer string   `json:"pointer"`
	Code    string   `json:"code,omitempty"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`
	Choices []string `json:"choices,omitempty"`
	// Docs is where the field is documented, a path in the repository with an anchor.
	Docs string `json:"docs,omitempty"`
}

// Words are the message, and what to do about it.
func (f ProblemField) Words() string {
	switch {
	case f.Hint != "":
		return f.Message + " (" + f.Hint + ")"
	case len(f.Choices) > 0 && !strings.Contains(f.Message, strings.Join(f.Choices, ", ")):
		return f.Message + " (one of " + strings.Join(f.Choices, ", ") + ")"
	}
	return f.Message
}

// ProblemError is a Problem as the cause of an error.
type ProblemError struct{ Problem }

// Error says of each field what is wrong with it, a line each; empty if the problem is of no field.
func (e *ProblemError) Error() string {
	var lines []string
	for _, f := range e.Errors {
		lines = append(lines, f.Pointer+": "+f.Words())
	}
	return strings.Join(lines, "\n")
}

// mostPages bounds how many pages an error refers to.
const mostPages = 5

// Pages are where the fields of a problem are documented, each once and a line each; a page as a whole only where no heading of it is named.
func (e *ProblemError) Pages() string {
	var out []string
	for _, f := range e.Errors {
		page, anchor, _ := strings.Cut(f.Docs, "#")
		named := func(other string) bool { return other == f.Docs || anchor == "" && strings.HasPrefix(other, page+"#") }
		if f.Docs == "" || slices.ContainsFunc(out, named) {
			continue
		}
		out = append(slices.DeleteFunc(out, func(other string) bool { return other == page }), f.Docs)
	}
	out = out[:min(len(out), mostPages)]
	return strings.Join(out, "\n")
}
