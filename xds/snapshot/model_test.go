package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/xds/envoy"
)

// item is one resource of the model's world: what it names, and an edit count that makes its content
// differ. From `poison` on, Envoy refuses it.
type item struct {
	typ  Type
	name string
	edit int
	refs string // comma-separated: of listeners "route:…", "extension:…"; of routes cluster names
}

const poison = 1000

// message is the item as Envoy sees it; every content can be told from every other.
func (it item) message() proto.Message {
	edit := strconv.Itoa(it.edit)
	switch it.typ {
	case Cluster:
		return &clusterv3.Cluster{
			Name: it.name, AltStatName: edit,
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{ServiceName: it.refs},
		}
	case Endpoint:
		return &endpointv3.ClusterLoadAssignment{
			ClusterName: it.name, Endpoints: []*endpointv3.LocalityLbEndpoints{{Locality: &corev3.Locality{Zone: edit}}},
		}
	case Listener:
		return &listenerv3.Listener{Name: it.name, StatPrefix: edit + "|" + it.refs}
	case Route:
		return &routev3.RouteConfiguration{Name: it.name, InternalOnlyHeaders: append([]string{edit}, split2(it.refs)...)}
	case Secret:
		return &tlsv3.Secret{Name: it.name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
			Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: edit}},
		}}}
	default:
		return &corev3.TypedExtensionConfig{Name: it.name, TypedConfig: &anypb.Any{TypeUrl: "test/" + edit}}
	}
}

func split2(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func (it item) resource() envoy.Resource {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(it.message())
	if err != nil {
		panic(err)
	}
	return envoy.Resource{Type: it.typ.URL(), Name: it.name, Version: fmt.Sprintf("%d/%s", it.edit, it.refs), Body: body}
}

// content is what the model keeps of a resource.
type content struct {
	bytes  string
	refs   []string
	poison bool
}

func read(t Type, body []byte) content {
	c := content{bytes: string(body)}
	edit := ""
	unmarshal := func(m proto.Message) {
		if err := proto.Unmarshal(body, m); err != nil {
			panic(err)
		}
	}
	switch t {
	case Cluster:
		m := new(clusterv3.Cluster)
		unmarshal(m)
		edit, c.refs = m.AltStatName, []string{m.EdsClusterConfig.ServiceName}
	case Endpoint:
		m := new(endpointv3.ClusterLoadAssignment)
		unmarshal(m)
		if len(m.Endpoints) > 0 {
			edit = m.Endpoints[0].Locality.Zone
		}
	case Listener:
		m := new(listenerv3.Listener)
		unmarshal(m)
		e, refs, _ := strings.Cut(m.StatPrefix, "|")
		edit, c.refs = e, split2(refs)
	case Route:
		m := new(routev3.RouteConfiguration)
		unmarshal(m)
		edit, c.refs = m.InternalOnlyHeaders[0], m.InternalOnlyHeaders[1:]
	case Secret:
		m := new(tlsv3.Secret)
		unmarshal(m)
		edit = m.GetGenericSecret().GetSecret().GetInlineString()
	case Extension:
		m := new(corev3.TypedExtensionConfig)
		unmarshal(m)
		edit = strings.TrimPrefix(m.TypedConfig.TypeUrl, "test/")
	}
	n, _ := strconv.Atoi(edit)
	c.poison = n >= poison
	return c
}

// envoyModel is an Envoy as research has it: it withholds the ACK of clusters until they are warm, asks
// for what they name before, ignores what it did not ask for, records no version of a refused response
// though it may apply the good part, and comes back with the versions it recorded.
type envoyModel struct {
	have     [typeCount]map[string]content
	recorded [typeCount]map[string]string
	wanted   [typeCount]map[string]bool // by name
	started  [typeCount]bool
	warming  map[string]bool // clusters that wait for endpoints
	active   map[string]bool // clusters that were warm once
	withheld []string        // nonces of cluster responses without ACK
	asked    bool            // clusters were received once
	ready    bool            // clusters were warm once, so listeners are asked for
	paused   bool            // reconnected while warming: clusters are asked for later

	// semantic says that a refused response is applied in part (and the error names the bad ones).
	semantic bool
	// cached says that a changed cluster falls back to the endpoints it has, as Envoy does after 15 s.
	cached bool

	out        []*discovery.DeltaDiscoveryRequest
	violations []string
	refusals   int
}

func newEnvoyModel() *envoyModel {
	m := &envoyModel{warming: map[string]bool{}, active: map[string]bool{}}
	for t := range m.have {
		m.have[t], m.recorded[t], m.wanted[t] = map[string]content{}, map[string]string{}, map[string]bool{}
	}
	m.connect()
	return m
}

func (m *envoyModel) send(t Type, r *discovery.DeltaDiscoveryRequest) {
	r.TypeUrl = t.URL()
	m.out = append(m.out, r)
}

// connect begins a stream with what the model has.
func (m *envoyModel) connect() {
	m.out, m.withheld = nil, nil
	initial := func(t Type) *discovery.DeltaDiscoveryRequest {
		return &discovery.DeltaDiscoveryRequest{
			InitialResourceVersions: maps.Clone(m.recorded[t]),
			ResourceNamesSubscribe:  slices.Sorted(maps.Keys(m.wanted[t])),
		}
	}
	m.paused = len(m.warming) > 0
	if !m.paused {
		m.started[Cluster] = true
		m.send(Cluster, initial(Cluster))
	}
	for _, t := range []Type{Endpoint, Secret, Listener, Route, Extension} {
		if len(m.wanted[t]) > 0 || (t == Listener && m.ready) {
			m.started[t] = true
			m.send(t, initial(t))
		} else {
			m.started[t] = false
		}
	}
}

// interest updates the names that are asked for of a type.
func (m *envoyModel) interest(t Type, want map[string]bool) {
	var sub, unsub []string
	for n := range want {
		if !m.wanted[t][n] {
			sub = append(sub, n)
		}
	}
	for n := range m.wanted[t] {
		if !want[n] {
			unsub = append(unsub, n)
			delete(m.have[t], n)
			delete(m.recorded[t], n)
		}
	}
	m.wanted[t] = want
	if len(sub)+len(unsub) == 0 {
		return
	}
	slices.Sort(sub)
	slices.Sort(unsub)
	m.started[t] = true
	m.send(t, &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: sub, ResourceNamesUnsubscribe: unsub})
}

