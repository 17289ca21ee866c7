// Package topologytest loads topology inputs from YAML, for tests of the pipeline.
package topologytest

import (
	"embed"
	"os"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// Certificates of roots whose keys nobody has, valid for a hundred years, one per trust domain.
//
//go:embed roots
var roots embed.FS

// Load reads an input whose fields are named as in topology.Input. Roots of the trust domains
// one.example, two.example and three.example are there where the input names the domain.
func Load(t testing.TB, file string) topology.Input {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in topology.Input
	if err := yaml.UnmarshalStrict(raw, &in); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if in.Roots == nil {
		in.Roots = map[mesh.TrustDomain][]byte{}
	}
	addRoot(in, in.TrustDomain)
	for _, r := range in.Remotes {
		addRoot(in, r.TrustDomain)
	}
	return in
}

func addRoot(in topology.Input, td mesh.TrustDomain) {
	pem, err := roots.ReadFile("roots/" + string(td) + ".pem")
	if _, set := in.Roots[td]; err == nil && !set {
		in.Roots[td] = pem
	}
}
