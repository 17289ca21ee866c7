package snapshot_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// plain is a state-of-the-world client that a test drives by hand, over the wire forms.
type plain struct {
	t     *testing.T
	store *snapshot.Store
	state *snapshot.State
	rev   mesh.Revision
}

func newPlain(t *testing.T) *plain {
	return &plain{t: t, store: snapshot.NewStore(time.Now), state: snapshot.NewState()}
}

// publish takes "cluster:name=version" and the like.
func (p *plain) publish(list ...string) {
	p.t.Helper()
	p.rev++
	var out []envoy.Resource
	for _, s := range list {
		kind, rest, _ := strings.Cut(s, ":")
		name, v, _ := strings.Cut(rest, "=")
		for _, t := range snapshot.Types() {
			if t.String() == kind {
				body, err := proto.Marshal(&clusterv3.Cluster{Name: name, AltStatName: v}) // its content is nobody's business here
				if err != nil {
					p.t.Fatal(err)
				}
				out = append(out, envoy.Resource{Type: t.URL(), Name: name, Version: v, Body: body})
			}
		}
	}
	if _, err := p.store.Publish("v", p.rev, out); err != nil {
		p.t.Fatal(err)
	}
	if err := p.state.Advance(p.store.Current("v")); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plain) ask(t snapshot.Type, nonce, refusal string, names ...string) {
	p.t.Helper()
	m := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "n"}, TypeUrl: t.URL(), ResponseNonce: nonce, ResourceNames: names, VersionInfo: "x"}
	if refusal != "" {
		m.ErrorDetail = &rpcstatus.Status{Message: refusal}
	}
	b, err := proto.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	var r snapshot.StateRequest
	if err := snapshot.UnmarshalStateRequest(b, &r); err != nil {
		p.t.Fatal(err)
	}
	if r.NodeID != "n" || r.Refused != (refusal != "") || r.Error != refusal || !slices.Equal(r.Subscribe, names) {
		p.t.Fatalf("read %+v of %v", r, m)
	}
	if err := p.state.Request((*snapshot.Request)(&r)); err != nil {
		p.t.Fatal(err)
	}
}

// expect takes what is sent, which must be one answer with "name=version"; it returns the nonce.
func (p *plain) expect(t snapshot.Type, want ...string) string {
	p.t.Helper()
	out := p.state.Take()
	if len(out) != 1 {
		p.t.Fatalf("%d answers, want one about %s", len(out), t)
	}
	var m discoveryv3.DiscoveryResponse
	if err := proto.Unmarshal(out[0].Buffers().Materialize(), &m); err != nil {
		p.t.Fatal(err)
	}
	var got []string
	for _, a := range m.GetResources() {
		var c clusterv3.Cluster
		if err := proto.Unmarshal(a.GetValue(), &c); err != nil || a.GetTypeUrl() != t.URL() {
			p.t.Fatalf("resource of type %s: %v", a.GetTypeUrl(), err)
		}
		got = append(got, c.GetName()+"="+c.GetAltStatName())
	}
	if m.GetTypeUrl() != t.URL() || m.GetVersionInfo() == "" || m.GetNonce() != out[0].Nonce || !slices.Equal(got, want) {
		p.t.Fatalf("answer %v of type %s version %q, want %v of %s", got, m.GetTypeUrl(), m.GetVersionInfo(), want, t)
	}
	return m.GetNonce()
}

func (p *plain) silent() {
	p.t.Helper()
	if out := p.state.Take(); len(out) > 0 {
		p.t.Fatalf("unexpected answers: %v", out)
	}
}

func (p *plain) settled(want mesh.Revision) {
	p.t.Helper()
	if got := p.state.Revision(); got != want {
		p.t.Fatalf("settled at %d, want %d", got, want)
	}
}

