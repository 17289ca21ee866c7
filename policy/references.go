package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/internal/nearest"
	"github.com/comity-mesh/comity/mesh"
)

// Reference is a name in a resource of something that is elsewhere. Whether it is there is no question of validity: it may come later.
type Reference struct {
	// Pointer is where it stands, as in a FieldError.
	Pointer string
	To      Referent
	// Namespace of an account, or of a resource.
	Namespace string
	Name      string
	// Port of a service: its number or, if Number is 0, its name; neither for the whole of it.
	Number uint16
	Port   string
}

// Referent is what a name is of: one of the constants below or a kind of resources.
type Referent string

// What is no resource.
const (
	ToZone        Referent = "zone"
	ToCloud       Referent = "cloud"
	ToRegion      Referent = "region"
	ToTrustDomain Referent = "trust domain"
	ToNamespace   Referent = "namespace"       // that callers are of
	ToAccount     Referent = "service account" // that callers have
)

// References are the names in a resource, in the order in which they stand there. A spec that can't be read has none.
func References(res mesh.Resource) []Reference {
	var tree any
	if json.Unmarshal(res.Spec, &tree) != nil {
		tree = nil
	}
	w := refs{res: res}
	w.walk("/spec", "", tree)
	for i, account := range callersOf(res) {
		if i == 0 || account != "" {
			w.add(Reference{Pointer: ptr("/metadata/annotations", AnnotationCallers), To: ToAccount, Namespace: res.Namespace, Name: account})
		}
	}
	return w.list
}

// refs gathers references on a walk through a spec.
type refs struct {
	res  mesh.Resource
	list []Reference
}

func (w *refs) add(r Reference) {
	if r.Name != "" && !slices.Contains(w.list, r) {
		w.list = append(w.list, r)
	}
}

// walk visits a value with the name of the field that holds it, items of lists with that of the list.
func (w *refs) walk(at, field string, v any) {
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			w.walk(ptr(at, i), field, item)
		}
	case map[string]any:
		w.object(at, field, v)
		for _, k := range sortedKeys(v) {
			w.walk(ptr(at, k), k, v[k])
		}
	case string:
		if field == "identities" || field == "caller" && strings.Contains(at, "/overrides/") {
			w.identity(at, v)
		}
	}
}

// object takes the names of an object by what it is.
func (w *refs) object(at, field string, v map[string]any) {
	text := func(k string) string { s, _ := v[k].(string); return s }
	namespace := w.res.Namespace
	if n := text("namespace"); n != "" {
		namespace = n
	}
	switch {
	case field == "targetRef":
		w.add(Reference{Pointer: at + "/name", To: Referent(text("kind")), Namespace: w.res.Namespace, Name: text("name")})
		if k := mesh.Kind(text("kind")); text("sectionName") != "" && (k == mesh.KindService || k == mesh.KindExternalService) {
			w.add(Reference{Pointer: at + "/sectionName", To: Referent(k), Namespace: w.res.Namespace, Name: text("name"), Port: text("sectionName")})
		}
	case field == "parentRefs":
		kind := Referent(mesh.KindGateway)
		if text("kind") != "" {
			kind = Referent(text("kind"))
		}
		w.port(Reference{Pointer: at, To: kind, Namespace: namespace, Name: text("name")}, v["port"])
	case field == "backendRefs" || field == "backendRef":
		w.backend(at, namespace, text("kind"), text("name"), v["port"])
	case field == "service" && v["name"] != nil:
		w.port(Reference{Pointer: at, To: Referent(mesh.KindService), Namespace: namespace, Name: text("name")}, v["port"])
	case field == "from" && w.res.Kind == mesh.KindAuthorizationPolicy:
		w.callers(at, v)
	case field == "from" && w.res.Kind == mesh.KindReferenceGrant:
		w.add(Reference{Pointer: at + "/namespace", To: ToNamespace, Name: text("namespace")})
	case field == "zones" && w.res.Kind == mesh.KindFailoverPolicy:
		w.add(Reference{Pointer: at + "/zone", To: ToZone, Name: text("zone")})
		w.add(Reference{Pointer: at + "/cloud", To: ToCloud, Name: text("cloud")})
		w.add(Reference{Pointer: at + "/region", To: ToRegion, Name: text("region")})
	case field == "exit" && w.res.Kind == mesh.KindExternalService:
		w.zones(at, v)
	case field == "dependencies" && text("service") != "":
		w.add(Reference{Pointer: at + "/service", To: Referent(mesh.KindService), Namespace: namespace, Name: text("service")})
	case at == "/spec/egress/namespaces" && w.res.Kind == mesh.KindMeshConfig:
		for _, n := range sortedKeys(v) {
			w.add(Reference{Pointer: ptr(at, n), To: ToNamespace, Name: n})
		}
	}
}

// port adds a resource and, where one is given, its port.
func (w *refs) port(r Reference, port any) {
	whole := r
	whole.Pointer += "/name"
	w.add(whole)
	if n, ok := port.(float64); ok && n > 0 && n < 65536 && r.To == Referent(mesh.KindService) {
		r.Pointer, r.Number = r.Pointer+"/port", uint16(n)
		w.add(r)
	}
}

func (w *refs) backend(at, namespace, kind, name string, port any) {
	switch kind {
	case "", BackendService, BackendImport:
		kind = BackendService
	case BackendZone:
		service, zone, err := SplitZone(name)
		if err != nil {
			return
		}
		w.add(Reference{Pointer: at + "/name", To: ToZone, Name: zone})
		kind, name = BackendService, service
	}
	w.port(Reference{Pointer: at, To: Referent(kind), Namespace: namespace, Name: name}, port)
}

