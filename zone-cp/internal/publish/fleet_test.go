package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// The fleet: 1,000 proxies of 20 kinds, 50 of each, that serve 100 services in 4 namespaces, 5 services a kind. Proxies of a
// kind differ in their addresses alone, so all that they run is the same but their listeners. What is said of the services
// is in testdata/fleet.yaml: some 700 resources.
const (
	fleetTeams    = 4
	fleetKinds    = 20
	fleetServices = 100
	fleetProxies  = 1000
)

func fleetTeam(kind int) string { return fmt.Sprintf("team-%d", kind*fleetTeams/fleetKinds) }

func fleetPicture() (out discovery.Picture) {
	for i := range fleetProxies {
		kind := i % fleetKinds
		app := fmt.Sprintf("app-%02d", kind)
		out.Workloads = append(out.Workloads, workload(fleetTeam(kind), fmt.Sprintf("%s-%03d", app, i/fleetKinds), app, fmt.Sprintf("10.0.%d.%d", i/200, i%200+1)))
	}
	return out
}

// fleetChanges are the resources of the fleet, each valid.
func fleetChanges(tb testing.TB) (out []store.Change) {
	tb.Helper()
	type service struct {
		Team, Name, Next, App string
		Port                  int
		Third                 bool
	}
	in := struct {
		Keys     string
		Teams    []string
		Services []service
	}{Keys: `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"l5uPwjBOYWdh7RpCXl5I6bAMCxDfbx4jqS0oWJdb9Ec","y":"YkF8f_xdfmAy2DkW1J_oqPie9nOTPybiWDXoXNBrxXg"}]}`}
	name := func(i int) string { return fmt.Sprintf("service-%03d", i) }
	const each = fleetServices / fleetKinds
	for i := range fleetServices {
		kind := i / each
		in.Services = append(in.Services, service{
			Team: fleetTeam(kind), Name: name(i), Next: name(kind*each + (i+1)%each), App: fmt.Sprintf("app-%02d", kind), Port: 8080 + i%each, Third: i%3 == 0,
		})
		in.Teams = append(in.Teams, fleetTeam(kind))
	}
	in.Teams = slices.Compact(in.Teams)
	var doc bytes.Buffer
	if err := template.Must(template.ParseFiles("testdata/fleet.yaml")).Execute(&doc, in); err != nil {
		tb.Fatal(err)
	}
	for text := range strings.SplitSeq(doc.String(), "\n---\n") {
		out = append(out, written(tb, text))
	}
	return out
}

// written is the change that makes a resource of a document as users write it.
func written(tb testing.TB, text string) store.Change {
	tb.Helper()
	var d struct {
		APIVersion string    `json:"apiVersion"`
		Kind       mesh.Kind `json:"kind"`
		Metadata   struct{ Namespace, Name string }
		Spec       json.RawMessage `json:"spec"`
	}
	if err := yaml.UnmarshalStrict([]byte(text), &d); err != nil {
		tb.Fatalf("%v in %s", err, text)
	}
	r := mesh.Resource{
		Key:        mesh.Key{Origin: "east", Kind: d.Kind, Namespace: d.Metadata.Namespace, Name: d.Metadata.Name},
		APIVersion: d.APIVersion, Spec: d.Spec, Changed: 1, Revision: 1, Created: 1,
	}
	if errs := policy.Validate(r); len(errs) > 0 {
		tb.Fatalf("%s: %v", r.Key, errs)
	}
	return store.Change{Resource: r}
}

// fleet is the zone with everything published.
func fleet(tb testing.TB, picture discovery.Picture, changes []store.Change) *Publisher {
	tb.Helper()
	p := unbuilt(tb, picture)
	if err := p.build(tb.Context(), batch{cursor: mesh.Cursor{Revision: 1}, changes: changes}); err != nil {
		tb.Fatal(err)
	}
	if len(p.invalid) > 0 {
		tb.Fatalf("%d resources are not valid, the first: %v", len(p.invalid), p.invalid[0].Err)
	}
	return p
}

