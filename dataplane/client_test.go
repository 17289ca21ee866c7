package dataplane

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
)

// StreamAggregatedResources answers every request with the roots of the zone, to whom it has enrolled.
func (z *testZone) StreamAggregatedResources(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
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
			z.t.Errorf("refused: %s", r.GetErrorDetail().GetMessage())
		}
		if r.GetResponseNonce() != "" {
			continue
		}
		roots := must(anypb.New(&tlsv3.SPIFFECertValidatorConfig{TrustDomains: []*tlsv3.SPIFFECertValidatorConfig_TrustDomain{{
			Name: string(testTD), TrustBundle: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: z.ca.Bundle(1).PEM()}},
		}}}))(z.t)
		secret := must(anypb.New(&tlsv3.Secret{Name: "trust-007", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: roots},
		}}}))(z.t)
		if err := s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: r.GetTypeUrl(), VersionInfo: "1", Nonce: "1", Resources: []*anypb.Any{secret}}); err != nil {
			return err
		}
	}
}

func clientConfig(t *testing.T, z *testZone) Config {
	c := sidecarConfig(t, z)
	c.Envoy.Path = "/nowhere"
	c.Sidecar.Proxyless = true
	return c
}

// A proxyless agent has all the files of a gRPC client, the way to the zone, no Envoy; and leaves nothing behind.
func TestProxylessClient(t *testing.T) {
	z := newTestZone(t)
	c := clientConfig(t, z)
	var at clock
	c.clock = at.now
	a := start(t, c)
	i := a.ready()
	if w, _ := z.workload(); !w.Proxyless || w.InboundPort != 0 || w.OutboundPort != 0 {
		t.Errorf("registered as %+v", w)
	}
	if i.EnvoyPID != 0 || i.Environment == "" {
		t.Errorf("it says %+v", i)
	}
	variables := string(must(os.ReadFile(i.Environment))(t))
	file, ok := strings.CutPrefix(strings.Fields(variables)[0], "GRPC_XDS_BOOTSTRAP=")
	if !ok || !strings.Contains(variables, "GRPC_EXPERIMENTAL_XDS_SNI=true") {
		t.Fatalf("variables: %s", variables)
	}
	var bootstrap struct {
		Servers []struct {
			URI string `json:"server_uri"`
		} `json:"xds_servers"`
		Providers map[string]struct {
			Config map[string]string `json:"config"`
		} `json:"certificate_providers"`
	}
	if err := json.Unmarshal(must(os.ReadFile(file))(t), &bootstrap); err != nil {
		t.Fatal(err)
	}
	if got := string(must(os.ReadFile(bootstrap.Providers["trust-007"].Config["ca_certificate_file"]))(t)); got != string(z.ca.Bundle(1).PEM()) {
		t.Errorf("the roots are %q", got)
	}
	own := bootstrap.Providers["identity"].Config
	leaf := func() string {
		// As gRPC reads them: one after the other.
		chain := must(identity.ParsePEMCertificates(must(os.ReadFile(own["certificate_file"]))(t)))(t)
		key := must(identity.ParsePEMKey(must(os.ReadFile(own["private_key_file"]))(t)))(t)
		if !samePublic(chain[0].PublicKey, key.Public()) {
			return ""
		}
		return chain[0].SerialNumber.String()
	}
	first := leaf()
	if first == "" {
		t.Fatal("certificate and key don't belong together")
	}
	err := filepath.WalkDir(c.RunDir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&os.ModeSymlink == 0 && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may use %s (%s)", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	cc := must(grpc.NewClient(bootstrap.Servers[0].URI, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream := must(discoveryv3.NewAggregatedDiscoveryServiceClient(cc).StreamAggregatedResources(ctx))(t)
	if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: "x"}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.GetTypeUrl() != "x" { // the zone has asked for the certificate
		t.Fatalf("through the socket: %v, %v", r, err)
	}

	at.ahead.Store(int64(34 * time.Minute))
	eventually(t, "the files are renewed together", func() bool { now := leaf(); return now != "" && now != first })
	eventually(t, "the zone is told that it is healthy", func() bool { h := z.lastHealth(); return h.GetHealthy() && h.GetEnvoyReady() })
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.RunDir); !os.IsNotExist(err) {
		t.Errorf("the run directory is still there: %v", err)
	}
	if n := z.count(func(r *enrolpb.AgentReport) bool { return r.GetLeaving() }); n != 1 {
		t.Errorf("it left %d times", n)
	}
}