// texts are the strings of a list.
func texts(list any) (out []string) {
	items, _ := list.([]any)
	for _, item := range items {
		s, _ := item.(string)
		out = append(out, s)
	}
	return out
}

// zones takes the names of the field of this name.
func (w *refs) zones(at string, v map[string]any) {
	for i, z := range texts(v["zones"]) {
		w.add(Reference{Pointer: ptr(at+"/zones", i), To: ToZone, Name: z})
	}
}

// callers takes the names of a Source. Namespaces with accounts are named by the accounts.
func (w *refs) callers(at string, v map[string]any) {
	namespaces := texts(v["namespaces"])
	for i, n := range namespaces {
		w.add(Reference{Pointer: ptr(at+"/namespaces", i), To: ToNamespace, Name: n})
	}
	for i, a := range texts(v["serviceAccounts"]) {
		w.add(Reference{Pointer: ptr(at+"/serviceAccounts", i), To: ToAccount, Namespace: strings.Join(namespaces, ","), Name: a})
	}
	w.zones(at, v)
}

// identity takes the names of a SPIFFE ID of a workload, or of a prefix of some.
func (w *refs) identity(at, id string) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return
	}
	parts := strings.Split(rest, "/")
	w.add(Reference{Pointer: at, To: ToTrustDomain, Name: parts[0]})
	if len(parts) < 3 || parts[1] != "ns" {
		return
	}
	w.add(Reference{Pointer: at, To: ToNamespace, Name: parts[2]})
	if len(parts) == 5 && parts[3] == "sa" {
		w.add(Reference{Pointer: at, To: ToAccount, Namespace: parts[2], Name: parts[4]})
	}
}

// Known is what there is at a control plane, as far as it was looked for.
type Known struct {
	// Where was looked: "any zone", or "this zone".
	Where string
	// Names are those that exist by what they are of; what is no key was not looked for. Resources and accounts are named
	// NAMESPACE/NAME.
	Names map[Referent][]string
	// Ports of the services NAMESPACE/NAME.
	Ports map[string][]ServicePort
}

// Missing says of which references nothing is known, one sentence for each, with the name that was probably meant. Nothing is said of
// callers while there is nobody yet who could be meant: of an account in a namespace without workloads, of namespaces where there is no workload
// at all.
func (k Known) Missing(list []Reference) []string {
	var out []string
	for _, r := range list {
		if s := k.missing(r); s != "" {
			out = append(out, r.Pointer+": "+s)
		}
	}
	return out
}

func (k Known) missing(r Reference) string {
	names, looked := k.Names[r.To]
	switch {
	case !looked || r.Name == "*":
		return ""
	case r.Number != 0 || r.Port != "":
		return k.missingPort(r)
	case r.To == ToAccount:
		return k.missingAccount(r, names)
	case isResource(r.To):
		return k.missingResource(r, names)
	case len(names) == 0 || slices.Contains(names, r.Name):
		return ""
	}
	return k.sentence(string(r.To), r.Name, "", nearest.Word(r.Name, names))
}

func isResource(to Referent) bool { _, ok := exactKind(mesh.Kind(to)); return ok }

func (k Known) missingAccount(r Reference, all []string) string {
	var near []string
	in := strings.Split(r.Namespace, ",")
	for _, n := range all {
		namespace, account, _ := strings.Cut(n, "/")
		if !slices.Contains(in, namespace) {
			continue
		}
		if account == r.Name {
			return ""
		}
		near = append(near, account)
	}
	if near == nil {
		return ""
	}
	return k.sentence(string(r.To), r.Name, r.Namespace, nearest.Word(r.Name, near))
}

func (k Known) missingResource(r Reference, all []string) string {
	if slices.Contains(all, r.Namespace+"/"+r.Name) {
		return ""
	}
	var near, elsewhere []string
	for _, n := range all {
		namespace, name, _ := strings.Cut(n, "/")
		switch {
		case namespace == r.Namespace:
			near = append(near, name)
		case name == r.Name:
			elsewhere = append(elsewhere, n)
		}
	}
	meant := nearest.Word(r.Name, near)
	if meant == "" && len(elsewhere) > 0 {
		meant = elsewhere[0]
	}
	return k.sentence(string(r.To), r.Name, r.Namespace, meant)
}

func (k Known) missingPort(r Reference) string {
	ports, ok := k.Ports[r.Namespace+"/"+r.Name]
	if !ok {
		return "" // that the service is missing is said of its name
	}
	var have []string
	for _, p := range ports {
		if r.Number == p.Port && r.Number != 0 || r.Port == p.Name && r.Number == 0 {
			return ""
		}
		if have = append(have, strconv.Itoa(int(p.Port))); r.Number == 0 {
			have[len(have)-1] = p.Name
		}
	}
	port := strconv.Quote(r.Port)
	if r.Number != 0 {
		port = strconv.Itoa(int(r.Number))
	}
	return fmt.Sprintf("service %s/%s has no port %s; it has %s", r.Namespace, r.Name, port, strings.Join(have, ", "))
}

func (k Known) sentence(what, name, namespace, meant string) string {
	s := fmt.Sprintf("no %s %q is known", what, name)
	switch {
	case namespace != "":
		s += " in namespace " + strings.ReplaceAll(namespace, ",", ", ") + " of " + k.Where
	case what == string(ToNamespace):
		s += " in " + k.Where
	}
	if meant != "" {
		s += fmt.Sprintf("; did you mean %q?", meant)
	}
	return s
}
