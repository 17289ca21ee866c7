package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/check"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// Where the ingresses of zones are for who compiles without a mesh: addresses of documentation (RFC 5737).
const (
	compiledIngress     = "192.0.2.1"
	compiledIngressPort = 15443
)

func (s *shell) compileCommand() *cobra.Command {
	var (
		files     []string
		recursive bool
		zone      string
		proxy     string
		asIR      bool
		validate  bool
	)
	cmd := &cobra.Command{
		Use:   "compile -f FILE --proxy PROXY",
		Short: "Render a proxy's configuration from documents, without a mesh",
		Long: `compile reads documents as apply does, checks them, and prints what a zone's control plane would send to a proxy: Envoy's
clusters, endpoints, secrets (whom to trust; there are no keys), routes and listeners. What would be noted in the
statuses of the resources goes to standard error.

What a mesh finds out by itself must be in the documents or is made up: Workloads (kind Workload, whose metadata.origin is the zone
where it runs; the one zone if there is but one), of every Zone a trust domain (spec.trustDomain, else status.trustDomain, else NAME.example) with a root
certificate made for the purpose, and an ingress "gate" at ` + compiledIngress + `. Workloads count as ready.

PROXY is NAMESPACE/WORKLOAD, or ingress/gate.`,
		Example: `  comity compile -f shop/ --proxy shop/web-1
  comity compile -f shop/ --zone east --proxy ingress/gate -o json
  comity get zones,services,httproutes,authorizationpolicies,workloads -A -o yaml | comity compile -f - --proxy shop/web-1 --ir`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := s.manifests(files, recursive)
			if err != nil {
				return err
			}
			c, err := readCompiled(docs)
			if err != nil {
				return err
			}
			if asIR && validate {
				return usage("--validate is about Envoy's messages, and --ir shows none")
			}
			resources, err := s.compile(c, zone, proxy, asIR)
			if err != nil || !validate {
				return err
			}
			return s.tryCompiled(cmd.Context(), resources)
		},
	}
	documentFlags(cmd, &files, &recursive)
	cmd.Flags().StringVar(&zone, "zone", "", "zone of the proxy (default: the only one that has it)")
	cmd.Flags().StringVar(&proxy, "proxy", "", "proxy to compile for")
	cmd.Flags().BoolVar(&validate, "validate", false, "have an Envoy of this machine read it, too, which says what else it would refuse; scripts in it run")
	cmd.Flags().BoolVar(&asIR, "ir", false, "print Comity's own form instead of Envoy's messages")
	must(cmd.MarkFlagRequired("filename"))
	must(cmd.MarkFlagRequired("proxy"))
	return cmd
}

// compiled is what documents say about a whole mesh.
type compiled struct {
	resources []mesh.Resource
	zones     []string
	trust     map[string]mesh.TrustDomain
	workloads map[string][]topology.Workload // by zone
}

