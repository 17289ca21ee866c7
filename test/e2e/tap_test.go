package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// tapped is a tap under way.
type tapped struct {
	t      *testing.T
	events chan mesh.TapEvent
	ended  chan error
	cancel context.CancelFunc
}

// startTap taps, and waits until so many proxies are watched.
func startTap(t *testing.T, at *client.Client, zones []string, what mesh.Tap, proxies int) *tapped {
	t.Helper()
	ctx, cancel := context.WithCancel(ctxOf(t))
	x := &tapped{t, make(chan mesh.TapEvent, 10_000), make(chan error, 1), cancel}
	go func() {
		x.ended <- at.Tap(ctx, zones, what, func(e mesh.TapEvent) error {
			x.events <- e
			return nil
		})
		close(x.events)
	}()
	t.Cleanup(cancel)
	watched := map[string]int{}
	for sum := 0; sum < proxies; {
		w := x.next("somebody is watched", func(e mesh.TapEvent) bool { return e.Watching != nil }).Watching
		watched[w.Zone] = len(w.Proxies)
		sum = 0
		for _, n := range watched {
			sum += n
		}
	}
	return x
}

// next is the next event that is wanted; others are passed over.
func (x *tapped) next(what string, wanted func(mesh.TapEvent) bool) mesh.TapEvent {
	x.t.Helper()
	for deadline := time.After(within); ; {
		select {
		case e, ok := <-x.events:
			if !ok {
				x.t.Fatalf("the tap ended before %s: %v", what, <-x.ended)
			}
			if wanted(e) {
				return e
			}
		case <-deadline:
			x.t.Fatalf("no event within %s: %s", within, what)
		}
	}
}

func (x *tapped) request(path string) mesh.TapRequest {
	x.t.Helper()
	return *x.next("a request to "+path, func(e mesh.TapEvent) bool { return e.Request != nil && e.Request.Path == path }).Request
}

// TestTap: what is asked of a service in one zone is seen live from global, at the zone and at the caller, by those who may, and
// by nobody any more when they go or what is between them dies.
func TestTap(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(payService(app(t, "pay")) + "---" + exportPay + "---" + allowAll)
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	pay, web := west.workload("pay"), east.workload("web")
	web.answers(payHost, 200)
	ask := func(path string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctxOf(t), http.MethodGet, "http://"+payHost+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer s3cret")
		req.Header.Set("Cookie", "s3cret")
		res, err := web.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	ofPay := mesh.Tap{Namespace: "shop", Service: "pay"}

	viewer := func(may ...string) *client.Client {
		t.Helper()
		token, err := global.CreateAPIToken(ctxOf(t), client.APITokenRequest{Name: "someone", Role: "viewer", May: may})
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(client.Config{Server: "http://" + global.api, Token: token.Token})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := viewer().Tap(ctxOf(t), nil, ofPay, func(mesh.TapEvent) error { return nil }); err == nil || !strings.Contains(err.Error(), `does not have the permission "tap"`) {
		t.Fatalf("a viewer taps: %v", err)
	}

	began := time.Now()
	fromGlobal := startTap(t, viewer("tap"), nil, ofPay, 1)
	ask("/one?token=s3cret")
	r := fromGlobal.request("/one")
	if took := time.Since(began); took > time.Second {
		t.Errorf("from the command to the first request: %s", took)
	} else {
		t.Logf("from the command to the first request: %s", took)
	}
	want := mesh.TapRequest{
		Time: r.Time, DurationMS: r.DurationMS, Zone: "west", Proxy: "sidecar~shop~pay", Side: mesh.TapServer,
		Source:      mesh.TapEnds{Namespace: "shop", Name: "web", Zone: "east", Identity: east.trustDomain.WorkloadID("shop", "web"), Address: r.Source.Address},
		Destination: mesh.TapEnds{Namespace: "shop", Name: "pay", Zone: "west", Port: 8080, Identity: west.trustDomain.WorkloadID("shop", "pay")},
		Protocol:    "HTTP/2", Method: "GET", Host: payHost, Path: "/one", Status: 200, Details: "via_upstream", Policy: r.Policy, Attempts: 1, BytesOut: r.BytesOut,
	}
	if r != want || !strings.HasPrefix(r.Policy, "global/shop/") {
		t.Errorf("seen from global:\n%+v\nwant\n%+v", r, want)
	}
	atZone := startTap(t, west.Client, nil, ofPay, 1)
	caller := ofPay
	caller.Side = mesh.TapClient
	atCaller := startTap(t, global.Client, []string{"east"}, caller, 1)
	ask("/two")
	for _, x := range []*tapped{fromGlobal, atZone} {
		if r := x.request("/two"); r.Side != mesh.TapServer {
			t.Errorf("seen at a %s", r.Side)
		}
	}
	if r := atCaller.request("/two"); r.Side != mesh.TapClient || r.Zone != "east" || r.Destination.Zone != "west" || r.Source.Name != "web" {
		t.Errorf("seen at the caller: %+v", r)
	}
	for _, x := range []*tapped{fromGlobal, atZone, atCaller} {
		x.cancel()
		if err := <-x.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a tap that was given up ended with %v", err)
		}
	}
	// Who looked at what is in the logs, and nobody looks any more.
	for _, p := range []*controlPlane{global, west.controlPlane} {
		await(t, "the log of "+p.name+" says who tapped", func() error {
			text, err := os.ReadFile(p.log)
			for _, part := range []string{"user:someone", "service=pay", "not shown any more"} {
				if err == nil && !strings.Contains(string(text), part) {
					err = fmt.Errorf("%s is not in it", part)
				}
			}
			if err == nil && strings.Contains(string(text), "s3cret") {
				t.Fatalf("a secret in the log of %s", p.name)
			}
			return err
		})
	}

	// What is between dies: the proxy, and the zone's control plane.
	x := startTap(t, global.Client, nil, ofPay, 1)
	pay.stop(syscall.SIGTERM)
	x.next("the proxy is not watched any more", func(e mesh.TapEvent) bool { return e.Watching != nil && len(e.Watching.Proxies) == 0 })
	west.workload("pay")
	x.next("the proxy that came back is watched", func(e mesh.TapEvent) bool { return e.Watching != nil && len(e.Watching.Proxies) == 1 })
	web.answers(payHost, 200)
	x.request("/")
	west.kill()
	x.next("the zone does not answer", func(e mesh.TapEvent) bool {
		return e.Watching != nil && len(e.Watching.Problems) == 1 && strings.Contains(e.Watching.Problems[0].Reason, "the session of zone west has ended")
	})
}
