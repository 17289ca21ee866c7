package translate_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/internal/golden"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestGolden shows for each feature what goes in (input.yaml), what it means (ir.yaml, issues.txt) and
// what Envoy is told (envoy.yaml).
func TestGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/input.yaml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			topo, issues := topology.Build(topologytest.Load(t, file))
			var irOut, envoyOut strings.Builder
			for _, p := range topo.Proxies() {
				out := translate.Proxy(topo, p)
				raw, err := yaml.Marshal(out)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&irOut, "---\n# %s\n%s", p.ID, raw)
				resources, err := envoy.Build(out)
				if err != nil {
					t.Fatal(err)
				}
				for _, bad := range envoy.Validate(resources) {
					t.Errorf("%s: %v", p.ID, bad.Err)
				}
				for _, r := range resources {
					raw, err := r.JSON()
					if err != nil {
						t.Fatal(err)
					}
					y, err := yaml.JSONToYAML(raw)
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(&envoyOut, "---\n# %s: %s\n%s", p.ID, r, y)
				}
			}
			golden.Compare(t, filepath.Join(dir, "ir.yaml"), []byte(irOut.String()))
			golden.Compare(t, filepath.Join(dir, "envoy.yaml"), []byte(envoyOut.String()))
			golden.Compare(t, filepath.Join(dir, "issues.txt"), []byte(issueText(issues)))
		})
	}
}

func issueText(issues []topology.Issue) string {
	var b strings.Builder
	for _, i := range issues {
		fmt.Fprintf(&b, "%s: %s\n", i.Key, i.Message)
	}
	return b.String()
}
