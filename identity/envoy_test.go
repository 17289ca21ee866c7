package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/envoybin"
)

// What our authorities issue, and what their constraints refuse, as a real Envoy sees it.
func TestEnvoyAgrees(t *testing.T) {
	bin, err := envoybin.Path()
	if err != nil {
		t.Fatal(err) // make tools installs it
	}
	now := time.Now()
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	addr := startEnvoy(t, bin, b, a)

	dial := func(cert *tls.Certificate) error {
		cfg := identity.ClientTLS(func() (*tls.Certificate, error) { return cert, nil }, b.bundle(),
			identity.AuthorizeOneOf("spiffe://b.example/ns/shop/sa/pay"), identity.TLSOptions{})
		return echo(t, addr, cfg)
	}
	is, key := a.leaf(t, "/ns/x/sa/y")
	if err := dial(identity.TLSCertificate(is.Chain, key)); err != nil {
		t.Fatalf("the honest client: %v", err)
	}
	if err := dial(identity.TLSCertificate(a.issuer.WithRoot(is), key)); err != nil {
		t.Errorf("with the root in its chain: %v", err)
	}
	own, victim := name{tagURI, me}, name{tagURI, "spiffe://b.example/ns/x/sa/victim"}
	for what, names := range map[string][]name{
		"another trust domain":     {victim},
		"a subdomain":              {{tagURI, "spiffe://sub.a.example/ns/x/sa/y"}},
		"own and foreign URI":      {own, victim},
		"foreign and own URI":      {victim, own},
		"SPIFFE ID as a DNS name":  {own, {tagDNS, "spiffe://b.example/ns/x/sa/victim"}},
		"a DNS name":               {own, {tagDNS, "b.example"}},
		"a mail address elsewhere": {own, {tagMail, "root@b.example"}},
	} {
		leafKey := newKey(t)
		leaf := forgeFor(t, leafKey, a.issuer.Certificate(), a.issuer.Key(), now, nil, names...)
		if leaf == nil {
			t.Logf("%s: can't be made into a certificate that Go reads", what)
			continue
		}
		if err := dial(identity.TLSCertificate([]*x509.Certificate{leaf[0], a.issuer.Certificate()}, leafKey)); err == nil {
			t.Errorf("%s: Envoy let it in", what)
		}
	}
	if err := dial(identity.TLSCertificate(a.issuer.Chain()[:1], a.issuer.Key())); err == nil {
		t.Error("the authority itself: Envoy let it in")
	}
	other, otherKey := newZone(t, "a.example", now).leaf(t, "/ns/x/sa/y")
	if err := dial(identity.TLSCertificate(other.Chain, otherKey)); err == nil {
		t.Error("another authority of the same name: Envoy let it in")
	}
}

// echo sends two bytes and wants them back.
func echo(t *testing.T, addr string, cfg *tls.Config) error {
	t.Helper()
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: cfg}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "ok"); err != nil {
		return err
	}
	var got [2]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return err
	}
	if string(got[:]) != "ok" {
		return fmt.Errorf("the answer is %q", got)
	}
	return nil
}

// startEnvoy runs an Envoy that echoes as spiffe://<server>/ns/shop/sa/pay to clients of the
// trust domain client, and returns its address.
func startEnvoy(t *testing.T, bin string, server, client zone) string {
	t.Helper()
	is, key := server.leaf(t, "/ns/shop/sa/pay")
	keyPEM, err := identity.PEMKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	admin := filepath.Join(dir, "admin")
	type m = map[string]any
	typed := func(name string, v m) m {
		v["@type"] = "type.googleapis.com/envoy." + name
		return v
	}
	tlsContext := typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", m{
		"require_client_certificate": true, "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true,
		"common_tls_context": m{
			"tls_params": m{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
			"tls_certificates": []m{{
				"certificate_chain": m{"inline_string": string(identity.PEMCertificates(is.Chain...))},
				"private_key":       m{"inline_string": string(keyPEM)},
			}},
			"validation_context": m{"custom_validator_config": m{
				"name": "envoy.tls.cert_validator.spiffe",
				"typed_config": typed("extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig", m{"trust_domains": []m{{
					"name": string(client.td), "trust_bundle": m{"inline_string": string(client.bundle().PEM())},
				}}}),
			}},
		},
	})
	config, err := json.Marshal(m{
		"admin": m{"address": m{"pipe": m{"path": admin}}},
		"static_resources": m{"listeners": []m{{
			"name": "tls", "address": m{"socket_address": m{"address": "127.0.0.1", "port_value": 0}},
			"filter_chains": []m{{
				"transport_socket": m{"name": "envoy.transport_sockets.tls", "typed_config": tlsContext},
				"filters": []m{{"name": "envoy.filters.network.echo",
					"typed_config": typed("extensions.filters.network.echo.v3.Echo", m{})}},
			}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	var log safeLog
	cmd := exec.CommandContext(t.Context(), bin, "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return listenerAddress(t, admin)
}

// listenerAddress asks the admin socket until the listener is there.
func listenerAddress(t *testing.T, socket string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		addr, err := askListener(ctx, client)
		if err == nil {
			return addr
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("Envoy's listener did not come: %v", err)
		}
	}
}

func askListener(ctx context.Context, client *http.Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/listeners?format=json", http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var doc struct {
		Statuses []struct {
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", err
	}
	if len(doc.Statuses) == 0 || doc.Statuses[0].Local.Socket.Port == 0 {
		return "", errors.New("no listener yet")
	}
	s := doc.Statuses[0].Local.Socket
	return net.JoinHostPort(s.Address, fmt.Sprint(s.Port)), nil
}