// readCompiled reads and checks documents, lists of them included. The order in which they stand is that of their creation. Of documents that are
// not valid everything that is wrong is said at once.
func readCompiled(docs *documents) (*compiled, error) {
	c := &compiled{trust: map[string]mesh.TrustDomain{}, workloads: map[string][]topology.Workload{}}
	all, err := docs.resources()
	if err != nil {
		return nil, err
	}
	var workloads []mesh.Resource
	var wrong []client.ProblemField
	for _, m := range all {
		res, bad := compiledResource(m.Object, mesh.Revision(len(c.resources)+1))
		if bad != nil {
			wrong = append(wrong, problemFields(m.at, res.Kind, bad)...)
			continue
		}
		if res.Kind == mesh.KindWorkload {
			workloads = append(workloads, res)
			continue
		}
		if z, err := policy.DecodeAs[policy.Zone](res); err == nil {
			c.zones = append(c.zones, res.Name)
			joined := decodeInto[struct{ TrustDomain mesh.TrustDomain }](m.Status) // as a live mesh says
			c.trust[res.Name] = cmp.Or(z.TrustDomain, joined.TrustDomain, mesh.TrustDomain(res.Name+".example"))
		}
		c.resources = append(c.resources, res)
	}
	if wrong != nil {
		return nil, docs.invalid("COMPILE-INVALID", wrong)
	}
	if len(c.zones) == 0 {
		return nil, &fault.Error{Code: "COMPILE-NO-ZONE", What: "the documents have no Zone", Exit: fault.ExitUsage,
			Cause: "a proxy belongs to a zone, which says who it trusts", Try: "add a document of kind Zone, as in: {apiVersion: mesh.comity.dev/v1alpha1, kind: Zone, metadata: {name: east}, spec: {namespaces: [\"*\"]}}"}
	}
	for _, res := range workloads {
		if err := c.addWorkload(res); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// compiledResource is the resource that a document asks for, and what is wrong with it by the checks of apply.
func compiledResource(o client.Object, created mesh.Revision) (mesh.Resource, []policy.FieldError) {
	res := mesh.Resource{
		Key:        mesh.Key{Origin: cmp.Or(o.Metadata.Origin, mesh.OriginGlobal), Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name},
		APIVersion: o.APIVersion, Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations, Spec: o.Spec, Created: created,
	}
	if info, ok := policy.Lookup(string(o.Kind)); ok && info.Namespaced && res.Namespace == "" {
		res.Namespace = "default"
	}
	bad := policy.Validate(res)
	if bad == nil {
		bad = check.Resource(res)
	}
	return res, bad
}

func (c *compiled) addWorkload(res mesh.Resource) error {
	spec, err := policy.DecodeAs[policy.Workload](res)
	if err != nil {
		return err
	}
	zone := string(res.Origin)
	if res.Origin == mesh.OriginGlobal && len(c.zones) == 1 {
		zone = c.zones[0]
	}
	td, ok := c.trust[zone]
	if !ok {
		return usage("Workload %s/%s is of zone %q, which the documents don't have: set metadata.origin to one of %s", res.Namespace, res.Name, zone, strings.Join(c.zones, ", "))
	}
	c.workloads[zone] = append(c.workloads[zone], topology.Workload{
		Namespace: res.Namespace, Name: res.Name, Labels: res.Labels, Spec: *spec, Healthy: true,
		Identity: td.WorkloadID(res.Namespace, spec.ServiceAccount),
	})
	return nil
}

// topology is a zone with all it would hear of the others.
func (c *compiled) topology(zone string) (*topology.Topology, []topology.Issue, error) {
	roots := map[mesh.TrustDomain][]byte{}
	for _, td := range c.trust {
		root, err := compiledRoot(td)
		if err != nil {
			return nil, nil, err
		}
		roots[td] = root
	}
	input := func(zone string) topology.Input {
		return topology.Input{
			Zone: zone, TrustDomain: c.trust[zone], Resources: c.resources, Workloads: c.workloads[zone], Roots: roots,
			Ingresses: []topology.IngressProxy{{Name: "gate", BindAddress: compiledIngress, BindPorts: []uint16{compiledIngressPort}}},
		}
	}
	in := input(zone)
	for _, other := range c.zones {
		if other == zone {
			continue
		}
		t, _ := topology.Build(input(other)) // its issues are its own
		in.Remotes = append(in.Remotes, topology.Remote{
			Zone: other, TrustDomain: c.trust[other], Exports: t.Exports(),
			Ingresses: []topology.RemoteIngress{{
				Ingress: mesh.Ingress{ID: "gate", Host: compiledIngress, Ports: []uint16{compiledIngressPort}}, Addresses: []string{compiledIngress},
			}},
		})
	}
	t, issues := topology.Build(in)
	return t, issues, nil
}

// compiledRoot is the same for the same trust domain, so that what is compiled is the same, too. Nobody has its key.
func compiledRoot(td mesh.TrustDomain) ([]byte, error) {
	seed := sha256.Sum256([]byte("comity compile " + td))
	key := ed25519.NewKeyFromSeed(seed[:])
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "made up by comity compile"},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: string(td)}},
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return identity.PEMCertificates(cert), nil
}

