package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"github.com/comity-mesh/comity/xds/envoy"
)

// process is one running Envoy.
type process struct {
	name  string
	files *files
	admin string // host:port
	log   *lockedBuffer
	cmd   *exec.Cmd
	exit  chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// drainSeconds is how long a listener or chain that was removed lets its connections live.
const drainSeconds = 1

// startEnvoy runs an Envoy with resources and a certificate, and waits until it is live.
func startEnvoy(t *testing.T, name string, resources []envoy.Resource, identity object) *process {
	t.Helper()
	p := &process{name: name, files: newFiles(t), log: &lockedBuffer{}, exit: make(chan struct{})}
	if identity != nil {
		identity["@type"] = envoy.TypeSecret
		p.files.put(t, p.files.fileOf("sds", envoy.IdentitySecret), identity)
	}
	p.files.write(t, resources)
	boot := object{
		"node":  object{"id": name, "cluster": "test"},
		"admin": object{"address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}}},
		"dynamic_resources": object{
			"cds_config": p.files.source(filepath.Join(p.files.dir, "cds.json")),
			"lds_config": p.files.source(filepath.Join(p.files.dir, "lds.json")),
		},
	}
	raw, err := json.Marshal(boot)
	if err != nil {
		t.Fatal(err)
	}
	p.run(t, p.files.dir, raw)
	return p
}

// run starts the Envoy with a bootstrap, which it writes into a folder, and waits until it is live.
func (p *process) run(t *testing.T, dir string, bootstrap []byte) {
	t.Helper()
	file, adminFile := filepath.Join(dir, "bootstrap.json"), filepath.Join(dir, "admin")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(envoyPath(t), "-c", file, "--disable-hot-restart", "--concurrency", "1", "-l", "warning",
		"--admin-address-path", adminFile, "--drain-time-s", strconv.Itoa(drainSeconds), "--drain-strategy", "immediate", "--parent-shutdown-time-s", "2",
		"--file-flush-interval-msec", "100") // instead of 10 s, for tests that read logs
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its exit code says nothing here: it is killed
		close(p.exit)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", p.name, p.log)
		}
	})
	p.wait(t, "be live", func() error {
		a, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		p.admin = strings.TrimSpace(string(a))
		_, err = p.ask("/ready")
		return err
	})
}

// kill ends it as a machine that loses power does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.exit
}

// wait polls until f has no error, the process ends, or patience does.
func (p *process) wait(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-p.exit:
			t.Fatalf("%s ended before it could %s: %v\n%s", p.name, what, err, p.log)
		case <-deadline.C:
			t.Fatalf("%s did not %s: %v\n%s", p.name, what, err, p.log)
		}
	}
}

func (p *process) ask(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// stat reads one counter or gauge; 0 if Envoy has not made it yet.
func (p *process) stat(t *testing.T, name string) int {
	t.Helper()
	body, err := p.ask("/stats?filter=^" + strings.ReplaceAll(name, ":", "_") + "$")
	if err != nil {
		t.Fatal(err)
	}
	_, value, ok := strings.Cut(strings.TrimSpace(body), ": ")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// update publishes other resources and waits until the named counters grew.
func (p *process) update(t *testing.T, resources []envoy.Resource, counters ...string) {
	t.Helper()
	before := make([]int, len(counters))
	for i, c := range counters {
		before[i] = p.stat(t, c)
	}
	p.files.write(t, resources)
	p.wait(t, "take the update", func() error {
		for i, c := range counters {
			if p.stat(t, c) == before[i] {
				return errors.New(c + " did not grow")
			}
		}
		return nil
	})
}
