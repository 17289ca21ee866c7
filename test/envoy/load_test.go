package envoy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/comity-mesh/comity/internal/openloop"
)

// load is requests at a steady rate, each as if nobody else were there.
type load struct{ *openloop.Load }

// load begins so many requests a second to a host. Half of them are POST, which is not tried again once it may have been seen.
func (w *world) load(t *testing.T, rate float64, host string) load {
	t.Helper()
	h, port := client(t, false), w.spec(t, "web").Spec.OutboundPort
	return load{openloop.Start(t.Context(), rate, func(ctx context.Context, n int) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		method := http.MethodGet
		if n%2 == 1 {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://"+local(port)+"/", nil)
		if err != nil {
			return "", err
		}
		req.Host = host
		resp, err := h.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			why, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // what there is of it
			return "", fmt.Errorf("%s %d %s", method, resp.StatusCode, why)
		}
		return resp.Header.Get("X-App"), nil
	})}
}

// more waits until so many requests more have ended.
func (l load) more(t *testing.T, n int) {
	t.Helper()
	seen := len(l.SoFar())
	eventually(t, "requests go on", func() error {
		if more := len(l.SoFar()) - seen; more < n {
			return fmt.Errorf("%d more", more)
		}
		return nil
	})
}

// unharmed ends the load and fails the test if a request failed.
func (l load) unharmed(t *testing.T) {
	t.Helper()
	failed, all := map[string]int{}, l.Stop()
	for _, r := range all {
		if r.Err != nil {
			failed[r.Err.Error()]++
		}
	}
	t.Logf("%d requests", len(all))
	if len(failed) > 0 {
		t.Errorf("of %d requests failed: %v", len(all), failed)
	}
}
