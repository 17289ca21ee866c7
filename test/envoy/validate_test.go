package envoy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/dataplane"
	"github.com/comity-mesh/comity/dataplane/sds"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/xds/translate"
)

func envoyPath(t *testing.T) string {
	t.Helper()
	path, err := envoybin.Path()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestValidate gives every golden input's configuration to the real Envoy, everything inlined, so that
// it reads routes, endpoints and secrets too.
func TestValidate(t *testing.T) {
	inputs, err := filepath.Glob("../../xds/translate/testdata/*/input.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	bin := envoyPath(t)
	for _, file := range inputs {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			topo, _ := topology.Build(topologytest.Load(t, file))
			seen := map[string]bool{}
			for _, p := range topo.Proxies() {
				if seen[p.ViewKey] || p.Proxyless { // no Envoy reads that
					continue
				}
				seen[p.ViewKey] = true
				resources, err := envoy.Build(translate.Proxy(topo, p))
				if err != nil {
					t.Fatal(err)
				}
				takes(t, bin, p.ID.String(), resources)
				boot := filepath.Join(t.TempDir(), "bootstrap.json")
				raw, err := json.Marshal(inlined(t, resources))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(boot, raw, 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.CommandContext(t.Context(), bin, "--mode", "validate", "-c", boot, "-l", "error").CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v\n%s", p.ID, err, out)
				}
			}
		})
	}
}

// takes has the Envoy try the resources as a zone has patched ones tried: what Comity makes must not be refused there.
func takes(t *testing.T, bin, proxy string, resources []envoy.Resource) {
	t.Helper()
	bootstrap, err := envoy.Trial(resources, envoy.Clusters(resources))
	if err != nil {
		t.Fatal(err)
	}
	if refusal, err := envoybin.Validate(t.Context(), bin, t.TempDir(), bootstrap); err != nil || refusal != "" {
		t.Errorf("%s: tried: %s, %v", proxy, refusal, err)
	}
}

// inlined is a bootstrap in which every reference is replaced by what it names.
func inlined(t *testing.T, resources []envoy.Resource) object {
	t.Helper()
	in := &inliner{named: map[string]object{}}
	var clusters, listeners, secrets []any
	for _, r := range resources {
		tree := asTree(t, r)
		delete(tree, "@type")
		in.named[r.Type+" "+r.Name] = tree
		switch r.Type {
		case envoy.TypeCluster:
			clusters = append(clusters, tree)
		case envoy.TypeListener:
			listeners = append(listeners, tree)
		case envoy.TypeSecret:
			secrets = append(secrets, tree)
		}
	}
	ca := newAuthority(t, "one.example")
	secrets = append(secrets, ca.secret(t, ca.issue(t, "/ns/shop/sa/web")))
	for _, list := range [][]any{clusters, listeners} {
		for _, tree := range list {
			if o, ok := tree.(object); ok {
				in.rewrite(o)
			}
		}
	}
	secrets = append(secrets, in.agentSecrets(t, ca)...)
	if len(in.missing) > 0 {
		t.Errorf("named but not there: %v", in.missing)
	}
	return object{"bootstrap_extensions": dataplane.BootstrapExtensions(), "static_resources": object{"clusters": clusters, "listeners": listeners, "secrets": secrets}}
}

type inliner struct {
	named   map[string]object
	missing []string
	files   []string // secrets that the agent makes of files
}

// agentSecrets are what an agent makes of files, for the names that were met.
func (in *inliner) agentSecrets(t *testing.T, ca authority) (secrets []any) {
	t.Helper()
	slices.Sort(in.files)
	for _, name := range slices.Compact(in.files) {
		s := ca.secret(t, ca.issue(t, "/ns/shop/sa/web"))
		if !strings.HasPrefix(name, sds.CertificatePrefix) {
			s = object{"validationContext": object{"trustedCa": object{"inlineBytes": ca.bundle()}}}
		}
		s["name"] = name
		secrets = append(secrets, s)
	}
	return secrets
}

func (in *inliner) find(kind string, name any) object {
	s, _ := name.(string)
	o, ok := in.named[kind+" "+s]
	if !ok {
		in.missing = append(in.missing, s)
	}
	return o
}

func (in *inliner) rewrite(tree object) {
	if _, ok := tree["edsClusterConfig"]; ok {
		tree["loadAssignment"] = in.find(envoy.TypeEndpoint, tree["name"])
		tree["type"] = "STATIC"
		delete(tree, "edsClusterConfig")
	}
	if rds, ok := tree["rds"].(object); ok {
		tree["routeConfig"] = in.find(envoy.TypeRoute, rds["routeConfigName"])
		delete(tree, "rds")
	}
	if _, ok := tree["configDiscovery"]; ok {
		tree["typedConfig"] = in.find(envoy.TypeFilter, tree["name"])["typedConfig"]
		delete(tree, "configDiscovery")
	}
	if _, ok := tree["sdsConfig"]; ok {
		name, _ := tree["name"].(string)
		switch {
		case name == sds.SystemRoots || strings.HasPrefix(name, sds.CertificatePrefix) || strings.HasPrefix(name, sds.AuthorityPrefix):
			in.files = append(in.files, name)
		case name != envoy.IdentitySecret:
			in.find(envoy.TypeSecret, name)
		}
		delete(tree, "sdsConfig") // a static secret of the name is used
	}
	for _, v := range tree {
		switch v := v.(type) {
		case object:
			in.rewrite(v)
		case []any:
			for _, e := range v {
				if o, ok := e.(object); ok {
					in.rewrite(o)
				}
			}
		}
	}
}
