package proxyless

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/comity-mesh/comity/identity"
)

const (
	typeSecret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	everything = "*"
)

// errFiles is this machine's fault and not the zone's.
var errFiles = errors.New("files")

// KeepTrust takes the roots of all trust domains from the zone's xDS server, as Envoys do, and writes them, until ctx
// ends. An error says that they can't be written.
func (c *Client) KeepTrust(ctx context.Context, cc grpc.ClientConnInterface, zone string) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, Multiplier: 1.6, RandomizationFactor: 0.3, MaxInterval: 3 * time.Second}
	wait.Reset()
	for {
		took, err := c.trustStream(ctx, cc, zone)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errFiles):
			return err
		case took:
			wait.Reset()
		}
		delay := wait.NextBackOff()
		c.conf.Log.Warn("the zone's xDS server is away; the roots stay as they are", "reason", err, "retry_in", delay.Round(time.Millisecond))
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// trustStream is one stream, to its end; took says that it brought something.
func (c *Client) trustStream(ctx context.Context, cc grpc.ClientConnInterface, zone string) (took bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(cc).StreamAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	request := &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: c.conf.Proxy.String()}, TypeUrl: typeSecret, ResourceNames: []string{everything},
	}
	for {
		if err := stream.Send(request); err != nil {
			_, err = stream.Recv() // which says why
			return took, err
		}
		response, err := stream.Recv()
		if err != nil {
			return took, err
		}
		took = true
		request = &discoveryv3.DiscoveryRequest{TypeUrl: typeSecret, ResourceNames: []string{everything}, ResponseNonce: response.GetNonce()}
		roots, err := readTrust(response)
		if err != nil {
			c.conf.Log.Error("the zone's roots can't be read and stay as they are", "reason", err)
			request.ErrorDetail = &rpcstatus.Status{Message: err.Error()}
			continue
		}
		if err := c.setTrust(zone, roots); err != nil {
			return took, fmt.Errorf("%w: %w", errFiles, err)
		}
	}
}

// readTrust reads the secrets by which servers are recognised, by their names: a SPIFFE validator with one trust domain each.
func readTrust(r *discoveryv3.DiscoveryResponse) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range r.GetResources() {
		var s tlsv3.Secret
		if err := a.UnmarshalTo(&s); err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
		if !trustSlot.MatchString(s.GetName()) { // it names a file
			return nil, fmt.Errorf("secret %q is none that this version knows", s.GetName())
		}
		var v tlsv3.SPIFFECertValidatorConfig
		if err := s.GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(&v); err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.GetName(), err)
		}
		if len(v.GetTrustDomains()) != 1 {
			return nil, fmt.Errorf("secret %s has %d trust domains", s.GetName(), len(v.GetTrustDomains()))
		}
		pem := v.GetTrustDomains()[0].GetTrustBundle().GetInlineBytes()
		if _, err := identity.ParsePEMCertificates(pem); err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.GetName(), err)
		}
		out[s.GetName()] = string(pem)
	}
	return out, nil
}