// TestStateOfNames walks a client through what gRPC does: names of each type, more and fewer of them, changes of theirs
// and of others, deletions.
func TestStateOfNames(t *testing.T) {
	p := newPlain(t)
	p.ask(snapshot.Listener, "", "", "pay") // before there is anything
	p.silent()
	p.publish("listener:pay=1", "listener:other=1", "cluster:a=1", "cluster:b=1", "endpoints:a=1")
	l := p.expect(snapshot.Listener, "pay=1")
	p.settled(0)
	p.ask(snapshot.Listener, l, "", "pay")
	p.silent()
	p.settled(1)

	p.ask(snapshot.Cluster, "", "", "b", "a", "missing")
	c := p.expect(snapshot.Cluster, "a=1", "b=1") // all that exist
	p.ask(snapshot.Cluster, c, "", "b", "a", "missing")
	p.ask(snapshot.Endpoint, "", "", "a", "missing")
	e := p.expect(snapshot.Endpoint, "a=1")
	p.ask(snapshot.Endpoint, e, "", "a", "missing")
	p.silent()

	p.publish("listener:pay=1", "listener:other=2", "cluster:a=1", "cluster:b=2", "endpoints:a=1")
	c = p.expect(snapshot.Cluster, "a=1", "b=2") // whole, though one changed
	p.settled(1)
	p.publish("listener:pay=1", "cluster:a=1", "cluster:b=3", "endpoints:a=2")
	e = p.expect(snapshot.Endpoint, "a=2") // another type does not wait, clusters do
	p.ask(snapshot.Cluster, c, "", "b", "a")
	c = p.expect(snapshot.Cluster, "a=1", "b=3")
	p.ask(snapshot.Endpoint, e, "", "a")
	p.settled(2)
	p.ask(snapshot.Cluster, c, "", "b")
	p.settled(3)
	p.ask(snapshot.Cluster, c, "", "b", "a") // again: it has forgotten a
	c = p.expect(snapshot.Cluster, "a=1", "b=3")
	p.ask(snapshot.Cluster, "stale", "", "missing")
	p.silent()
	p.ask(snapshot.Cluster, c, "", "b", "a")
	p.publish("listener:pay=1", "cluster:a=1", "endpoints:a=2")
	c = p.expect(snapshot.Cluster, "a=1") // b is gone by not being there
	p.ask(snapshot.Cluster, c, "", "a", "b")
	p.settled(4)
}

// TestStateRefused: what a client refuses is not sent again before it changes, and the client does not count as having it.
func TestStateRefused(t *testing.T) {
	p := newPlain(t)
	p.publish("cluster:a=1", "cluster:b=1")
	p.ask(snapshot.Cluster, "", "", "a", "b")
	p.ask(snapshot.Cluster, p.expect(snapshot.Cluster, "a=1", "b=1"), "", "a", "b")
	p.settled(1)
	p.publish("cluster:a=2", "cluster:b=1")
	p.ask(snapshot.Cluster, p.expect(snapshot.Cluster, "a=2", "b=1"), "cluster a is not valid", "a", "b")
	p.silent()
	p.publish("cluster:a=2", "cluster:b=1", "secret:x=1") // of no concern
	p.silent()
	p.settled(1)
	p.publish("cluster:a=3", "cluster:b=1")
	p.ask(snapshot.Cluster, p.expect(snapshot.Cluster, "a=3", "b=1"), "", "a", "b")
	p.settled(4)
}

// TestStateOfEverything is how an agent reads secrets, and how a client of the older protocol asks for clusters.
func TestStateOfEverything(t *testing.T) {
	for _, c := range []struct {
		typ   snapshot.Type
		names []string
	}{{snapshot.Secret, []string{"*"}}, {snapshot.Cluster, nil}} {
		t.Run(fmt.Sprint(c.typ), func(t *testing.T) {
			p := newPlain(t)
			p.publish(c.typ.String()+":a=1", c.typ.String()+":b=1")
			p.ask(c.typ, "", "", c.names...)
			p.ask(c.typ, p.expect(c.typ, "a=1", "b=1"), "", c.names...)
			p.settled(1)
			p.publish(c.typ.String()+":a=1", c.typ.String()+":c=1")
			p.expect(c.typ, "a=1", "c=1")
		})
	}
}
