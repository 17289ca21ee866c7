package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// run starts a whole zone and returns where its API listens and how to stop it.
func run(t *testing.T, s settings) (string, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	at := make(chan string, 1)
	done := make(chan error, 1)
	go func() { done <- serve(ctx, s, io.Discard, func(a string) { at <- a }) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case a := <-at:
		return a, stop
	case err := <-done:
		done <- err
		t.Fatalf("serve: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the zone did not start")
	}
	return "", nil
}

func testSettings(t *testing.T) settings {
	s := defaults()
	s.Zone, s.TrustDomain, s.DataDir = "east", "east.example", filepath.Join(t.TempDir(), "zone")
	s.Listen = listenSettings{API: "127.0.0.1:0", Proxies: "127.0.0.1:0"}
	return s
}

func adminToken(t *testing.T, s settings) string {
	t.Helper()
	text, err := os.ReadFile(adminTokenFile(s))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func call(t *testing.T, method, url, token, body string) answer {
	t.Helper()
	resp := open(t, method, url, token, body)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// open is for answers that go on; the caller closes them.
func open(t *testing.T, method, url, token, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What only a zone has is under the same guard as the rest of the API.
func TestTheZonesOwnRoutes(t *testing.T) {
	s := testSettings(t)
	at, _ := run(t, s)
	admin := adminToken(t, s)
	c, err := client.New(client.Config{Server: "http://" + at, Token: admin})
	if err != nil {
		t.Fatal(err)
	}
	viewer, err := c.CreateAPIToken(t.Context(), client.APITokenRequest{Name: "reader", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	const sidecar = `{"role":"sidecar","namespace":"shop","serviceAccount":"web","name":"web-1"}`
	for _, x := range []struct {
		method, path, token, body string
		status                    int
	}{
		{"GET", "_zone", "", "", 401},
		{"GET", "_zone", viewer.Token, "", 200},
		{"GET", "enrolmenttokens", viewer.Token, "", 200},
		{"POST", "enrolmenttokens", "", sidecar, 401},
		{"POST", "enrolmenttokens", viewer.Token, sidecar, 403},
		{"POST", "enrolmenttokens", admin, sidecar, 201},
		{"POST", "enrolmenttokens", admin, `{"role":"sidecar","namespace":"shop","serviceAccount":"web","name":"no name"}`, 422},
		{"POST", "enrolmenttokens", admin, `{"role":"sidecar","unknown":1}`, 422},
		{"POST", "enrolmenttokens", admin, `{"role":`, 400},
		{"POST", "enrolmenttokens", admin, `{"role":"` + strings.Repeat("x", 2*maxBody) + `"}`, 413},
		{"POST", "_join", viewer.Token, `{"token":"x"}`, 403},
		{"POST", "_join", admin, `{"token":"x"}`, 422},
	} {
		r := call(t, x.method, "http://"+at+"/api/v1/"+x.path, x.token, x.body)
		if r.status != x.status {
			t.Errorf("%s %s %.60s: %d, not %d: %s", x.method, x.path, x.body, r.status, x.status, r.body)
		}
		if r.header.Get("X-Content-Type-Options") != "nosniff" || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: headers %v", x.method, x.path, r.header)
		}
		if form := r.header.Get("Content-Type"); r.status >= 400 && form != "application/problem+json" {
			t.Errorf("%s %s: %d as %s", x.method, x.path, r.status, form)
		}
	}
	doc := call(t, "GET", "http://"+at+"/openapi.json", "", "").body
	for _, path := range []string{"/api/v1/_join", "/api/v1/_zone", "/api/v1/enrolmenttokens"} {
		if !strings.Contains(doc, `"`+path+`"`) {
			t.Errorf("%s is not in /openapi.json", path)
		}
	}
	tok, err := c.CreateEnrolmentToken(t.Context(), client.EnrolmentTokenRequest{Role: mesh.RoleIngress, Name: "main"})
	if err != nil || !strings.HasPrefix(tok.Token, "comity-") {
		t.Errorf("%+v, %v", tok.ID, err)
	}
}

// A reader that watches does not keep the program from ending.
func TestStopsWithAWatcher(t *testing.T) {
	s := testSettings(t)
	at, stop := run(t, s)
	r := open(t, "GET", "http://"+at+"/api/v1/services?watch=true", adminToken(t, s), "")
	defer r.Body.Close()
	in := bufio.NewScanner(r.Body)
	if r.StatusCode != http.StatusOK || !in.Scan() {
		t.Fatalf("%d %q", r.StatusCode, in.Text())
	}
	began := time.Now()
	stop()
	// The drain alone is longer than this.
	if took := time.Since(began); took >= drainWithin {
		t.Errorf("stopping took %s", took)
	}
	for in.Scan() { // to the end
	}
}