// messages are the distinct Envoy resources of all views, as messages.
func (p *Publisher) messages(tb testing.TB) (out []proto.Message, size int) {
	tb.Helper()
	bodies := map[string]string{} // type URL by body
	for _, v := range p.views {
		v.each(func(r envoy.Resource) { bodies[string(r.Body)] = r.Type })
	}
	for body, url := range bodies {
		typ, err := protoregistry.GlobalTypes.FindMessageByURL(url)
		if err != nil {
			tb.Fatal(err)
		}
		m := typ.New().Interface()
		if err := proto.Unmarshal([]byte(body), m); err != nil {
			tb.Fatal(err)
		}
		out, size = append(out, m), size+len(body)
	}
	return out, size
}

// forgetful is a publisher of the same zone that has built nothing yet.
func (p *Publisher) forgetful(tb testing.TB) *Publisher {
	tb.Helper()
	cfg := p.cfg
	cfg.Metrics, cfg.Statuses = prometheus.NewRegistry(), federation.NewStatusBook("00")
	fresh, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	fresh.bundle = p.bundle
	x, err := ads.NewServer(ads.Config{Log: cfg.Log, Metrics: prometheus.NewRegistry(), Observer: fresh.Observer()})
	if err != nil {
		tb.Fatal(err)
	}
	fresh.Serve(x)
	return fresh
}

// fleetEdits are the changes that are measured, with a number in each that makes it another one.
var fleetEdits = []struct{ name, text string }{
	// It concerns the 50 proxies that serve the service.
	{"authorization", `
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: team-0, name: service-001}
spec: {targetRef: {kind: Service, name: service-001}, action: Allow, rules: [{from: [{namespaces: [team-0], serviceAccounts: [sa-%d]}]}]}`},
	// These two all who call the service.
	{"route", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: team-0, name: service-001}
spec:
  parentRefs: [{group: "", kind: Service, name: service-001, port: 80}]
  rules: [{matches: [{path: {type: PathPrefix, value: /v%d}}], backendRefs: [{name: service-001, port: 80}]}]`},
	{"traffic", `
apiVersion: mesh.comity.dev/v1alpha1
kind: TrafficPolicy
metadata: {namespace: team-0, name: service-001}
spec: {targetRef: {kind: Service, name: service-001}, timeouts: {request: %dms}}`},
	// And this one every port of every proxy.
	{"mesh-wide", `
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: comity-system, name: no-admin}
spec: {action: Deny, rules: [{to: [{paths: ["/admin-%d/*"]}]}]}`},
}

// busy is the CPU time of the process.
func busy(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFleet is what building the configuration of the fleet costs, from commit to everything handed to the xDS server:
// from nothing, and for one change of each kind. "marshal" is the limit beside them: the messages of all views, each once,
// made to bytes in the way that go-control-plane makes them.
func BenchmarkFleet(b *testing.B) {
	picture, changes := fleetPicture(), fleetChanges(b)
	p := fleet(b, picture, changes)
	measure := func(name string, op func(n int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			runtime.GC() // what was done before is not this one's
			n, before := 0, busy(b)
			for b.Loop() {
				n++
				op(n)
			}
			b.ReportMetric(float64(busy(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	messages, size := p.messages(b)
	b.Logf("%d resources, %d views, %d Envoy resources of %d bytes", len(changes), len(p.views), len(messages), size)
	measure("marshal", func(int) {
		for _, m := range messages {
			if _, err := (proto.MarshalOptions{Deterministic: true}).Marshal(m); err != nil {
				b.Fatal(err)
			}
		}
	})
	cold := batch{cursor: mesh.Cursor{Revision: 1}, changes: changes}
	measure("cold", func(int) {
		fresh := p.forgetful(b)
		if err := fresh.build(b.Context(), cold); err != nil {
			b.Fatal(err)
		}
	})
	for _, c := range fleetEdits {
		measure(c.name, func(int) {
			p.cursor.Revision++
			edit := written(b, fmt.Sprintf(c.text, p.cursor.Revision))
			edit.Resource.Changed, edit.Resource.Revision = p.cursor.Revision, p.cursor.Revision
			if err := p.build(b.Context(), batch{cursor: p.cursor, changes: []store.Change{edit}}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
