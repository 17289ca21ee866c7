package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/internal/openloop"
)

// patient is an application that answers all it is asked, but says when it is ill.
type patient struct {
	name string

	mu     sync.Mutex
	ill    bool
	probes []time.Time // answered since it fell ill
	asked  time.Time   // by a caller, last
}

func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.URL.Path != "/healthz":
		p.asked = time.Now()
		_, _ = io.WriteString(w, p.name) // the caller may be gone
	case p.ill:
		p.probes = append(p.probes, time.Now())
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// falls makes it ill, or well.
func (p *patient) falls(ill bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ill, p.probes = ill, nil
}

// took is how long it was still asked after it had first said that it is ill.
func (p *patient) took() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.probes) == 0 {
		return 0
	}
	return p.asked.Sub(p.probes[0])
}

// TestProbe: a service grows from one workload to three, and all answer. One whose application says that it is ill gets no more requests
// within two intervals, and gets them again when it is well; no request fails.
func TestProbe(t *testing.T) {
	const interval = 2 * time.Second
	z := startZone(t, "clinic")
	port := int(freeporttest.Port(t))
	z.apply(payService(port) + "---" + allowAll)
	apps := map[string]*patient{}
	grow := func(name, address string) {
		t.Helper()
		p := &patient{name: name}
		apps[name] = p
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: p}
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(l) }) // ends with Close
		t.Cleanup(func() { _ = s.Close(); wg.Wait() })
		z.workload(name, map[string]any{
			"labels": map[string]string{"app": "pay"}, "appAddress": address,
			// What a busy machine answers late is not ill.
			"healthCheck": map[string]any{"port": port, "path": "/healthz", "intervalMs": interval.Milliseconds(), "timeoutMs": within.Milliseconds()},
		})
	}
	grow("pay-1", "127.0.0.21")
	web := z.workload("web")
	web.answers(payHost, 200)
	web.http.Timeout = within
	load := openloop.Start(t.Context(), 50, func(ctx context.Context, _ int) (string, error) {
		status, by, err := web.call(payHost)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, by)
		}
		return by, err
	})
	// answers awaits that for a second everything is answered by the named, and by each of them.
	answers := func(what string, names ...string) {
		t.Helper()
		from := time.Now()
		await(t, what, func() error {
			record := load.SoFar()
			at, steady := record.SteadyFrom(from, time.Second, func(r openloop.Request) bool { return r.Err != nil || slices.Contains(names, r.By) })
			if by := record.Since(at).By(); !steady || len(by) != len(names) {
				return fmt.Errorf("answered by %v", by)
			}
			return nil
		})
		t.Logf("%s: after %s", what, time.Since(from).Round(time.Millisecond))
	}
	answers("one workload", "pay-1")
	grow("pay-2", "127.0.0.22")
	grow("pay-3", "127.0.0.23")
	answers("three workloads", "pay-1", "pay-2", "pay-3")
	apps["pay-2"].falls(true)
	answers("one is ill", "pay-1", "pay-3")
	if took := apps["pay-2"].took(); took > 2*interval {
		t.Errorf("it was asked for %s after it had said that it is ill, more than two intervals of %s", took, interval)
	}
	apps["pay-2"].falls(false)
	answers("it is well", "pay-1", "pay-2", "pay-3")

	record := load.Stop()
	t.Logf("%d requests, longest %s", len(record), record.Longest().Round(time.Millisecond))
	for _, r := range record.Failed() {
		t.Errorf("failed: %v", r.Err)
	}
}
