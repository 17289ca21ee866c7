package api

import (
	"strconv"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// toObject is a resource as the API shows it, without its status.
func toObject(r mesh.Resource) client.Object {
	return client.Object{
		APIVersion: r.APIVersion, Kind: r.Kind, Spec: r.Spec,
		Metadata: client.Metadata{
			Name: r.Name, Namespace: r.Namespace, UID: r.UID, Labels: r.Labels, Annotations: r.Annotations,
			Generation: r.Generation, ResourceVersion: strconv.FormatUint(uint64(r.Revision), 10),
			CreationTimestamp: r.CreatedAt, Origin: r.Origin,
		},
	}
}

// etag identifies one version of one resource: "uid:revision".
func etag(r mesh.Resource) string {
	return `"` + r.UID + ":" + strconv.FormatUint(uint64(r.Revision), 10) + `"`
}

// fromObject is the resource that a document asks for. What the server gives (uid, generation,
// times) is left behind, the origin is kept as the document says it.
func fromObject(o client.Object) mesh.Resource {
	return mesh.Resource{
		Key:        mesh.Key{Origin: o.Metadata.Origin, Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name},
		APIVersion: o.APIVersion, Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations, Spec: o.Spec,
	}
}
