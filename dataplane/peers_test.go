package dataplane

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3" // in a listener below
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
)

// servePeers makes Envoy pass what comes for the agent's peers on to it, as the zone's configuration does.
func (z *testZone) servePeers(port uint16, from string) {
	var l listenerv3.Listener
	raw := must(json.Marshal(object{
		"name": "probe", "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": port}},
		"listener_filters": []any{object{"name": "tls", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}},
		"filter_chains": []any{object{
			"filter_chain_match": object{"transport_protocol": "tls", "server_names": []any{mesh.PeerSNI(from, "east")}},
			"filters": []any{object{"name": "tcp", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "peers", "cluster": ClusterPeers}}},
		}},
	}))(z.t)
	if err := unmarshalJSON(raw, &l); err != nil {
		z.t.Fatal(err)
	}
	body := must(anypb.New(&l))(z.t)
	z.mu.Lock()
	defer z.mu.Unlock()
	z.listeners = append(z.listeners, body)
}

// TestPeers: an ingress of another zone speaks to the agent through Envoy, and the zone hears of it; a zone that
// names no peers hears nothing that it would not know.
func TestPeers(t *testing.T) {
	for _, older := range []bool{true, false} {
		t.Run(fmt.Sprintf("the zone is older: %v", older), func(t *testing.T) {
			now := time.Now()
			root := must(identity.NewRoot("north.example", now))(t)
			key := must(identity.NewKey())(t)
			issued := must(root.Sign(key.Public(), must(identity.IngressID("north.example", "gate"))(t), time.Hour, now))(t)
			cert := identity.TLSCertificate(issued.Chain, key)
			l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
			port := uint16(l.Addr().(*net.TCPAddr).Port)
			_ = l.Close()

			z := newTestZone(t)
			z.servePeers(port, "north")
			if !older {
				z.peers = &enrolpb.Peers{Zones: []*enrolpb.PeerZone{{
					Zone: "north", TrustDomain: "north.example", Roots: [][]byte{root.Root().Raw},
					Ingresses: []*enrolpb.PeerIngress{{Id: "gate", Addresses: []string{"127.0.0.1"}, Ports: []uint32{1}}},
				}}}
			}
			dir := t.TempDir()
			r := start(t, Config{
				Name: "gate", Token: z.token("", "", 1), DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"),
				InfoFile: filepath.Join(dir, "info.json"), DrainTime: 100 * time.Millisecond, Envoy: Envoy{Path: must(envoybin.Path())(t)},
				Ingress: &IngressSpec{BindAddress: "127.0.0.1", BindPorts: []uint16{0}},
			})
			eventually(t, "the ingress is ready and has said so", func() bool {
				return r.info().Ready && z.lastHealth().GetEnvoyReady() && z.count(func(a *enrolpb.AgentReport) bool { return a.GetIngress().GetPeers() }) == 1
			})
			ask := func() error {
				raw, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
				if err != nil {
					return err
				}
				defer raw.Close()
				c := tls.Client(raw, &tls.Config{
					ServerName: mesh.PeerSNI("north", "east"), NextProtos: []string{"h2"}, InsecureSkipVerify: true,
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
				})
				cc, err := handshake.Once(c)
				if err != nil {
					return err
				}
				defer cc.Close()
				if err := c.HandshakeContext(t.Context()); err != nil {
					return err
				}
				st, err := peerpb.NewPeeringClient(cc).Session(t.Context())
				if err != nil {
					return err
				}
				for _, f := range []*peerpb.PeerFrame{{Frame: &peerpb.PeerFrame_Word{Word: []byte("hello")}}, {Frame: &peerpb.PeerFrame_Ping{Ping: &peerpb.Ping{Number: 3}}}} {
					if err := st.Send(f); err != nil {
						return err
					}
				}
				f, err := st.Recv()
				if err == nil && (f.GetPong().GetNumber() != 3 || !f.GetPong().GetAttended()) {
					err = fmt.Errorf("answer %v", f)
				}
				return err
			}
			if older {
				if err := ask(); err == nil {
					t.Error("a zone that the ingress was never told of is let in")
				}
				if n := z.count(func(a *enrolpb.AgentReport) bool { return a.GetPeerLinks() != nil || a.GetPeerWord() != nil }); n > 0 {
					t.Errorf("%d reports that this zone can't know", n)
				}
				return
			}
			eventually(t, "north's ingress is answered", func() bool {
				err := ask()
				if err != nil {
					t.Log(err)
				}
				return err == nil
			})
			eventually(t, "the zone has heard the word, and that north can't be reached", func() bool {
				return z.count(func(a *enrolpb.AgentReport) bool { return string(a.GetPeerWord().GetWord()) == "hello" }) > 0 &&
					z.count(func(a *enrolpb.AgentReport) bool {
						links := a.GetPeerLinks().GetLinks()
						return len(links) == 1 && links[0].GetZone() == "north" && links[0].GetState() == enrolpb.PeerLink_UNREACHABLE
					}) > 0
			})
		})
	}
}
