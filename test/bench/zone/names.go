package main

import (
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3" // types that are looked into
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// reference is something that a resource names and Envoy asks for.
type reference struct{ typ, name string }

// names finds references, once for each version of a resource: proxies share most of them.
type names struct {
	mu    sync.Mutex
	known map[string][]reference
}

func newNames() *names { return &names{known: map[string][]reference{}} }

func (n *names) of(typ string, r *discovery.Resource) []reference {
	if typ != clusterType && typ != listenerType {
		return nil
	}
	key := typ + r.GetName() + r.GetVersion()
	n.mu.Lock()
	defer n.mu.Unlock()
	refs, ok := n.known[key]
	if !ok {
		if m, err := r.GetResource().UnmarshalNew(); err == nil {
			walk(m.ProtoReflect(), func(ref reference) { refs = append(refs, ref) })
		}
		n.known[key] = refs
	}
	return refs
}

// walk looks at a message and all in it, through Any where the type is linked.
func walk(m protoreflect.Message, found func(reference)) {
	switch x := m.Interface().(type) {
	case *anypb.Any:
		if inner, err := x.UnmarshalNew(); err == nil {
			walk(inner.ProtoReflect(), found)
		}
		return
	case *clusterv3.Cluster:
		if eds := x.GetEdsClusterConfig(); eds != nil {
			name := eds.GetServiceName()
			if name == "" {
				name = x.GetName()
			}
			found(reference{endpointType, name})
		}
	case *hcmv3.Rds:
		found(reference{routeType, x.GetRouteConfigName()})
	case *hcmv3.HttpFilter:
		if x.GetConfigDiscovery() != nil {
			found(reference{extensionType, x.GetName()})
		}
	case *tlsv3.SdsSecretConfig:
		if _, ads := x.GetSdsConfig().GetConfigSourceSpecifier().(*corev3.ConfigSource_Ads); ads {
			found(reference{secretType, x.GetName()})
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool { walk(e.Message(), found); return true })
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), found)
			}
		default:
			walk(v.Message(), found)
		}
		return true
	})
}
