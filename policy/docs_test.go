package policy_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// TestDocumentedPolicies applies the examples of docs/failover.md, and holds the defaults there to the code.
func TestDocumentedPolicies(t *testing.T) {
	page, err := os.ReadFile("../docs/failover.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for i, block := range strings.Split(string(page), "```") {
		text, ok := strings.CutPrefix(block, "yaml\n")
		if i%2 == 0 || !ok {
			continue
		}
		examples++
		var doc struct {
			APIVersion string
			Kind       mesh.Kind
			Metadata   struct{ Name, Namespace string }
			Spec       json.RawMessage
		}
		if err := yaml.UnmarshalStrict([]byte(text), &doc); err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		res := mesh.Resource{
			Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: doc.Kind, Namespace: doc.Metadata.Namespace, Name: doc.Metadata.Name},
			APIVersion: doc.APIVersion, Spec: doc.Spec,
		}
		if wrong := policy.Validate(res); wrong != nil {
			t.Errorf("%s\n%+v", text, wrong)
			continue
		}
		if c, err := policy.DecodeAs[policy.MeshConfig](res); err == nil {
			if diff := cmp.Diff(policy.MeshConfig{}.DetectionSettings(), c.DetectionSettings()); diff != "" {
				t.Errorf("the defaults of detection (-code +page):\n%s", diff)
			}
			if diff := cmp.Diff(policy.MeshConfig{}.TrustSettings(), c.TrustSettings()); diff != "" {
				t.Errorf("the defaults of trust (-code +page):\n%s", diff)
			}
		}
	}
	if examples != 4 {
		t.Errorf("%d examples, want 4", examples)
	}
}
