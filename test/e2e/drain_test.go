package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/internal/openloop"
	"github.com/comity-mesh/comity/mesh"
)

const drainable = `
apiVersion: mesh.comity.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {defaultAuthorization: Allow}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{port: 8080, targetPort: %d, appProtocol: http}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: pay, namespace: shop}
---
` + threshold

const threshold = `
apiVersion: mesh.comity.dev/v1alpha1
kind: FailoverPolicy
metadata: {name: default, namespace: comity-system}
spec: {threshold: %d, dwell: 1s, failbackDelay: 1s}
`

// replica starts a workload of service pay whose application listens on an address of its own, and says its name.
func (z *zone) replica(name, address string, port int) {
	z.t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		z.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) }) // ends with Close
	z.t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	z.workload(name, map[string]any{"labels": map[string]string{"app": "pay"}, "appAddress": address})
}

// A workload, an ingress and a zone are drained under load, and a zone leaves: no request fails.
func TestDrains(t *testing.T) {
	global := startGlobal(t)
	port := int(freeporttest.Port(t))
	global.apply(fmt.Sprintf(drainable, port, 50))
	east, west := startZone(t, "east"), startZone(t, "west")
	east.joins(global, "shop")
	west.joins(global, "shop")
	east.ingress("in1")
	in1 := west.ingress("in1")
	west.ingress("in2")
	east.replica("east-1", "127.0.0.11", port)
	east.replica("east-2", "127.0.0.12", port)
	west.replica("west-1", "127.0.0.13", port)
	web := east.workload("web")
	web.answers(payHost, 200)
	await(t, "east knows west's part", func() error {
		list, err := east.Failover(ctxOf(t), client.FailoverQuery{Service: "pay"})
		if err == nil && (len(list) != 1 || len(list[0].Targets) != 2 || list[0].Targets[1].Ready != 1) {
			err = fmt.Errorf("it says %+v", list)
		}
		return err
	})

	load := openloop.Start(t.Context(), 50, func(ctx context.Context, _ int) (string, error) {
		status, by, err := web.call(payHost)
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %s", status, by)
		}
		return by, err
	})
	begun := time.Now()
	// only awaits that for a second everything is answered by some, and says when that began.
	only := func(what string, names ...string) {
		t.Helper()
		from := time.Now()
		await(t, what, func() error {
			at, steady := load.SoFar().SteadyFrom(from, time.Second, func(r openloop.Request) bool { return slices.Contains(names, r.By) })
			if !steady {
				return fmt.Errorf("answered by %v", load.SoFar().Since(from).By())
			}
			t.Logf("%s: steady after %s", what, at.Sub(from).Round(time.Millisecond))
			return nil
		})
	}
	refused := func(what string, err error) {
		t.Helper()
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Exit != fault.ExitConflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	proxy := func(name string) mesh.ProxyID {
		return mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: name}
	}
	drained := func(zone string) {
		t.Helper()
		await(t, zone+" is drained", func() error {
			d, err := global.ZoneDrain(ctxOf(t), zone)
			if err == nil && !d.Done {
				err = fmt.Errorf("%+v", d)
			}
			return err
		})
	}
	only("before", "east-1", "east-2")

	d, err := east.DrainProxy(ctxOf(t), proxy("east-1"), client.ProxyDrainRequest{})
	if err != nil || len(d.Services) != 1 || d.Services[0] != "shop/pay" {
		t.Fatalf("drain of a workload: %+v, %v", d, err)
	}
	await(t, "every proxy has let go of it", func() error {
		d, err := east.ProxyDrain(ctxOf(t), proxy("east-1"))
		if err == nil && (!d.Done || !d.Draining || d.Acked != d.Total || d.Total < 3) { // two sidecars and an ingress at least
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
	only("one workload drained", "east-2")
	if _, err := east.DrainProxy(ctxOf(t), proxy("east-1"), client.ProxyDrainRequest{}); err != nil {
		t.Errorf("again: %v", err)
	}
	global.applyEverywhere(fmt.Sprintf(threshold, 70))
	_, err = east.DrainProxy(ctxOf(t), proxy("east-2"), client.ProxyDrainRequest{})
	refused("70% of 2 is more than the one that is left", err)
	if _, err := east.UndrainProxy(ctxOf(t), proxy("east-1")); err != nil {
		t.Fatal(err)
	}
	await(t, "both serve again", func() error {
		if by := load.SoFar().Since(time.Now().Add(-time.Second)).By(); by["east-1"] == 0 || by["east-2"] == 0 {
			return fmt.Errorf("answered by %v", by)
		}
		return nil
	})

	_, err = global.DrainZone(ctxOf(t), "east", client.DrainRequest{Over: "2s"})
	refused("70% of 3 is more than west has", err)
	global.applyEverywhere(fmt.Sprintf(threshold, 30))
	if _, err := global.DrainZone(ctxOf(t), "east", client.DrainRequest{Over: "2s"}); err != nil {
		t.Fatal(err)
	}
	only("zone drained", "west-1")
	drained("east")

	_, err = west.DrainProxy(ctxOf(t), mesh.ProxyID{Role: mesh.RoleIngress, Name: "in1"}, client.ProxyDrainRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = west.DrainProxy(ctxOf(t), mesh.ProxyID{Role: mesh.RoleIngress, Name: "in2"}, client.ProxyDrainRequest{Force: true})
	refused("the last ingress", err)
	await(t, "the other zone has left the ingress", func() error {
		if s := zoneStatus(t, global, "west"); len(s.Ingresses) != 1 || s.Ingresses[0].ID != "in2" {
			return fmt.Errorf("advertised are %+v", s.Ingresses)
		}
		return nil
	})
	only("ingress drained", "west-1")
	in1.stop(syscall.SIGTERM) // in order: what is under way through it ends first
	only("ingress gone", "west-1")

	if _, err := global.UndrainZone(ctxOf(t), "east", ""); err != nil {
		t.Fatal(err)
	}
	only("zone undrained", "east-1", "east-2")
	if _, err := global.LeaveZone(ctxOf(t), "west", client.DrainRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, "west has left", func() error {
		_, err := global.ZoneDrain(ctxOf(t), "west")
		if fault.ExitCode(err) != fault.ExitNotFound {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	only("a zone less", "east-1", "east-2")
	await(t, "east has forgotten west", func() error {
		list, err := east.Failover(ctxOf(t), client.FailoverQuery{Service: "pay"})
		if err == nil && (len(list) != 1 || len(list[0].Targets) != 1) {
			err = fmt.Errorf("it says %+v", list)
		}
		return err
	})

	record := load.Stop()
	t.Logf("%d requests in %s, longest %s", len(record), time.Since(begun).Round(time.Second), record.Longest().Round(time.Millisecond))
	for i, r := range record.Failed() {
		if i < 5 {
			t.Errorf("failed %s after the beginning: %v", r.Due.Sub(begun).Round(time.Millisecond), r.Err)
		}
	}
}
