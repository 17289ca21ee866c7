package dataplane

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3" // in a listener below
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

const testTD = mesh.TrustDomain("east.example")

// testZone is the zone's side as an agent meets it: real TLS under a real authority, proofs checked,
// leases held, and just enough ADS for Envoy to become ready.
type testZone struct {
	enrolpb.UnimplementedEnrolmentServer
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	t       *testing.T
	root    *identity.Authority
	ca      *identity.Authority
	cert    *tls.Certificate
	address string
	ttl     time.Duration // of leaves
	server  *grpc.Server

	mu        sync.Mutex
	tokens    map[string]testToken
	instances map[string]crypto.PublicKey // ProxyID -> instance key
	renewals  int
	forgotten int // certificates of the first renewals are not in force any more
	serials   map[string]int
	leafKeys  []crypto.PublicKey
	reports   []*enrolpb.AgentReport
	listeners []*anypb.Any
	refuse    *enrolpb.Refused
	peers     *enrolpb.Peers
}

type testToken struct {
	key  ed25519.PublicKey
	left int
	id   func(name string) (identity.ID, error)
}

func newTestZone(t *testing.T) *testZone {
	t.Helper()
	now := time.Now()
	root := must(identity.NewRoot(testTD, now))(t)
	ca := must(root.NewIntermediate(now))(t)
	key := must(identity.NewKey())(t)
	issued := must(ca.Sign(key.Public(), must(identity.ParseID(testTD.ZoneCPID()))(t), time.Hour, now))(t)
	z := &testZone{
		t: t, root: root, ca: ca, cert: identity.TLSCertificate(ca.WithRoot(issued), key), ttl: time.Hour,
		tokens: map[string]testToken{}, instances: map[string]crypto.PublicKey{}, serials: map[string]int{},
	}
	z.start("127.0.0.1:0")
	t.Cleanup(z.stop)
	return z
}

func (z *testZone) start(address string) {
	z.t.Helper()
	var l net.Listener
	eventually(z.t, "the zone's port is free", func() bool {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	z.address = l.Addr().String()
	z.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(
		func() (*tls.Certificate, error) { return z.cert, nil }, z.root.Bundle(1), identity.AuthorizeTrustDomain(testTD),
		identity.TLSOptions{ClientCertOptional: true}))))
	enrolpb.RegisterEnrolmentServer(z.server, z)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(z.server, z)
	server := z.server
	go func() { _ = server.Serve(l) }() // ends with stop
}

func (z *testZone) stop() { z.server.Stop() }

// token issues one for a workload, or for an ingress where the namespace is empty.
func (z *testZone) token(namespace, account string, limit int) string {
	z.t.Helper()
	secret := must(identity.NewSecret())(z.t)
	tok := identity.EnrolToken{
		ID: must(identity.NewTokenID())(z.t), Zone: "east", Role: mesh.RoleSidecar, Namespace: namespace, ServiceAccount: account,
		Endpoints: []string{z.address}, Pin: identity.KeyPin(z.root.Certificate()), Expires: time.Now().Add(time.Hour), Limit: limit, Secret: secret,
	}
	id := func(string) (identity.ID, error) { return identity.WorkloadID(testTD, namespace, account) }
	if namespace == "" {
		tok.Role = mesh.RoleIngress
		id = func(name string) (identity.ID, error) { return identity.IngressID(testTD, name) }
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.tokens[tok.ID] = testToken{must(tok.PublicKey())(z.t), limit, id}
	return must(tok.Text())(z.t)
}

func session(ctx context.Context) (tls.ConnectionState, []byte, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return tls.ConnectionState{}, nil, errors.New("no TLS")
	}
	e, err := identity.Exporter(info.State)
	return info.State, e, err
}

