package snapshot

import (
	"fmt"
	"runtime"
	"sync"
	"weak"

	"sync/atomic"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
)

// Entry is one resource in wire form. Entries are interned: while anybody holds one, the same type,
// name and version is the same pointer, so sets are compared by pointer.
type Entry struct {
	Type          Type
	Name, Version string
	Sources       []mesh.Key

	// wire is one `resources` field of a DeltaDiscoveryResponse: tag, length and discovery.Resource. The message itself, the
	// second piece, is the memory of whoever published it.
	wire [3]mem.Buffer
	// message is where in the first piece the google.protobuf.Any begins, whose value is the second.
	message int
	// endpoints is, of a cluster that takes its endpoints by EDS, the name of its assignment.
	endpoints string
	// filler marks an assignment without endpoints that nobody published.
	filler bool
	// proven is set once some Envoy has acknowledged the entry.
	proven atomic.Bool
}

type entryKey struct {
	typ           Type
	name, version string
}

// interner finds the entry of a type, name and version. It holds entries weakly: what no view, stream
// or quarantine holds goes away by itself.
type interner struct {
	mu      sync.Mutex
	entries map[entryKey]weak.Pointer[Entry]
}

func (in *interner) get(t Type, name, version string, build func() (*Entry, error)) (*Entry, error) {
	key := entryKey{t, name, version}
	in.mu.Lock()
	defer in.mu.Unlock()
	if e := in.entries[key].Value(); e != nil {
		return e, nil
	}
	e, err := build()
	if err != nil {
		return nil, err
	}
	if in.entries == nil {
		in.entries = make(map[entryKey]weak.Pointer[Entry])
	}
	p := weak.Make(e)
	in.entries[key] = p
	runtime.AddCleanup(e, func(key entryKey) {
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.entries[key] == p {
			delete(in.entries, key)
		}
	}, key)
	return e, nil
}

func (in *interner) resource(t Type, r envoy.Resource) (*Entry, error) {
	return in.get(t, r.Name, r.Version, func() (*Entry, error) {
		e := &Entry{Type: t, Name: r.Name, Version: r.Version, Sources: r.Sources}
		e.encode(r.Body)
		if t == Cluster {
			name, err := endpointsOf(r.Name, r.Body)
			if err != nil {
				return nil, err
			}
			e.endpoints = name
		}
		return e, nil
	})
}

// fillerVersion is the version of an assignment that says "no endpoints" because nobody published one.
const fillerVersion = "none"

func (in *interner) filler(name string) *Entry {
	e, _ := in.get(Endpoint, name, fillerVersion, func() (*Entry, error) {
		body := protowire.AppendTag(nil, 1, protowire.BytesType) // ClusterLoadAssignment.cluster_name
		body = protowire.AppendString(body, name)
		e := &Entry{Type: Endpoint, Name: name, Version: fillerVersion, filler: true}
		e.encode(body)
		return e, nil
	})
	return e
}

// Field numbers of envoy.service.discovery.v3, whose messages are written by hand here so that each
// resource is encoded once.
const (
	responseResources = 2
	responseTypeURL   = 4
	responseNonce     = 5
	responseRemoved   = 6

	resourceVersion = 1
	resourceBody    = 2
	resourceName    = 3

	anyTypeURL = 1
	anyValue   = 2
)

// encode makes the wire form around a message.
func (e *Entry) encode(body []byte) {
	url := e.Type.URL()
	anySize := sizeBytes(anyTypeURL, len(url)) + sizeBytes(anyValue, len(body))
	nameSize := sizeBytes(resourceName, len(e.Name))
	size := sizeBytes(resourceVersion, len(e.Version)) + sizeBytes(resourceBody, anySize) + nameSize
	b := make([]byte, 0, sizeBytes(responseResources, size)-len(body))
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, resourceVersion, protowire.BytesType)
	b = protowire.AppendString(b, e.Version)
	b = protowire.AppendTag(b, resourceBody, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anySize))
	e.message = len(b)
	b = protowire.AppendTag(b, anyTypeURL, protowire.BytesType)
	b = protowire.AppendString(b, url)
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(body)))
	head := len(b)
	b = protowire.AppendTag(b, resourceName, protowire.BytesType)
	b = protowire.AppendString(b, e.Name)
	e.wire = [3]mem.Buffer{mem.SliceBuffer(b[:head:head]), mem.SliceBuffer(body), mem.SliceBuffer(b[head:])}
}

// any is the google.protobuf.Any within the wire form.
func (e *Entry) any() (head, value []byte) {
	return e.wire[0].ReadOnlyData()[e.message:], e.wire[1].ReadOnlyData()
}

func sizeBytes(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}

// endpointsOf reads the EDS name of a marshalled cluster: eds_cluster_config.service_name, or its own
// name; empty when the cluster's type is not EDS.
func endpointsOf(name string, body []byte) (string, error) {
	const (
		clusterType      = 2
		clusterEDSConfig = 3
		edsServiceName   = 2
		discoveryEDS     = 3
	)
	eds, service := false, ""
	err := eachField(body, func(num protowire.Number, varint uint64, b []byte) error {
		switch num {
		case clusterType:
			eds = varint == discoveryEDS
		case clusterEDSConfig:
			return eachField(b, func(num protowire.Number, _ uint64, b []byte) error {
				if num == edsServiceName {
					service = string(b)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("cluster %q is no protobuf message: %w", name, err)
	}
	switch {
	case !eds:
		return "", nil
	case service != "":
		return service, nil
	}
	return name, nil
}

// eachField calls f for every field of a message: with its number for a varint, its bytes for a string
// or message. Other wire types are passed over.
func eachField(b []byte, f func(num protowire.Number, varint uint64, bytes []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var err error
		switch typ {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				err = f(num, v, nil)
			}
		case protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				err = f(num, 0, v)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