func (m *envoyModel) interests() {
	eds, sds, rds, ecds := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range m.have[Cluster] {
		eds[c.refs[0]] = true
		sds["trust"] = true
	}
	for _, l := range m.have[Listener] {
		for _, ref := range l.refs {
			if n, ok := strings.CutPrefix(ref, "route:"); ok {
				rds[n] = true
			} else if n, ok := strings.CutPrefix(ref, "extension:"); ok {
				ecds[n] = true
			}
		}
	}
	m.interest(Endpoint, eds)
	m.interest(Secret, sds)
	m.interest(Route, rds)
	m.interest(Extension, ecds)
}

// receive takes one response.
func (m *envoyModel) receive(r *discovery.DeltaDiscoveryResponse) {
	t, ok := ParseType(r.TypeUrl)
	if !ok {
		panic(r.TypeUrl)
	}
	seen := map[string]bool{}
	var bad []string
	for _, e := range r.Resources {
		if seen[e.Name] {
			m.violate("%s %q twice in one response", t, e.Name)
		}
		seen[e.Name] = true
		if m.takes(t, e.Name) && read(t, e.Resource.Value).poison {
			bad = append(bad, e.Name)
		}
	}
	for _, n := range r.RemovedResources {
		if seen[n] {
			m.violate("%s %q both added and removed", t, n)
		}
	}
	if len(bad) > 0 {
		m.refusals++
		m.asked = m.asked || t == Cluster // a first response that is refused ends the wait too
		text := "Proto constraint validation failed"
		if m.semantic {
			m.apply(t, r, false)
			m.interests()
			if t == Cluster || t == Listener {
				text = "Error adding/updating " + strings.Join(bad, ", ")
			}
		}
		m.send(t, &discovery.DeltaDiscoveryRequest{ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{Code: 13, Message: text}})
		m.warm()
		return
	}
	m.apply(t, r, true)
	m.interests()
	if t == Cluster {
		m.asked = true
		m.withheld = append(m.withheld, r.Nonce)
	} else {
		m.send(t, &discovery.DeltaDiscoveryRequest{ResponseNonce: r.Nonce})
	}
	m.warm()
}

func (m *envoyModel) takes(t Type, name string) bool { return t.wildcard() || m.wanted[t][name] }

func (m *envoyModel) apply(t Type, r *discovery.DeltaDiscoveryResponse, record bool) {
	for _, n := range r.RemovedResources {
		switch t {
		case Cluster:
			for name, route := range m.have[Route] {
				if slices.Contains(route.refs, n) {
					m.violate("cluster %q removed while route %q names it", n, name)
				}
			}
			delete(m.warming, n)
			delete(m.active, n)
			delete(m.have[t], n)
		case Listener:
			delete(m.have[t], n)
		}
		delete(m.recorded[t], n)
	}
	for _, e := range r.Resources {
		c := read(t, e.Resource.Value)
		if !m.takes(t, e.Name) || c.poison {
			continue
		}
		if record {
			m.recorded[t][e.Name] = e.Version
		}
		old, had := m.have[t][e.Name]
		m.have[t][e.Name] = c
		switch t {
		case Cluster:
			_, cached := m.have[Endpoint][c.refs[0]]
			if (!had || old.bytes != c.bytes) && !(m.cached && cached) {
				m.warming[e.Name] = true
			}
		case Endpoint:
			for n, cl := range m.have[Cluster] {
				if cl.refs[0] == e.Name {
					delete(m.warming, n)
				}
			}
		case Route:
			// The first version of a route is for a listener that warms: no request is lost by it, and it must
			// not wait for anything.
			for _, n := range c.refs {
				if had && !m.active[n] {
					m.violate("route %q (%s) names cluster %q, which is not there", e.Name, e.Version, n)
				}
			}
		}
	}
}

// warm sends what waits for clusters to be warm.
func (m *envoyModel) warm() {
	for n := range m.have[Cluster] {
		if !m.warming[n] {
			m.active[n] = true
		}
	}
	if len(m.warming) > 0 {
		return
	}
	for _, nonce := range m.withheld {
		m.send(Cluster, &discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	}
	if m.asked && !m.ready {
		m.ready, m.started[Listener] = true, true
		m.send(Listener, &discovery.DeltaDiscoveryRequest{})
	}
	m.withheld = nil
	if m.paused {
		m.paused, m.started[Cluster] = false, true
		m.send(Cluster, &discovery.DeltaDiscoveryRequest{InitialResourceVersions: maps.Clone(m.recorded[Cluster])})
	}
}

func (m *envoyModel) violate(format string, args ...any) {
	m.violations = append(m.violations, fmt.Sprintf(format, args...))
}
