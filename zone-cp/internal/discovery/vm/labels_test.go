package vm

import (
	"strings"
	"testing"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// TestLabelsAreTheTokens: labels decide for which services a workload answers, so a sidecar can't claim any.
func TestLabelsAreTheTokens(t *testing.T) {
	peer := &Peer{Proxy: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "imposter"}, ServiceAccount: "nobody", Labels: map[string]string{"app": "nobody"}}
	check := func(mesh.Key, map[string]string, []byte) (policy.Workload, error) {
		return policy.Workload{ServiceAccount: "nobody"}, nil
	}
	for _, claimed := range []map[string]string{{"app": "web"}, {"app": "nobody", "tier": "front"}, {"": ""}} {
		report := &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Workload{Workload: &enrolpb.WorkloadSpec{Spec: []byte("{}"), Labels: claimed}}}
		code, err := new(Session).take(peer, report, check)
		if err == nil || code != codeNotAllowed || !strings.Contains(err.Error(), "enrolment token") {
			t.Errorf("labels %v: code %q, %v", claimed, code, err)
		}
	}
}
