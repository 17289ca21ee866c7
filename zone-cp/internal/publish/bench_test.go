package publish

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"log/slog"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

// still is a discovery source in which nothing moves.
type still struct{ picture discovery.Picture }

func (s still) Picture() discovery.Picture { return s.picture }
func (still) Changed() <-chan struct{}     { return nil }

// small is a zone with some services, of two workloads each.
func small(tb testing.TB, services int) *Publisher {
	tb.Helper()
	var picture discovery.Picture
	for i := range 2 * services {
		app := fmt.Sprintf("s%d", i/2)
		picture.Workloads = append(picture.Workloads, workload("shop", fmt.Sprintf("w%03d", i), app, fmt.Sprintf("127.1.%d.%d", i/200, i%200+1)))
	}
	add := func(kind mesh.Kind, version, name string, spec any) store.Change {
		raw, err := json.Marshal(spec)
		if err != nil {
			tb.Fatal(err)
		}
		return store.Change{Resource: mesh.Resource{Key: mesh.Key{Origin: "east", Kind: kind, Namespace: "shop", Name: name}, APIVersion: version, Spec: raw, Changed: 1, Revision: 1}}
	}
	var all batch
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		all.changes = append(all.changes, add(mesh.KindService, "v1", name, policy.Service{Selector: map[string]string{"app": name}, Ports: []policy.ServicePort{{Port: 80, TargetPort: 8080, AppProtocol: "http"}}}))
		all.changes = append(all.changes, authorization(tb, name, 0))
	}
	all.cursor.Revision = 1
	p := unbuilt(tb, picture)
	if err := p.build(tb.Context(), all); err != nil {
		tb.Fatal(err)
	}
	return p
}

// workload is a healthy one, whose application is its service account.
func workload(namespace, name, app, address string) topology.Workload {
	return topology.Workload{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": app}, Healthy: true,
		Identity: mesh.TrustDomain("east.example").WorkloadID(namespace, app),
		Spec:     policy.Workload{ServiceAccount: app, Address: address, InboundPort: 15006, OutboundPort: 15001},
	}
}

// unbuilt is the publisher of a zone with workloads, and nothing in its store yet.
func unbuilt(tb testing.TB, picture discovery.Picture) *Publisher {
	tb.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := sqlitestore.Open(tb.Context(), filepath.Join(tb.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	a, err := ca.Open(ca.Config{Zone: "east", TrustDomain: "east.example", Dir: tb.TempDir(), Records: s, Endpoints: []string{"127.0.0.1:1"}, Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = a.Close() })
	bundle, err := a.Bundle(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	book, err := imports.Open(tb.Context(), s, "east", bundle, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	resolver, err := imports.NewResolver(tb.Context(), nil, s, log)
	if err != nil {
		tb.Fatal(err)
	}
	ledger, err := exports.OpenLedger(tb.Context(), s, "east", "east.example", "life", a.StatementSigner())
	if err != nil {
		tb.Fatal(err)
	}
	p, err := New(Config{
		Zone: "east", TrustDomain: "east.example", Store: s, Source: still{picture}, Book: book, Resolver: resolver, Keys: issuerKeys(tb, s), Ledger: ledger, Peers: alone(tb, s, book, ledger), TrustUntil: forever, Identity: a,
		Statuses: federation.NewStatusBook("00"), Offer: func([]identity.Statement) {}, Log: log, Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	p.bundle = bundle
	x, err := ads.NewServer(ads.Config{Log: log, Metrics: prometheus.NewRegistry(), Observer: p.Observer()})
	if err != nil {
		tb.Fatal(err)
	}
	p.Serve(x)
	return p
}

func authorization(tb testing.TB, service string, n int) store.Change {
	raw, err := json.Marshal(policy.AuthorizationPolicy{
		TargetRef: &policy.TargetRef{Kind: "Service", Name: service}, Action: policy.Allow,
		Rules: []policy.Rule{{From: []policy.Source{{Namespaces: []string{"shop"}, ServiceAccounts: []string{fmt.Sprintf("sa%d", n)}}}}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return store.Change{Resource: mesh.Resource{
		Key:        mesh.Key{Origin: "east", Kind: mesh.KindAuthorizationPolicy, Namespace: "shop", Name: service},
		APIVersion: policy.APIVersion, Spec: raw, Changed: mesh.Revision(n + 1), Revision: mesh.Revision(n + 1),
	}}
}

// BenchmarkPolicyChange is what one change of one policy costs the zone's control plane, from commit to
// everything handed to the xDS server.
func BenchmarkPolicyChange(b *testing.B) {
	for _, services := range []int{6, 100} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			p := small(b, services)
			n := 1
			for b.Loop() {
				n++
				if err := p.build(b.Context(), batch{cursor: mesh.Cursor{Revision: mesh.Revision(n)}, changes: []store.Change{authorization(b, "s1", n)}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
