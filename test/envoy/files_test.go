package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/comity-mesh/comity/xds/envoy"
)

type object = map[string]any

// files writes resources as the files of Envoy's filesystem subscriptions, each replaced by a rename,
// which Envoy watches for. References to ADS and to the agent's SDS become references to those files.
type files struct {
	dir string
	was map[string]string
}

func newFiles(t *testing.T) *files {
	t.Helper()
	f := &files{dir: t.TempDir(), was: map[string]string{}}
	if err := os.MkdirAll(filepath.Join(f.dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

// fileOf is the file of one named resource; names hold slashes and colons.
func (f *files) fileOf(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(f.dir, kind+"-"+hex.EncodeToString(sum[:8])+".json")
}

func (f *files) source(file string) object {
	return object{"pathConfigSource": object{"path": file}, "resourceApiVersion": "V3"}
}

// write publishes resources in the order that the zone keeps: secrets, endpoints, clusters, routes,
// listeners.
func (f *files) write(t *testing.T, resources []envoy.Resource) {
	t.Helper()
	var clusters, listeners []any
	for _, kind := range []string{envoy.TypeSecret, envoy.TypeEndpoint, envoy.TypeCluster, envoy.TypeFilter, envoy.TypeRoute, envoy.TypeListener} {
		for _, r := range resources {
			if r.Type != kind {
				continue
			}
			tree := f.rewrite(asTree(t, r), r.Name)
			switch kind {
			case envoy.TypeSecret:
				f.put(t, f.fileOf("sds", r.Name), tree)
			case envoy.TypeEndpoint:
				f.put(t, f.fileOf("eds", r.Name), tree)
			case envoy.TypeFilter:
				f.put(t, f.fileOf("ecds", r.Name), tree)
			case envoy.TypeRoute:
				f.put(t, f.fileOf("rds", r.Name), tree)
			case envoy.TypeCluster:
				clusters = append(clusters, tree)
			case envoy.TypeListener:
				listeners = append(listeners, tree)
			}
		}
		switch kind {
		case envoy.TypeCluster:
			f.put(t, filepath.Join(f.dir, "cds.json"), clusters...)
		case envoy.TypeListener:
			f.put(t, filepath.Join(f.dir, "lds.json"), listeners...)
		}
	}
}

func (f *files) put(t *testing.T, file string, resources ...any) {
	t.Helper()
	raw, err := json.Marshal(object{"resources": resources})
	if err != nil {
		t.Fatal(err)
	}
	if f.was[file] == string(raw) {
		return
	}
	f.was[file] = string(raw)
	tmp := filepath.Join(f.dir, "tmp", filepath.Base(file))
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, file); err != nil {
		t.Fatal(err)
	}
}

func asTree(t *testing.T, r envoy.Resource) object {
	t.Helper()
	raw, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var tree object
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	tree["@type"] = r.Type
	return tree
}

// rewrite replaces configuration sources; name is that of the resource, by which a cluster's endpoints
// are found.
func (f *files) rewrite(tree object, name string) object {
	for key, v := range tree {
		switch v := v.(type) {
		case object:
			switch key {
			case "configDiscovery":
				filter, _ := tree["name"].(string)
				v["configSource"] = f.source(f.fileOf("ecds", filter))
			case "sdsConfig":
				secret, _ := tree["name"].(string)
				tree[key] = f.source(f.fileOf("sds", secret))
			case "edsConfig":
				tree[key] = f.source(f.fileOf("eds", name))
			case "configSource":
				table, _ := tree["routeConfigName"].(string)
				tree[key] = f.source(f.fileOf("rds", table))
			default:
				f.rewrite(v, name)
			}
		case []any:
			for _, e := range v {
				if o, ok := e.(object); ok {
					f.rewrite(o, name)
				}
			}
		}
	}
	return tree
}
