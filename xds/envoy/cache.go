package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// Cache remembers what was built, so that each version of a resource is built and marshalled once for
// all proxies and all revisions. It is safe for concurrent use. The nil Cache remembers nothing.
type Cache struct {
	mu sync.Mutex
	// Two generations: what is used moves to the young one, and the old one is dropped by Turn.
	young, old map[cacheKey]made
	// shared is what BuildShared has built since the last Turn.
	shared map[*ir.Proxy][]Resource
}

// made is one version of a resource: its message, and which of the protocol's rules it breaks.
type made struct {
	body    []byte
	invalid error
}

type cacheKey struct{ typeURL, name, version string }

// NewCache makes an empty cache.
func NewCache() *Cache {
	return &Cache{young: map[cacheKey]made{}, old: map[cacheKey]made{}, shared: map[*ir.Proxy][]Resource{}}
}

// Turn forgets what was not used since the last Turn. Call it when all proxies were built.
func (c *Cache) Turn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.old, c.young = c.young, make(map[cacheKey]made, len(c.young))
	clear(c.shared)
}

// BuildShared is Build of what many proxies share: it is done once until the next Turn, however many point to it.
func (c *Cache) BuildShared(shared *ir.Proxy) ([]Resource, error) {
	c.mu.Lock()
	common, known := c.shared[shared]
	c.mu.Unlock()
	if known {
		return common, nil
	}
	common, err := c.Build(*shared)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.shared[shared] = common
	c.mu.Unlock()
	return common, nil
}

// Validate is the function Validate, with memory: what this cache has built was judged then.
func (c *Cache) Validate(resources []Resource) []Invalid {
	var out []Invalid
	for _, r := range resources {
		k := cacheKey{r.Type, r.Name, r.Version}
		c.mu.Lock()
		m, known := c.young[k]
		c.mu.Unlock()
		switch {
		case !known:
			out = append(out, Validate([]Resource{r})...)
		case m.invalid != nil:
			out = append(out, Invalid{Resource: r, Err: fmt.Errorf("%s: %w", r, m.invalid)})
		}
	}
	return out
}

// Build is the function Build, with memory.
func (c *Cache) Build(p ir.Proxy) ([]Resource, error) {
	out := make([]Resource, 0, len(p.Clusters)+len(p.Endpoints)+len(p.Secrets)+len(p.Routes)+len(p.Listeners))
	var err error
	for _, o := range p.Clusters {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeCluster, o.Name, s, o, clusterMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Endpoints {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeEndpoint, o.Cluster, s, o, endpointsMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Secrets {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeSecret, o.Name, s, o, secretMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Admissions {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeFilter, o.Name, s, o, admissionMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Routes {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeRoute, o.Name, s, o, routesMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Listeners {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeListener, o.Name, s, o, listenerMessage); err != nil {
			return nil, err
		}
	}
	for _, o := range p.Targets {
		s := o.Sources
		o.Sources = nil
		if out, err = add(c, out, TypeListener, o.Name, s, o, targetMessage); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *Cache) made(typeURL, name, version string, build func() (made, error)) (made, error) {
	if c == nil {
		return build()
	}
	k := cacheKey{typeURL, name, version}
	c.mu.Lock()
	b, ok := c.young[k]
	if !ok {
		if b, ok = c.old[k]; ok {
			c.young[k] = b
		}
	}
	c.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := build()
	if err != nil {
		return made{}, err
	}
	c.mu.Lock()
	c.young[k] = b
	c.mu.Unlock()
	return b, nil
}

// decode reads the message of a resource.
func decode(r Resource) (proto.Message, error) {
	m, err := emptyMessage(r.Type)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return m, nil
}

// JSON is the resource as Envoy's own documentation writes it, for people and files. The form is that
// of protojson, without its random spaces.
func (r Resource) JSON() ([]byte, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return out.Bytes(), nil
}
