package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// ResourceToProto gives the wire form of a resource. Times are cut to milliseconds; Revision, which
// means nothing elsewhere, does not travel.
func ResourceToProto(r mesh.Resource) *federationpb.Resource {
	return &federationpb.Resource{
		Key: KeyToProto(r.Key), ApiVersion: r.APIVersion, Uid: r.UID,
		Labels: r.Labels, Annotations: r.Annotations, Generation: r.Generation,
		Created: uint64(r.Created), Changed: uint64(r.Changed),
		CreatedAtMs: r.CreatedAt.UnixMilli(), ChangedAtMs: r.ChangedAt.UnixMilli(),
		Spec: r.Spec,
	}
}

// ResourceFromProto reads the wire form. It checks nothing; CheckResource does.
func ResourceFromProto(p *federationpb.Resource) mesh.Resource {
	return mesh.Resource{
		Key: KeyFromProto(p.GetKey()), APIVersion: p.GetApiVersion(), UID: p.GetUid(),
		Labels: maps.Clone(p.GetLabels()), Annotations: maps.Clone(p.GetAnnotations()),
		Generation: p.GetGeneration(),
		Created:    mesh.Revision(p.GetCreated()), Changed: mesh.Revision(p.GetChanged()),
		CreatedAt: time.UnixMilli(p.GetCreatedAtMs()).UTC(), ChangedAt: time.UnixMilli(p.GetChangedAtMs()).UTC(),
		Spec: p.GetSpec(),
	}
}

// KeyToProto gives the wire form of a key.
func KeyToProto(k mesh.Key) *federationpb.Key {
	return &federationpb.Key{Origin: string(k.Origin), Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name}
}

// KeyFromProto reads the wire form of a key.
func KeyFromProto(p *federationpb.Key) mesh.Key {
	return mesh.Key{
		Origin: mesh.Origin(p.GetOrigin()), Kind: mesh.Kind(p.GetKind()),
		Namespace: p.GetNamespace(), Name: p.GetName(),
	}
}

// CursorToProto gives the wire form of a cursor, nil for the zero cursor.
func CursorToProto(c mesh.Cursor) *federationpb.Cursor {
	if c == (mesh.Cursor{}) {
		return nil
	}
	return &federationpb.Cursor{Incarnation: string(c.Incarnation), Revision: uint64(c.Revision)}
}

// CursorFromProto reads the wire form of a cursor.
func CursorFromProto(p *federationpb.Cursor) mesh.Cursor {
	return mesh.Cursor{Incarnation: mesh.Incarnation(p.GetIncarnation()), Revision: mesh.Revision(p.GetRevision())}
}

var kindName = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,62}$`)

// CheckKey reports why a key from a peer is not well-formed.
func CheckKey(k mesh.Key) error {
	if err := mesh.CheckLabel(string(k.Origin)); err != nil {
		return fmt.Errorf("origin %w", err)
	}
	if !kindName.MatchString(string(k.Kind)) {
		return errors.New("kind must be letters and digits, beginning with an upper-case letter, at most 63")
	}
	if k.Namespace != "" {
		if err := mesh.CheckLabel(k.Namespace); err != nil {
			return fmt.Errorf("namespace %w", err)
		}
	}
	if err := mesh.CheckSubdomain(k.Name); err != nil {
		return fmt.Errorf("name %w", err)
	}
	return nil
}

// CheckResource reports why a resource from a peer is not well-formed, whatever its kind.
func CheckResource(r mesh.Resource) error {
	if err := CheckKey(r.Key); err != nil {
		return err
	}
	switch {
	case r.APIVersion == "" || len(r.APIVersion) > 253 || !utf8.ValidString(r.APIVersion):
		return errors.New("apiVersion is missing or too long")
	case r.UID == "" || len(r.UID) > 64:
		return errors.New("uid is missing or too long")
	case r.Generation == 0 || r.Created == 0 || r.Changed < r.Created:
		return errors.New("generation and revisions must be positive, changed not before created")
	case len(r.Labels) > 128 || len(r.Annotations) > 128:
		return errors.New("at most 128 labels and 128 annotations")
	case len(r.Spec) == 0 || !json.Valid(r.Spec):
		return errors.New("spec is not JSON")
	}
	return nil
}

// wireSize is the bytes of a resource within a frame, with room for the field's own framing.
func wireSize(r *federationpb.Resource) int { return proto.Size(r) + 8 }
