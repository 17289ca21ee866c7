package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/mesh"
)

// bin is the folder with the programs, built once.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "comity-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		build := exec.Command("go", "build", "-o", dir, "../../global-cp", "../../zone-cp", "../../sidecar", "../../ingress")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

// within is how long a fact may take to come true on a busy machine.
const within = time.Minute

// await asks until f has no objection.
func await(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.After(within)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s did not come true within %s: %v", what, within, err)
		case <-again.C:
		}
	}
}

// process is a program of ours that runs.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs a program on a host; it is stopped when the test ends, and its log shown if the test failed.
func (h *host) start(t testing.TB, name, dir string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(program, args...)
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), env...)
	// Whatever happens to the test, nothing of it stays.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	h.do(func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its log
		_ = f.Close()
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			p.show()
		}
	})
	return p
}

func (p *process) show() {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return
	}
	const most = 8 << 10
	if len(text) > most {
		text = text[len(text)-most:]
	}
	p.t.Logf("--- log of %s\n%s", p.name, text)
}

// stop signals the process and waits for its end, with force at last.
func (p *process) stop(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		p.t.Errorf("%s did not end on %v", p.name, s)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// kill ends it like a power loss.
func (p *process) kill() { p.stop(syscall.SIGKILL) }

func writeYAML(t testing.TB, path string, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// controlPlane is a global or a zone.
type controlPlane struct {
	*process
	t       testing.TB
	on      *host
	name    string
	dir     string
	api     string // reachable from here
	program string
	config  string
	skew    time.Duration // by which its clock is ahead
	*client.Client
}

func (c *controlPlane) run() {
	c.t.Helper()
	program, args := c.skewed(filepath.Join(bin, c.program), "serve", "--config", c.config)
	c.process = c.on.start(c.t, c.name, c.dir, nil, program, args...)
	await(c.t, c.name+" is ready", func() error {
		select {
		case <-c.process.done:
			c.show()
			c.t.Fatalf("%s ended", c.name)
		default:
		}
		return get("http://"+c.api+"/readyz", nil)
	})
	token, err := os.ReadFile(filepath.Join(c.dir, "admin.token"))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.Client, err = client.New(client.Config{Server: "http://" + c.api, Token: strings.TrimSpace(string(token))}); err != nil {
		c.t.Fatal(err)
	}
}

// skewed is how to run a program with the clock of the control plane.
func (c *controlPlane) skewed(program string, args ...string) (string, []string) {
	if c.skew == 0 {
		return program, args
	}
	return filepath.Join(bin, "skew"), append([]string{c.skew.String(), program}, args...)
}

// newControlPlane configures one; run runs it.
func newControlPlane(t testing.TB, on *host, name, program string, config map[string]any) *controlPlane {
	t.Helper()
	port := on.free(t)
	c := &controlPlane{t: t, on: on, name: name, dir: t.TempDir(), api: on.forward(t, port), program: program}
	listen, _ := config["listen"].(map[string]any)
	listen["api"] = "127.0.0.1:" + strconv.Itoa(port)
	config["dataDir"], config["adminTokenFile"] = filepath.Join(c.dir, "data"), filepath.Join(c.dir, "admin.token")
	c.config = writeYAML(t, filepath.Join(c.dir, name+".yaml"), config)
	return c
}

func startGlobal(t testing.TB) *controlPlane { t.Helper(); return startGlobalOn(t, nil) }

func startGlobalOn(t testing.TB, on *host) *controlPlane {
	t.Helper()
	c := newControlPlane(t, on, "global", "global-cp", map[string]any{
		"trustDomain": "global.e2e.example", "listen": map[string]any{"federation": on.somewhere(t)},
	})
	c.run()
	return c
}

// zone is a zone's control plane with what runs in the zone.
type zone struct {
	*controlPlane
	trustDomain mesh.TrustDomain
	place       string // fields of its Zone, as "cloud: a, region: b, "
}

// startZone starts a zone's control plane; settings come on top of the usual ones.
func startZone(t testing.TB, name string, settings ...map[string]any) *zone {
	t.Helper()
	return startZoneOn(t, nil, name, settings...)
}

func startZoneOn(t testing.TB, on *host, name string, settings ...map[string]any) *zone {
	t.Helper()
	z := newZone(t, on, name, settings...)
	z.run()
	return z
}

func newZone(t testing.TB, on *host, name string, settings ...map[string]any) *zone {
	t.Helper()
	td := name + ".e2e.example"
	config := map[string]any{"zone": name, "trustDomain": td, "listen": map[string]any{"proxies": on.somewhere(t)}}
	for _, s := range settings {
		maps.Copy(config, s)
	}
	return &zone{trustDomain: mesh.TrustDomain(td), controlPlane: newControlPlane(t, on, name, "zone-cp", config)}
}

// joins makes the zone a member of the mesh, with the namespaces it may speak for.
func (z *zone) joins(global *controlPlane, namespaces ...string) {
	z.t.Helper()
	global.apply(fmt.Sprintf("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: %s}\nspec: {%snamespaces: [%s]}\n", z.name, z.place, strings.Join(namespaces, ", ")))
	token, err := global.CreateJoinToken(ctxOf(z.t), z.name, client.JoinTokenRequest{})
	if err != nil {
		z.t.Fatal(err)
	}
	r, err := z.Join(ctxOf(z.t), client.JoinRequest{Token: token.Token})
	if err != nil {
		z.t.Fatal(err)
	}
	if want := "spiffe://global.e2e.example/zone/" + z.name; r.Identity != want {
		z.t.Fatalf("joined as %q, not %q", r.Identity, want)
	}
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*within)
	t.Cleanup(cancel)
	return ctx
}

func (c *controlPlane) apply(docs string) mesh.Revision {
	c.t.Helper()
	r, err := c.Apply(ctxOf(c.t), []byte(docs), client.ApplyOptions{})
	if err != nil {
		c.t.Fatalf("apply at %s: %v", c.name, err)
	}
	return r.Revision
}

// applyEverywhere is apply, and waits until every connected zone does what it says.
func (c *controlPlane) applyEverywhere(docs string) {
	c.t.Helper()
	revision := c.apply(docs)
	if err := c.Follow(ctxOf(c.t), revision, func(p client.Progress) bool { return p.Done }); err != nil {
		c.t.Fatalf("follow revision %d at %s: %v", revision, c.name, err)
	}
}

// proxy is a sidecar or ingress with its Envoy.
type proxy struct {
	*process
	info func() (proxyInfo, error)
	// begin starts it; again without env, after it has ended.
	begin func(env ...string)
}

type proxyInfo struct {
	Identity string   `json:"identity"`
	Ready    bool     `json:"ready"`
	EnvoyPID int      `json:"envoyPid"`
	RunDir   string   `json:"runDir"`
	Outbound string   `json:"outbound"`
	Metrics  string   `json:"metrics"`
	DNS      string   `json:"dns"`
	Ports    []uint16 `json:"ports"`
}

func (z *zone) startProxy(on *host, program, name string, token client.EnrolmentTokenRequest, config map[string]any) *proxy {
	z.t.Helper()
	tok, err := z.CreateEnrolmentToken(ctxOf(z.t), token)
	if err != nil {
		z.t.Fatal(err)
	}
	dir := z.t.TempDir()
	// Socket paths have little room.
	run, err := os.MkdirTemp("", "ce2e")
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(func() { _ = os.RemoveAll(run) })
	envoy, err := envoybin.Path()
	if err != nil {
		z.t.Fatal(err)
	}
	config["name"], config["dataDir"], config["runDir"], config["writeInfo"] = name, filepath.Join(dir, "data"), filepath.Join(run, "r"), filepath.Join(dir, "info.json")
	if z.skew != 0 { // Envoy is started by the agent, and its clock is as wrong
		program, args := z.skewed(envoy)
		script := fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' \"$@\"\n", program, strings.Join(args, "' '"))
		envoy = filepath.Join(dir, "envoy")
		if err := os.WriteFile(envoy, []byte(script), 0o700); err != nil {
			z.t.Fatal(err)
		}
	}
	config["envoy"] = map[string]any{"path": envoy, "concurrency": 1}
	file := writeYAML(z.t, filepath.Join(dir, name+".yaml"), config)
	program, args := z.skewed(filepath.Join(bin, program), "run", "--config", file)
	info := filepath.Join(dir, "info.json")
	p := &proxy{}
	p.begin = func(env ...string) {
		z.t.Helper()
		_ = os.Remove(info) // of an earlier run, if any
		p.process = on.start(z.t, z.name+"-"+name, dir, env, program, args...)
		p.ready(z.t)
	}
	p.info = func() (proxyInfo, error) {
		var i proxyInfo
		text, err := os.ReadFile(info)
		if err == nil {
			err = json.Unmarshal(text, &i)
		}
		return i, err
	}
	p.begin("COMITY_ENROL_TOKEN=" + tok.Token)
	return p
}

func (p *proxy) ready(t testing.TB) {
	t.Helper()
	await(t, p.name+" is ready", func() error {
		select {
		case <-p.done:
			p.show()
			t.Fatalf("%s ended", p.name)
		default:
		}
		i, err := p.info()
		if err == nil && !i.Ready {
			err = errors.New("its Envoy is not ready")
		}
		return err
	})
}

// ingress starts a zone ingress with two lanes.
func (z *zone) ingress(name string) *proxy { z.t.Helper(); return z.ingressOn(nil, name) }

func (z *zone) ingressOn(on *host, name string) *proxy {
	z.t.Helper()
	return z.startProxy(on, "ingress", name, client.EnrolmentTokenRequest{Role: mesh.RoleIngress, Name: name}, map[string]any{
		"bindAddress": on.address(), "lanes": []int{on.free(z.t), on.free(z.t)},
	})
}

// workload is an application with its sidecar.
type workload struct {
	*proxy
	zone *zone
	http *http.Client
}

// workload starts the sidecar of a workload whose service account and label app are its name; settings come on
// top of the usual ones.
func (z *zone) workload(name string, settings ...map[string]any) *workload {
	z.t.Helper()
	return z.workloadOn(nil, name, settings...)
}

func (z *zone) workloadOn(on *host, name string, settings ...map[string]any) *workload {
	z.t.Helper()
	config := map[string]any{
		"namespace": "shop", "labels": map[string]string{"app": name}, "address": on.address(), "inboundPort": on.free(z.t), "outboundPort": on.free(z.t),
	}
	for _, s := range settings {
		maps.Copy(config, s)
	}
	labels, _ := config["labels"].(map[string]string)
	p := z.startProxy(on, "sidecar", name, client.EnrolmentTokenRequest{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: name, Labels: labels}, config)
	w := &workload{proxy: p, zone: z}
	w.http = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		i, err := p.info()
		if err != nil {
			return nil, err
		}
		return on.dial(ctx, i.Outbound)
	}}}
	z.t.Cleanup(w.http.CloseIdleConnections)
	return w
}

// call asks a service by its host name through the sidecar.
func (w *workload) call(host string) (status int, body string, err error) {
	r, err := w.http.Get("http://" + host + "/")
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err
}

// answers awaits a status from a service, and returns the body that came with it.
func (w *workload) answers(host string, status int) string {
	w.zone.t.Helper()
	var body string
	await(w.zone.t, fmt.Sprintf("%s answers %d to %s", host, status, w.name), func() error {
		got, text, err := w.call(host)
		if err == nil && got != status {
			err = fmt.Errorf("it answers %d: %.200s", got, text)
		}
		body = text
		return err
	})
	return body
}

// app is an application that says who called it.
func app(t testing.TB, name string) (port int) { t.Helper(); return appOn(t, nil, name, 0) }

// appOn starts it on a host; port 0 is any.
func appOn(t testing.TB, on *host, name string, port int) int {
	t.Helper()
	var l net.Listener
	var err error
	on.do(func() { l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)) })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s called by %s", name, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) }) // ends with Close
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// get asks a URL and decodes JSON into out, if that is not nil.
func get(url string, out any) error {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.300s", url, r.Status, bytes.TrimSpace(text))
	}
	if out != nil {
		return json.Unmarshal(text, out)
	}
	return nil
}
