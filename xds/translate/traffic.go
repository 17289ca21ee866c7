package translate

import (
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// ServiceOf names the service that an outbound cluster leads to, pinned to a zone or an instance or not. Other clusters
// lead to none.
func ServiceOf(cluster string) (topology.ServiceName, bool) {
	host, port, _ := strings.Cut(cluster, ":")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return topology.ServiceName{}, false
	}
	labels := strings.Split(host, ".")
	if len(labels) < 2 || len(labels) > 4 {
		return topology.ServiceName{}, false
	}
	for _, l := range labels {
		if mesh.CheckLabel(l) != nil {
			return topology.ServiceName{}, false
		}
	}
	if len(labels) == 4 {
		labels = labels[1:] // of one instance
	}
	return topology.ServiceName{Namespace: labels[1], Name: labels[0]}, true
}
