package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// TestInspect: what a proxy runs can be asked at its zone and from global, through both; one that is away says so, soon.
func TestInspect(t *testing.T) {
	global := startGlobal(t)
	east := startZone(t, "east")
	global.apply(payService(app(t, "pay")) + "---" + allowAll)
	east.joins(global, "shop")
	pay := east.workload("pay")
	id := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "pay"}
	for name, at := range map[string]*controlPlane{"zone": east.controlPlane, "global": global} {
		for what, part := range map[string]string{"config": "inbound/pay.shop:8080", "stats": "server.live: 1", "clusters": "pay.shop:8080"} {
			data, err := at.Inspect(ctxOf(t), "east", id, what)
			if err != nil {
				t.Fatalf("%s of the zone by %s: %v", what, name, err)
			}
			if !strings.Contains(string(data), part) {
				t.Errorf("%s by %s: %q is not in its %d bytes", what, name, part, len(data))
			}
			if what != "stats" && !json.Valid(data) {
				t.Errorf("%s by %s is no JSON", what, name)
			}
			if strings.Contains(string(data), "PRIVATE KEY") {
				t.Errorf("%s by %s shows a key", what, name)
			}
		}
	}
	if _, err := global.Inspect(ctxOf(t), "east", mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "nobody"}, "stats"); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("of one that is not there: %v", err)
	}
	pay.stop(syscall.SIGTERM)
	await(t, "one that left is not asked", func() error {
		_, err := east.Inspect(ctxOf(t), "", id, "stats")
		if err == nil {
			return errors.New("it still answers")
		}
		if !strings.Contains(err.Error(), "not connected") {
			return err
		}
		return nil
	})
}
