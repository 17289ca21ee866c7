package openloop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestStall has a server that answers nothing for a second: the schedule goes on, and every request that was due
// meanwhile counts its whole wait.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		stallEnds := begin.Add(2 * time.Second)
		load := Start(t.Context(), 200, func(ctx context.Context, n int) (string, error) {
			by := "first"
			if now := time.Now(); !now.Before(begin.Add(time.Second)) {
				by = "second"
				if wait := stallEnds.Sub(now); wait > 0 {
					<-time.After(wait)
				}
			}
			if n == 7 {
				return "", errors.New("refused")
			}
			return by, nil
		})
		<-time.After(3*time.Second - time.Millisecond)
		all := load.Stop()

		if len(all) != 600 {
			t.Fatalf("%d requests in 3 s at 200 a second", len(all))
		}
		if got := all.Longest(); got != time.Second {
			t.Errorf("longest took %s, want the whole stall", got)
		}
		if failed := all.Failed(); len(failed) != 1 || failed[0].Due != begin.Add(35*time.Millisecond) {
			t.Errorf("failed: %+v", failed)
		}
		if got := fmt.Sprint(all.By()); got != "map[first:199 second:400]" {
			t.Errorf("answered by %s", got)
		}
		if n := len(all.Since(begin.Add(time.Second)).Until(stallEnds)); n != 200 {
			t.Errorf("%d requests were due during the stall", n)
		}
		if got := all.Percentile(50); got != 0 {
			t.Errorf("p50 is %s: two thirds waited for nothing", got)
		}
		if got := all.Percentile(99.9); got < 990*time.Millisecond {
			t.Errorf("p99.9 is %s", got)
		}
		quick := func(q Request) bool { return q.Err == nil && q.Took < 100*time.Millisecond }
		if got, ok := all.SteadyFrom(begin.Add(900*time.Millisecond), 500*time.Millisecond, quick); !ok || !got.Equal(stallEnds) {
			t.Errorf("steady %t after %s", ok, got.Sub(begin))
		}
		if _, ok := all.SteadyFrom(begin.Add(900*time.Millisecond), time.Second, quick); ok {
			t.Error("steady for a second that has not passed")
		}
		quiet := begin.Add(100 * time.Millisecond)
		if got, ok := all.SteadyFrom(quiet, 500*time.Millisecond, quick); !ok || !got.Equal(quiet) {
			t.Errorf("steady %t after %s, and nothing was unsteady then", ok, got.Sub(begin))
		}
	})
}

// TestStopWaits: what is under way when the schedule stops still counts, and meanwhile nothing after it is told.
func TestStopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := Start(t.Context(), 10, func(_ context.Context, n int) (string, error) {
			if n == 3 {
				<-time.After(time.Minute)
			}
			return "", nil
		})
		<-time.After(950 * time.Millisecond)
		if n := len(load.SoFar()); n != 3 {
			t.Errorf("%d requests are told, though the fourth has not ended", n)
		}
		if all := load.Stop(); len(all) != 10 || all.Longest() != time.Minute {
			t.Errorf("%d requests, longest %s", len(all), all.Longest())
		}
	})
}