// compile prints what a proxy is sent, and returns it.
func (s *shell) compile(c *compiled, zone, name string, asIR bool) ([]envoy.Resource, error) {
	t, issues, p, err := c.find(zone, name)
	if err != nil {
		return nil, err
	}
	for _, i := range issues {
		s.say("%s %s: %s", i.Key.Kind, strings.TrimPrefix(i.Key.Namespace+"/"+i.Key.Name, "/"), i.Message)
	}
	out := translate.Proxy(t, p)
	if asIR {
		return nil, s.writeDocument(out)
	}
	resources, err := envoy.Build(out)
	if err != nil {
		return nil, err
	}
	list := make([]compiledOutput, len(resources))
	for i, r := range resources {
		raw, err := r.JSON()
		if err != nil {
			return nil, err
		}
		list[i] = compiledOutput{Type: r.Type, Name: r.Name, Version: r.Version, Sources: sourceNames(r.Sources), Resource: raw}
	}
	if err := s.writeDocument(list); err != nil {
		return nil, err
	}
	var refused []string
	for _, bad := range envoy.Validate(resources) {
		refused = append(refused, bad.Err.Error())
	}
	if refused != nil {
		return nil, &fault.Error{Code: "COMPILE-REFUSED", What: "Envoy would refuse some of it", Cause: strings.Join(refused, "; "),
			Try: "the resources that shaped it stand at its sources; a mesh would hold them at their last good version"}
	}
	return resources, nil
}

// tryLimit is how long an Envoy may read what was compiled.
const tryLimit = 30 * time.Second

// tryCompiled has an Envoy of this machine read what was compiled.
func (s *shell) tryCompiled(ctx context.Context, resources []envoy.Resource) error {
	program, err := envoybin.Path()
	if err != nil {
		return err
	}
	bootstrap, err := envoy.Trial(resources, envoy.Clusters(resources))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	refusal, err := envoybin.Validate(ctx, program, "", bootstrap)
	if err != nil {
		return &fault.Error{Code: "COMPILE-UNTRIED", What: "Envoy could not be asked", Err: err, Try: "see that " + program + " runs, or leave out --validate"}
	}
	if refusal != "" {
		return &fault.Error{Code: "COMPILE-REFUSED", What: "Envoy refuses it", Cause: refusal, Try: "the resources that shaped it stand at its sources"}
	}
	s.say("Envoy takes it (%s)", program)
	return nil
}

// compiledOutput is one of Envoy's resources.
type compiledOutput struct {
	Type     string          `json:"type"`
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	Sources  []string        `json:"sources,omitempty"`
	Resource json.RawMessage `json:"resource"`
}

func sourceNames(keys []mesh.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	return out
}

// writeDocument prints a value as JSON where that is asked for, else as YAML.
func (s *shell) writeDocument(v any) error {
	f := formatYAML
	if s.output == formatJSON {
		f = formatJSON
	}
	_, err := writeValue(s.out, f, v)
	return err
}

// find builds the zone that has the proxy.
func (c *compiled) find(zone, name string) (*topology.Topology, []topology.Issue, topology.Proxy, error) {
	zones := c.zones
	if zone != "" {
		if !slices.Contains(c.zones, zone) {
			return nil, nil, topology.Proxy{}, usage("the documents have no zone %q, but %s", zone, strings.Join(c.zones, ", "))
		}
		zones = []string{zone}
	}
	type hit struct {
		zone   string
		t      *topology.Topology
		issues []topology.Issue
		p      topology.Proxy
	}
	var hits []hit
	var known []string
	for _, z := range zones {
		t, issues, err := c.topology(z)
		if err != nil {
			return nil, nil, topology.Proxy{}, err
		}
		for _, p := range t.Proxies() {
			known = append(known, proxyName(p.ID))
			if name == proxyName(p.ID) || name == p.ID.Name || name == p.ID.String() {
				hits = append(hits, hit{z, t, issues, p})
			}
		}
	}
	switch len(hits) {
	case 1:
		return hits[0].t, hits[0].issues, hits[0].p, nil
	case 0:
		slices.Sort(known)
		return nil, nil, topology.Proxy{}, &fault.Error{Code: "COMPILE-NO-PROXY", What: fmt.Sprintf("there is no proxy %q", name), Exit: fault.ExitUsage,
			Cause: "the documents make these: " + strings.Join(slices.Compact(known), ", "), Try: "name one of them, or add a document of kind Workload"}
	}
	var in []string
	for _, h := range hits {
		in = append(in, h.zone)
	}
	return nil, nil, topology.Proxy{}, usage("several zones have a proxy %q: say --zone, one of %s", name, strings.Join(in, ", "))
}