func (z *testZone) Enrol(ctx context.Context, r *enrolpb.EnrolRequest) (*enrolpb.EnrolResponse, error) {
	_, exporter, err := session(ctx)
	if err != nil {
		return nil, err
	}
	pub, err := identity.ParseCSR(r.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	proxy := mesh.ProxyID{Role: mesh.Role(r.GetRole()), Namespace: r.GetNamespace(), Name: r.GetName()}
	z.mu.Lock()
	defer z.mu.Unlock()
	tok, ok := z.tokens[r.GetTokenId()]
	if !ok || tok.left == 0 {
		return nil, status.Error(codes.PermissionDenied, "the token is unknown or used up")
	}
	transcript := identity.EnrolTranscript{Exporter: exporter, CSR: r.GetCsr(), TokenID: r.GetTokenId(), Proxy: proxy}.Bytes()
	if err := identity.VerifyTokenProof(tok.key, transcript, r.GetProof()); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	tok.left--
	z.tokens[r.GetTokenId()] = tok
	id, err := tok.id(proxy.Name)
	if err != nil {
		return nil, err
	}
	issued, err := z.ca.Sign(pub, id, z.ttl, time.Now())
	if err != nil {
		return nil, err
	}
	z.instances[proxy.String()+" "+id.String()] = pub
	return &enrolpb.EnrolResponse{
		CertificateChain: identity.DERChain(issued.Chain), ZoneRoots: [][]byte{z.root.Root().Raw}, SpiffeId: id.String(), Zone: "east", TrustDomain: string(testTD),
	}, nil
}

func (z *testZone) Renew(ctx context.Context, r *enrolpb.RenewRequest) (*enrolpb.RenewResponse, error) {
	state, exporter, err := session(ctx)
	if err != nil {
		return nil, err
	}
	if len(state.PeerCertificates) > 0 && z.inForce(state) != nil {
		return nil, status.Error(codes.FailedPrecondition, "proof-needed")
	}
	pub, err := identity.ParseCSR(r.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	proxy := mesh.ProxyID{Role: mesh.Role(r.GetRole()), Namespace: r.GetNamespace(), Name: r.GetName()}
	z.mu.Lock()
	defer z.mu.Unlock()
	for name, key := range z.instances {
		who, id, _ := strings.Cut(name, " ")
		if who != proxy.String() {
			continue
		}
		if err := identity.VerifyTranscript(key, identity.RenewTranscript{Exporter: exporter, CSR: r.GetCsr(), Who: who}.Bytes(), r.GetProof()); err != nil {
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
		issued, err := z.ca.SignFor(pub, must(identity.ParseID(id))(z.t), z.ttl, time.Now())
		if err != nil {
			return nil, err
		}
		z.renewals++
		z.serials[issued.Serial] = z.renewals
		z.leafKeys = append(z.leafKeys, pub)
		return &enrolpb.RenewResponse{CertificateChain: identity.DERChain(issued.Chain), ZoneRoots: [][]byte{z.root.Root().Raw}}, nil
	}
	return nil, status.Error(codes.NotFound, "no such instance")
}

func (z *testZone) inForce(state tls.ConnectionState) error {
	if _, err := identity.PeerID(state); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.serials[identity.SerialOf(state.PeerCertificates[0])] <= z.forgotten {
		return status.Error(codes.Unauthenticated, "this certificate is not in force here")
	}
	return nil
}

func (z *testZone) Attend(s enrolpb.Enrolment_AttendServer) error {
	state, _, err := session(s.Context())
	if err != nil {
		return err
	}
	if err := z.inForce(state); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		z.mu.Lock()
		z.reports = append(z.reports, r)
		refuse := z.refuse
		z.mu.Unlock()
		switch {
		case r.GetWorkload() == nil && r.GetIngress() == nil:
		case refuse != nil:
			return s.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Refused{Refused: refuse}})
		default:
			if err := s.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Accepted{Accepted: &enrolpb.Accepted{LeaseMs: 3000}}}); err != nil {
				return err
			}
			if z.peers == nil {
				continue
			}
			if err := s.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Peers{Peers: z.peers}}); err != nil {
				return err
			}
		}
	}
}

// DeltaAggregatedResources answers every wildcard: no clusters, and the listeners that were set.
func (z *testZone) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	state, _, err := session(s.Context())
	if err != nil {
		return err
	}
	if err := z.inForce(state); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if r.GetErrorDetail() != nil {
			z.t.Errorf("Envoy refuses: %s", r.GetErrorDetail().GetMessage())
		}
		if r.GetResponseNonce() != "" {
			continue
		}
		out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl(), Nonce: "1"}
		if strings.HasSuffix(r.GetTypeUrl(), ".Listener") {
			z.mu.Lock()
			for _, l := range z.listeners {
				out.Resources = append(out.Resources, &discoveryv3.Resource{Name: "probe", Version: "1", Resource: l})
			}
			z.mu.Unlock()
		}
		if err := s.Send(out); err != nil {
			return err
		}
	}
}

// serveTLS makes Envoy listen on the port with a secret of its machine, so that a test can see it.
func (z *testZone) serveTLS(port uint16, secret string) {
	var l listenerv3.Listener
	raw := must(json.Marshal(object{
		"name": "probe", "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": port}},
		"filter_chains": []any{object{
			"filters": []any{object{"name": "tcp", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config", "response": object{"inline_string": "hello"}}}},
			"transport_socket": object{"name": "tls", "typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
				"common_tls_context": object{
					"tls_params":                         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
					"tls_certificate_sds_secret_configs": []any{localSecret(secret)},
				},
			}},
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

func (z *testZone) count(match func(*enrolpb.AgentReport) bool) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, r := range z.reports {
		if match(r) {
			n++
		}
	}
	return n
}

func (z *testZone) lastHealth() *enrolpb.Health {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, r := range slices.Backward(z.reports) {
		if h := r.GetHealth(); h != nil {
			return h
		}
	}
	return &enrolpb.Health{}
}

func (z *testZone) workload() (mesh.Workload, map[string]string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var w mesh.Workload
	for _, r := range z.reports {
		if s := r.GetWorkload(); s != nil {
			if err := json.Unmarshal(s.GetSpec(), &w); err != nil {
				z.t.Error(err)
			}
			return w, s.GetLabels()
		}
	}
	return w, nil
}

func (z *testZone) renewed() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.renewals
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually waits for a fact.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
