package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// run starts a whole global and returns where it listens and how to stop it.
func run(t *testing.T, s settings) (addresses, *output, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	at := make(chan addresses, 1)
	done := make(chan error, 1)
	stdout := &output{}
	go func() { done <- serve(ctx, s, stdout, &output{}, func(a addresses) { at <- a }) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	select {
	case a := <-at:
		return a, stdout, stop
	case err := <-done:
		done <- err
		t.Fatalf("serve: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("global did not start")
	}
	return addresses{}, nil, nil
}

func testSettings(t *testing.T) settings {
	s := defaults()
	s.DataDir = filepath.Join(t.TempDir(), "global")
	s.Listen = listenSettings{API: "127.0.0.1:0", Federation: "127.0.0.1:0"}
	return s
}

func TestAWholeGlobal(t *testing.T) {
	s := testSettings(t)
	at, stdout, stop := run(t, s)
	_, token, found := strings.Cut(stdout.String(), "admin token (shown this once): ")
	if !found {
		t.Fatalf("no admin token on standard output: %q", stdout)
	}
	token = strings.TrimSpace(token)
	c, err := client.New(client.Config{Server: "http://" + at.API, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	kind, _ := policy.Lookup(string(mesh.KindZone))
	zone := client.Object{APIVersion: policy.APIVersion, Kind: kind.Kind, Metadata: client.Metadata{Name: "east"}, Spec: []byte(`{"namespaces":["shop"]}`)}
	if _, err := c.CreateJoinToken(t.Context(), "east", client.JoinTokenRequest{}); fault.ExitCode(err) != fault.ExitNotFound {
		t.Errorf("a token for no zone: %v", err)
	}
	var made client.Object
	if err := c.Post(t.Context(), "/zones", zone, &made); err != nil {
		t.Fatal(err)
	}
	got, err := c.CreateJoinToken(t.Context(), "east", client.JoinTokenRequest{TTLSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := identity.ParseJoinToken(got.Token)
	if err != nil || parsed.Zone != "east" || parsed.Endpoints[0] != at.Federation {
		t.Errorf("token %v, %v", parsed, err)
	}
	list, err := c.JoinTokens(t.Context(), "east")
	if err != nil || len(list) != 1 || list[0].Token != "" || list[0].ID != got.ID || list[0].Used {
		t.Errorf("list %+v, %v", list, err)
	}
	if _, err := c.CreateJoinToken(t.Context(), "east", client.JoinTokenRequest{TTLSeconds: 1 << 30}); err == nil {
		t.Error("a token for 34 years")
	}
	if err := c.RevokeJoinToken(t.Context(), "east", got.ID); err != nil {
		t.Error(err)
	}
	if err := c.RevokeJoinToken(t.Context(), "east", got.ID); fault.ExitCode(err) != fault.ExitNotFound {
		t.Errorf("revoked twice: %v", err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/openapi.json": 200, "/api/v1/zones/east/jointokens": 401} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.API+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if resp.StatusCode != want {
			t.Errorf("%s: %d, not %d", path, resp.StatusCode, want)
		}
	}
	stop()

	// No key and no token lies open in the data folder; a second start shows no token.
	err = filepath.WalkDir(s.DataDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, secret := range []string{"PRIVATE KEY", token[len(token)-20:]} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds a secret", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	_, again, _ := run(t, s)
	if again.String() != "" {
		t.Errorf("the second start printed %q", again)
	}
}

// A reader that watches does not keep the program from ending.
func TestStopsWithAWatcher(t *testing.T) {
	s := testSettings(t)
	s.AdminTokenFile = filepath.Join(t.TempDir(), "admin.token")
	at, _, stop := run(t, s)
	token, err := os.ReadFile(s.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.API+"/api/v1/zones?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	in := bufio.NewScanner(r.Body)
	if r.StatusCode != http.StatusOK || !in.Scan() {
		t.Fatalf("%d %q", r.StatusCode, in.Text())
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took >= drain {
		t.Errorf("stopping took %s", took)
	}
	for in.Scan() { // to the end
	}
}

func TestAdminTokenFile(t *testing.T) {
	s := testSettings(t)
	s.AdminTokenFile = filepath.Join(t.TempDir(), "admin.token")
	_, stdout, _ := run(t, s)
	st, err := os.Stat(s.AdminTokenFile)
	if err != nil || st.Mode().Perm() != 0o600 || stdout.String() != "" {
		t.Errorf("file %v, %v; printed %q", st, err, stdout)
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, edit := range map[string]func(*settings){
		"plain HTTP beyond loopback": func(s *settings) { s.Listen.API = "0.0.0.0:7400" },
		"a name that may resolve":    func(s *settings) { s.Listen.API = "global.example:7400" },
		"no address to advertise":    func(s *settings) { s.Listen.Federation = ":7401" },
		"a certificate without key":  func(s *settings) { s.API.TLSCert = "x" },
		"a bad trust domain":         func(s *settings) { s.TrustDomain = "Global" },
		"no port":                    func(s *settings) { s.Listen.API = "127.0.0.1" },
		"no history at all":          func(s *settings) { s.Retention.Revisions = 0 },
	} {
		s := defaults()
		edit(&s)
		if s.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s := defaults()
	if err := s.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
}

func TestAnotherTrustDomainIsRefused(t *testing.T) {
	s := testSettings(t)
	_, _, stop := run(t, s)
	stop()
	s.TrustDomain = "other.example"
	if err := serve(t.Context(), s, &output{}, &output{}, nil); err == nil || !strings.Contains(err.Error(), "authority") {
		t.Errorf("serve: %v", err)
	}
}

func TestOrdersAboutAZone(t *testing.T) {
	s := testSettings(t)
	s.AdminTokenFile = filepath.Join(t.TempDir(), "admin.token")
	at, _, _ := run(t, s)
	token, err := os.ReadFile(s.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	as := func(token string) *client.Client {
		t.Helper()
		c, err := client.New(client.Config{Server: "http://" + at.API, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := as(strings.TrimSpace(string(token)))
	zone := client.Object{APIVersion: policy.APIVersion, Kind: mesh.KindZone, Metadata: client.Metadata{Name: "east"}, Spec: []byte(`{"namespaces":["shop"]}`)}
	if err := c.Post(t.Context(), "/zones", zone, nil); err != nil {
		t.Fatal(err)
	}
	code := func(what, want string, exit int, err error) {
		t.Helper()
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != want || f.Exit != exit {
			t.Errorf("%s: %v", what, err)
		}
	}
	viewer, err := c.CreateAPIToken(t.Context(), client.APITokenRequest{Name: "looker", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	looker := as(viewer.Token)
	_, err = looker.RevokeZone(t.Context(), "east", client.RevokeRequest{})
	code("a viewer revokes", "forbidden", fault.ExitDenied, err)
	_, err = looker.DrainZone(t.Context(), "east", client.DrainRequest{})
	code("a viewer drains", "forbidden", fault.ExitDenied, err)
	if d, err := looker.ZoneDrain(t.Context(), "east"); err != nil || d.State != client.DrainNone {
		t.Errorf("a viewer looks: %+v, %v", d, err)
	}
	_, err = c.ZoneRevocation(t.Context(), "east")
	code("a revocation that is none", "not_found", fault.ExitNotFound, err)
	_, err = c.DrainZone(t.Context(), "west", client.DrainRequest{})
	code("no such zone", "not_found", fault.ExitNotFound, err)
	_, err = c.DrainZone(t.Context(), "east", client.DrainRequest{Over: "soon"})
	code("a malformed order", "invalid", fault.ExitFailure, err)
	if d, err := c.DrainZone(t.Context(), "east", client.DrainRequest{Over: "5s", Reason: "kernel"}); err != nil || d.State != client.DrainDone || d.Reason != "kernel" {
		t.Errorf("nobody sends anything to a zone that never joined: %+v, %v", d, err)
	}
	if d, err := c.UndrainZone(t.Context(), "east", ""); err != nil || d.State != client.DrainNone {
		t.Errorf("undrained: %+v, %v", d, err)
	}
	rep, err := c.RevokeZone(t.Context(), "east", client.RevokeRequest{Reason: "stolen"})
	if err != nil || !rep.Done || rep.Reason != "stolen" {
		t.Errorf("revoked: %+v, %v", rep, err)
	}
	_, err = c.DrainZone(t.Context(), "east", client.DrainRequest{})
	code("drain of a revoked zone", "conflict", fault.ExitConflict, err)
	var made client.Object
	if err := c.Fetch(t.Context(), "/zones/east", &made); err != nil || !strings.Contains(string(made.Spec), `"revoked":{"reason":"stolen"}`) {
		t.Errorf("the Zone says %s, %v", made.Spec, err)
	}
}
