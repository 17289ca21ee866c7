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
// criticality. Without shedding nothing is in time, which shows that the app is really overloaded. A machine that is busy with others can do
// less, and never more, so that the best of a few runs counts.
func TestLoadShedding(t *testing.T) {
	w := newWorld(t)
	const (
		// Four workers for 100 ms each: so long that what a busy machine adds is little beside it.
		work, capacity = 100 * time.Millisecond, 40.0
		// 0.8 of the capacity are of high criticality, 1.2 of low.
		share, of = 2, 5
		inTime    = time.Second
	)
	port, h := w.spec(t, "web").Spec.OutboundPort, client(t, false)
	const seconds, before = 4, 2 // while the controller finds out
	run := func() (good, goodHigh, high int, other map[string]int) {
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
			if n := len(load.SoFar()); n < int(2*capacity)*(seconds+before) {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		other = map[string]int{}
		for i, r := range load.Stop() {
			if i < int(2*capacity)*before || i >= int(2*capacity)*(before+seconds) {
				continue
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
	w.apply(t, `
kind: TrafficPolicy
metadata: {name: shed}
spec: {targetRef: {kind: Service, name: echo-v1}, loadShedding: {latency: 100ms}}
`)
	sheds := func() error {
		good, goodHigh, high, other := run()
		t.Logf("shedding: %d in time of %.0f possible; of high criticality %d of %d; else %v", good, capacity*seconds, goodHigh, high, other)
		switch lost := other["high 429"]; {
		case float64(good) < 0.8*capacity*seconds:
			return fmt.Errorf("%d answers in time, less than 80 %% of what the app can do", good)
		case float64(goodHigh) < 0.95*float64(high):
			return fmt.Errorf("%d of %d requests of high criticality were answered in time", goodHigh, high)
		case lost*10 > other["low 429"]:
			return fmt.Errorf("%d of high criticality were shed", lost)
		}
		return nil
	}
	for again := 4; ; again-- {
		err := sheds()
		if err == nil {
			break
		}
		if again == 0 {
			t.Fatal(err)
		}
	}
	w.apply(t, "")
	good, goodHigh, high, other := run()
	t.Logf("without: %d in time; of high criticality %d of %d; else %v", good, goodHigh, high, other)
	if float64(good) > 0.5*capacity*seconds {
		t.Errorf("without shedding %d answers are in time: the app is not overloaded", good)
	}
}
