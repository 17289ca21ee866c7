package tap

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/comity-mesh/comity/mesh"
)

// TestTooMuch: where more passes than can be looked at, Envoy is had to tell of a share of it, and what is not shown is estimated; when
// the last watch ends Envoy is silenced, even after its time was over.
func TestTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var shares []uint32
		s := NewServer(func(_ context.Context, share uint32) error {
			mu.Lock()
			defer mu.Unlock()
			shares = append(shares, share)
			return nil
		})
		self := Self{Proxy: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "pay"}, Zone: "one"}
		pass := func(n int) {
			for range n {
				s.take(func(self Self) (mesh.TapRequest, map[string]string, bool) {
					return self.request("requests", &datav3.HTTPAccessLogEntry{})
				})
			}
		}
		pass(1000) // nobody watches: nothing is counted
		var shown int
		var left []mesh.TapLeft
		ended := make(chan error, 1)
		go func() {
			ended <- s.Watch(t.Context(), self, mesh.Tap{Proxy: self.Proxy.String(), Rate: 10, Seconds: 3}, func(e mesh.TapEvent) error {
				if e.Request != nil {
					shown++
				}
				if e.Left != nil {
					left = append(left, *e.Left)
				}
				return nil
			})
		}()
		synctest.Wait()
		pass(5 * mostLooked) // in the first second all is told
		time.Sleep(period)
		synctest.Wait()
		pass(mostLooked) // of the same, a fifth is
		time.Sleep(period)
		synctest.Wait()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if shown != 20 || len(left) != 2 || left[0] != (mesh.TapLeft{Zone: "one", Count: 5*mostLooked - 10}) || left[1] != (mesh.TapLeft{Zone: "one", Count: 5*mostLooked - 10, Share: 0.2}) {
			t.Errorf("%d shown, left out: %+v", shown, left)
		}
		if len(shares) < 4 || shares[0] != all || shares[1] != all/5 || shares[2] != all/5 || shares[len(shares)-1] != 0 {
			t.Errorf("Envoy was told the shares %v", shares)
		}
	})
}
