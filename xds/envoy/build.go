package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
)

// Builder salts every version. It changes whenever this package builds something else from the same
// IR, so that Envoys notice; golden files show when that is.
const Builder = "18"

// Type URLs of the resources that are built.
const (
	TypeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeListener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeFilter   = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	TypeSecret   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Names that the bootstrap of an Envoy must know.
const (
	// LocalSDSCluster is the cluster of the agent's own SDS server (gRPC, delta), which
	// has the secret IdentitySecret: the proxy's certificate chain and key.
	LocalSDSCluster = "local_sds"
	IdentitySecret  = "identity"
)

// Build turns the IR of one proxy into resources: clusters, endpoints, secrets, filters, routes, listeners, each
// in the order of the IR. The same IR always gives the same bytes. An error names the object that
// can't be built; it is a mistake of translate, not of a user.
func Build(p ir.Proxy) ([]Resource, error) { return (*Cache)(nil).Build(p) }

// BuildEndpoints builds the resources of the short path alone.
func BuildEndpoints(list []ir.Endpoints) ([]Resource, error) {
	return Build(ir.Proxy{Endpoints: list})
}

// version hashes what an object is built from. The object must be without its Sources.
func version(typeURL string, object any) (string, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", Builder, typeURL)
	h.Write(raw)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// add appends the resource of one IR object.
func add[T any](c *Cache, out []Resource, typeURL, name string, sources ir.Sources, object T, message func(*messages, T) (proto.Message, error)) ([]Resource, error) {
	v, err := version(typeURL, object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", short(typeURL, name), err)
	}
	made, err := c.made(typeURL, name, v, func() (made, error) {
		b := &messages{}
		m, err := message(b, object)
		if err != nil {
			return made{}, err
		}
		b.validate(m)
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		return made{body, errors.Join(b.invalid...)}, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", short(typeURL, name), err)
	}
	return append(out, Resource{Type: typeURL, Name: name, Version: v, Body: made.body, Sources: []mesh.Key(sources)}), nil
}

// short is how a resource is called in messages to people, as in `cluster pay.shop:8080`.
func short(typeURL, name string) string {
	switch typeURL {
	case TypeCluster:
		return "cluster " + name
	case TypeEndpoint:
		return "endpoints " + name
	case TypeListener:
		return "listener " + name
	case TypeRoute:
		return "routes " + name
	case TypeFilter:
		return "filter " + name
	case TypeSecret:
		return "secret " + name
	}
	return typeURL + " " + name
}

// String is a short type and the name, as in `cluster pay.shop:8080`.
func (r Resource) String() string { return short(r.Type, r.Name) }
