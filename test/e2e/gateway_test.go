package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

const edgeGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: comity
  listeners:
  - {name: http, port: %d, protocol: HTTP}
  - {name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: www}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pay, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [pay.example.com]
  rules: [{backendRefs: [{name: pay, port: 8080}]}]
`

const visitorsPay = `
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: visitors-pay, namespace: shop}
spec:
  targetRef: {kind: Service, name: pay}
  action: Allow
  rules: [{from: [{identities: ["%s"]}]}]
`

// TestGateway: a visitor reaches a service through a Gateway when a policy allows the ingress, and over TLS when its
// certificate is on the ingress's machine, of which the zone knows nothing but that it was missing.
func TestGateway(t *testing.T) {
	z := startZone(t, "edgy")
	pay := app(t, "pay")
	z.apply(payService(pay))
	z.workload("pay")
	var on *host
	secrets, plain, secure := t.TempDir(), on.free(t), on.free(t)
	z.startProxy(on, "ingress", "in1", client.EnrolmentTokenRequest{Role: mesh.RoleIngress, Name: "in1"}, map[string]any{
		"bindAddress": on.address(), "lanes": []int{on.free(t)}, "secretsDir": secrets, "gateways": []string{"shop/edge"},
	})
	z.apply(fmt.Sprintf(edgeGateway, plain, secure))

	visit := func(url string, roots *x509.CertPool) (status int, body string, err error) {
		h := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "pay.example.com"}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "pay.example.com"
		r, err := h.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		return r.StatusCode, string(text), err
	}
	gets := func(url string, roots *x509.CertPool, status int, part string) {
		t.Helper()
		await(t, fmt.Sprintf("%s is answered %d", url, status), func() error {
			got, body, err := visit(url, roots)
			if err == nil && (got != status || !strings.Contains(body, part)) {
				err = fmt.Errorf("it is answered %d: %s", got, body)
			}
			return err
		})
	}
	http80 := "http://" + net.JoinHostPort(on.address(), strconv.Itoa(plain)) + "/"
	identity := z.trustDomain.IngressID("in1")
	gets(http80, nil, 403, "NOT-ALLOWED")
	z.apply(fmt.Sprintf(visitorsPay, identity))
	gets(http80, nil, 200, "pay called by By=")

	says := func(what string, check func(mesh.ListenerStatus) error) {
		t.Helper()
		await(t, what, func() error {
			var o struct {
				Status client.ResourceObjectStatus `json:"status"`
			}
			if err := z.Fetch(ctxOf(t), "/namespaces/shop/gateways/edge", &o); err != nil {
				return err
			}
			if len(o.Status.Zones) != 1 || len(o.Status.Zones[0].Listeners) != 2 {
				return fmt.Errorf("%+v", o.Status)
			}
			return check(o.Status.Zones[0].Listeners[1])
		})
	}
	says("the missing certificate is told", func(l mesh.ListenerStatus) error {
		if c := l.Conditions[1]; l.AttachedRoutes != 1 || c.Reason != "InvalidCertificateRef" || !strings.Contains(c.Message, "in1: ") {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	roots := putCertificate(t, filepath.Join(secrets, "shop", "www"), "pay.example.com")
	gets("https://"+net.JoinHostPort(on.address(), strconv.Itoa(secure))+"/", roots, 200, identity)
	says("it is there", func(l mesh.ListenerStatus) error {
		if c := l.Conditions[1]; c.Status != "True" {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
}

// putCertificate makes a certificate that is its own authority, and lays it where an agent looks for it.
func putCertificate(t *testing.T, dir, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, content := range map[string][]byte{"tls.crt": cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}
