package translate

import (
	"testing"

	"github.com/comity-mesh/comity/xds/topology"
)

func TestServiceOf(t *testing.T) {
	pay := topology.ServiceName{Namespace: "shop", Name: "pay"}
	for _, cluster := range []string{clusterName(pay, 8080), pinnedName(pay, "west", 8080)} {
		if got, ok := ServiceOf(cluster); !ok || got != pay {
			t.Errorf("%s: %v, %v", cluster, got, ok)
		}
	}
	for _, cluster := range []string{"local/pay.shop:80", appName(80), inboundName(pay, 80, "west"), "pay.shop", "pay.shop:0", "pay.shop:http", "pay:80", "a.b.c.d.e:80", "Pay.shop:80", ""} {
		if got, ok := ServiceOf(cluster); ok {
			t.Errorf("%q is said to lead to %v", cluster, got)
		}
	}
}
