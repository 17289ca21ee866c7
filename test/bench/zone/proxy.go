package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
)

// zonePath is the path of a zone control plane's identity.
const zonePath = "/fed/zone-cp"

// proxy is a sidecar without an Envoy.
type proxy struct {
	token  identity.EnrolToken
	id     mesh.ProxyID
	number int
	names  *names

	key    *ecdsa.PrivateKey
	cert   *tls.Certificate
	bundle identity.Bundle
	lease  *grpc.ClientConn
	open   atomic.Bool
	have   *holding // what it has of an earlier stream
}

func newProxy(token identity.EnrolToken, name string, number int, n *names) *proxy {
	return &proxy{token: token, id: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: token.Namespace, Name: name}, number: number, names: n, have: newHolding()}
}

// BundleFor implements identity.BundleSource.
func (p *proxy) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	return p.bundle, td == p.bundle.TrustDomain
}

// address is the machine's: all of 127.0.0.0/8 is this one.
func (p *proxy) address() net.IP {
	return net.IPv4(127, byte(1+p.number>>16), byte(p.number>>8), byte(p.number))
}

// dial makes one TLS session from the machine's own address, and gRPC over exactly that. Its buffers are small:
// there are thousands.
func (p *proxy) dial(ctx context.Context, config *tls.Config) (*grpc.ClientConn, tls.ConnectionState, error) {
	raw, err := (&net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: p.address()}}).DialContext(ctx, "tcp", p.token.Endpoints[0])
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	config.NextProtos = []string{"h2"}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, tls.ConnectionState{}, err
	}
	cc, err := handshake.Once(c, grpc.WithReadBufferSize(2<<10), grpc.WithWriteBufferSize(2<<10),
		grpc.WithStaticStreamWindowSize(handshake.Window), grpc.WithStaticConnWindowSize(handshake.Window)) // as agents and Envoys have them
	return cc, c.ConnectionState(), err
}

func (p *proxy) enrol(ctx context.Context) error {
	var err error
	if p.key, err = identity.NewKey(); err != nil {
		return err
	}
	csr, err := identity.NewCSR(p.key)
	if err != nil {
		return err
	}
	cc, state, err := p.dial(ctx, identity.PinnedClientTLS(nil, p.token.Pin, zonePath, identity.TLSOptions{}))
	if err != nil {
		return err
	}
	defer cc.Close()
	exporter, err := identity.Exporter(state)
	if err != nil {
		return err
	}
	proof, err := p.token.Prove(identity.EnrolTranscript{Exporter: exporter, CSR: csr, TokenID: p.token.ID, Proxy: p.id}.Bytes())
	if err != nil {
		return err
	}
	res, err := enrolpb.NewEnrolmentClient(cc).Enrol(ctx, &enrolpb.EnrolRequest{
		Role: string(p.id.Role), Namespace: p.id.Namespace, Name: p.id.Name, TokenId: p.token.ID, Csr: csr, Proof: proof,
	})
	if err != nil {
		return err
	}
	chain, err := identity.ParseDERChain(res.GetCertificateChain())
	if err != nil {
		return err
	}
	p.cert = identity.TLSCertificate(chain, p.key)
	p.bundle, err = identity.PinnedBundle(state, p.token.Pin, zonePath, time.Now())
	return err
}

// mutual is the configuration of a connection with its certificate.
func (p *proxy) mutual() *tls.Config {
	return identity.ClientTLS(func() (*tls.Certificate, error) { return p.cert, nil }, p, identity.AuthorizeOneOf(p.bundle.TrustDomain.ID(zonePath)), identity.TLSOptions{})
}

// attend takes the lease, which is long enough for the whole bench.
func (p *proxy) attend() error {
	p.leave()                   // of an attempt before
	ctx := context.Background() // until leave
	cc, _, err := p.dial(ctx, p.mutual())
	if err != nil {
		return err
	}
	p.lease = cc
	stream, err := enrolpb.NewEnrolmentClient(cc).Attend(ctx)
	if err != nil {
		return err
	}
	spec, err := json.Marshal(mesh.Workload{
		ServiceAccount: p.token.ServiceAccount, Address: fmt.Sprintf("10.%d.%d.%d", 1+p.number>>16, p.number>>8&0xff, p.number&0xff), InboundPort: 15006, OutboundPort: 15001,
	})
	if err != nil {
		return err
	}
	for _, r := range []*enrolpb.AgentReport{
		{Report: &enrolpb.AgentReport_Workload{Workload: &enrolpb.WorkloadSpec{Spec: spec}}},
		{Report: &enrolpb.AgentReport_Health{Health: &enrolpb.Health{Healthy: true, EnvoyVersion: "fake", EnvoyReady: true}}},
	} {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	n, err := stream.Recv()
	if err != nil {
		return err
	}
	if n.GetAccepted() == nil {
		return fmt.Errorf("the zone says %v", n)
	}
	go func() { // what else it says
		for err == nil {
			_, err = stream.Recv()
		}
	}()
	return nil
}

func (p *proxy) leave() {
	if p.lease != nil {
		_ = p.lease.Close()
	}
}
