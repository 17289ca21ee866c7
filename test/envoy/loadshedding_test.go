package envoy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/openloop"
)

// TestLoadShedding: at twice of what an app can do, it does nearly all that it can in time, and what is refused is of low
// criticality. Without shedding nothing is in time, which shows that the app is really overloaded.
func TestLoadShedding(t *testing.T) {
	w := newWorld(t)
	const (
		// Four workers for 20 ms each.
		work, capacity = 20 * time.Millisecond, 200.0
		// 0.8 of the capacity are of high criticality, 1.2 of low.
		share, of = 2, 5
		inTime    = 250 * time.Millisecond
	)
	port, h := w.spec(t, "web").Spec.OutboundPort, client(t, false)
	run := func(seconds int) (good, goodHigh, high int, other map[string]int) {
		load := openloop.Start(t.Context(), 2*capacity, func(ctx context.Context, n int) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, inTime)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(port)+"/", nil)
			if err != nil {
				return "", err
			}
			req.Host = "echo-v1.shop.svc.clusterset.local"
			req.Header.Set(doWork, work.String())
			criticality := "high"
			if n%of >= share {
				criticality = "low"
			}
			req.Header.Set("comity-criticality", criticality)
			resp, err := h.Do(req)
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					err = errors.New("too late")
				}
				return criticality, err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return criticality, fmt.Errorf("%d", resp.StatusCode)
			}
			return criticality, nil
		})
		eventually(t, "the load is over", func() error {
			if n := len(load.SoFar()); n < int(2*capacity)*(seconds+2) {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		other = map[string]int{}
		for i, r := range load.Stop() {
			if i < int(2*capacity)*2 {
				continue // the controller finds out
			}
			if r.By == "high" {
				high++
			}
			switch {
			case r.Err != nil:
				other[r.By+" "+r.Err.Error()]++
			case r.By == "high":
				goodHigh++
				good++
			default:
				good++
			}
		}
		return good, goodHigh, high, other
	}
	const seconds = 3
	shedding := `
kind: TrafficPolicy
metadata: {name: shed}
spec: {targetRef: {kind: Service, name: echo-v1}, loadShedding: {latency: 20ms}}
`
	w.apply(t, shedding)
	good, goodHigh, high, other := run(seconds)
	t.Logf("shedding: %d in time of %.0f possible; of high criticality %d of %d; else %v", good, capacity*seconds, goodHigh, high, other)
	if float64(good) < 0.8*capacity*seconds {
		t.Errorf("%d answers in time, less than 80 %% of what the app can do", good)
	}
	if float64(goodHigh) < 0.95*float64(high) {
		t.Errorf("%d of %d requests of high criticality were answered in time", goodHigh, high)
	}
	if lost := other["high 429"]; lost*10 > other["low 429"] {
		t.Errorf("%d of high criticality were shed", lost)
	}
	w.apply(t, "")
	good, goodHigh, high, other = run(seconds)
	t.Logf("without: %d in time; of high criticality %d of %d; else %v", good, goodHigh, high, other)
	if float64(good) > 0.5*capacity*seconds {
		t.Errorf("without shedding %d answers are in time: the app is not overloaded", good)
	}
}
