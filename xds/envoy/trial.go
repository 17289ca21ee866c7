package envoy

import (
	"encoding/json"
	"fmt"
)

// Names of a trial's own.
const (
	trialADS = "comity.trial.ads"
	// nowhere is a socket that nobody serves. An Envoy that validates neither opens nor connects to any.
	nowhere = "nowhere.sock"
)

// Trial is a bootstrap (JSON) by which an Envoy in validation mode says whether it would take resources: clusters, listeners
// and route tables as one proxy is sent them; others are passed over. The clusters that they name come along, found among
// clusters by name. What comes by other ways of discovery (endpoints, secrets, tables that are not among them) stays so: an Envoy that
// validates does not wait for it. The trial holds no key and opens no port.
func Trial(of []Resource, clusters map[string]Resource) ([]byte, error) {
	t := trial{clusters: clusters, seen: map[string]bool{LocalSDSCluster: true, trialADS: true}}
	t.loaded = append(t.loaded, standIn(LocalSDSCluster), standIn(trialADS))
	for _, r := range of {
		if err := t.add(r); err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
	}
	return json.Marshal(tree{
		"node": tree{"id": "trial", "cluster": "trial"},
		"dynamicResources": tree{"adsConfig": tree{
			"apiType": "DELTA_GRPC", "transportApiVersion": "V3", "grpcServices": []any{tree{"envoyGrpc": tree{"clusterName": trialADS}}},
		}},
		// As in every agent's bootstrap: listeners inside of the Envoy are refused without it.
		"bootstrapExtensions": []any{tree{"name": "envoy.bootstrap.internal_listener", "typedConfig": tree{
			"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
		}}},
		"staticResources": tree{"clusters": t.loaded, "listeners": t.listeners},
	})
}

// Clusters are those among resources by name.
func Clusters(of []Resource) map[string]Resource {
	out := map[string]Resource{}
	for _, r := range of {
		if r.Type == TypeCluster {
			out[r.Name] = r
		}
	}
	return out
}

type tree = map[string]any

type trial struct {
	clusters          map[string]Resource // that may be named
	seen              map[string]bool     // that are loaded
	loaded, listeners []any
}

func (t *trial) add(r Resource) error {
	if r.Type == TypeCluster && t.seen[r.Name] {
		return nil
	}
	raw, err := r.JSON()
	if err != nil {
		return err
	}
	var m tree
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	switch r.Type {
	case TypeCluster:
		t.seen[r.Name] = true
		t.loaded = append(t.loaded, m)
	case TypeListener:
		t.listeners = append(t.listeners, m)
	case TypeRoute:
		t.listeners = append(t.listeners, carrier(len(t.listeners), r.Name, m))
	default:
		return nil
	}
	return t.addNamed(m)
}

// addNamed adds the clusters that are named anywhere in a message: whether Envoy looks for one is up to each of its extensions.
func (t *trial) addNamed(v any) error {
	switch v := v.(type) {
	case tree:
		for _, x := range v {
			if err := t.addNamed(x); err != nil {
				return err
			}
		}
	case []any:
		for _, x := range v {
			if err := t.addNamed(x); err != nil {
				return err
			}
		}
	case string:
		if c, ok := t.clusters[v]; ok {
			return t.add(c)
		}
	}
	return nil
}

// carrier is a listener that is there for its route table.
func carrier(n int, name string, table tree) tree {
	if _, said := table["validateClusters"]; !said {
		table["validateClusters"] = false // as of a table that is discovered, where that is the default
	}
	return tree{
		"name":    "comity.trial." + name,
		"address": tree{"pipe": tree{"path": fmt.Sprintf("%d.%s", n, nowhere)}}, // no two may have the same
		"filterChains": []any{tree{"filters": []any{tree{"name": "http", "typedConfig": tree{
			"@type":      "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
			"statPrefix": "trial", "routeConfig": table,
			"httpFilters": []any{tree{"name": "router", "typedConfig": tree{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}},
		}}}}},
	}
}

// standIn is a cluster of the proxy's own bootstrap.
func standIn(name string) tree {
	return tree{
		"name": name, "type": "STATIC", "connectTimeout": "1s",
		"loadAssignment": tree{"clusterName": name, "endpoints": []any{tree{"lbEndpoints": []any{tree{"endpoint": tree{"address": tree{"pipe": tree{"path": nowhere}}}}}}}},
		"typedExtensionProtocolOptions": tree{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": tree{
			"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicitHttpConfig": tree{"http2ProtocolOptions": tree{}},
		}},
	}
}
