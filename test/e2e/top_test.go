package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

// scrape reads what a proxy tells Prometheus: of the requests to pay how many by class, and how many took how long.
func scrape(t *testing.T, w *workload, reporter string) (requests map[string]uint64, durations uint64) {
	t.Helper()
	i, err := w.info()
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get("http://" + i.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p := expfmt.NewTextParser(model.LegacyValidation)
	all, err := p.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	requests = map[string]uint64{}
	each := func(name string, do func(m *dto.Metric, labels map[string]string)) {
		for _, m := range all[name].GetMetric() {
			l := map[string]string{}
			for _, p := range m.GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			if l[signals.Reporter] == reporter && l[signals.Destination] == "pay" {
				do(m, l)
			}
		}
	}
	each(signals.Requests, func(m *dto.Metric, l map[string]string) {
		requests[l[signals.CodeClass]] += uint64(m.GetCounter().GetValue())
	})
	each(signals.RequestDuration, func(m *dto.Metric, _ map[string]string) { durations += m.GetHistogram().GetSampleCount() })
	return requests, durations
}

// TestTop: what top tells from global of two zones is what their proxies tell Prometheus.
func TestTop(t *testing.T) {
	global := startGlobal(t)
	east, west := startZone(t, "east"), startZone(t, "west")
	global.apply(payService(app(t, "pay")) + "---" + exportPay + "---" + allowAll)
	east.joins(global, "shop")
	west.joins(global, "shop")
	west.ingress("in1")
	metered := map[string]any{"metrics": map[string]any{"address": "127.0.0.1:0"}}
	pay, web := west.workload("pay", metered), east.workload("web", metered)
	web.answers(payHost, 200)

	await(t, "Envoy's histogram has what its counters have", func() error {
		if requests, durations := scrape(t, web, signals.Client); requests["2xx"]+requests["4xx"] != durations {
			return fmt.Errorf("%v requests, %d durations", requests, durations)
		}
		return nil
	})

	ctx, cancel := context.WithCancel(ctxOf(t))
	defer cancel()
	told := make(chan mesh.Flows, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- global.Top(ctx, nil, mesh.Top{}, func(f mesh.Flows) error {
			told <- f
			return nil
		})
	}()
	counting := map[string]bool{}
	for len(counting) < 2 { // what passes from now on is told
		f := <-told
		if len(f.Problems) > 0 {
			t.Fatalf("%s: %+v", f.Zone, f.Problems)
		}
		counting[f.Zone] = true
	}
	clientBefore, timedBefore := scrape(t, web, signals.Client)
	serverBefore, _ := scrape(t, pay, signals.Server)
	const asked = 60
	for range asked {
		if status, _, err := web.call(payHost); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
	}
	sums := map[string]*mesh.Flow{}
	// Envoy's histograms come to the one who asks a moment after its counters.
	for seen, durations := uint64(0), uint64(0); seen < 2*asked || durations < asked; {
		var f mesh.Flows
		select {
		case f = <-told:
		case err := <-ended:
			t.Fatalf("%d requests and %d durations told, and then: %v", seen, durations, err)
		}
		for _, one := range f.Flows {
			if one.Destination != "pay" || f.Milliseconds <= 0 {
				t.Fatalf("%+v in %d ms", one, f.Milliseconds)
			}
			if sums[one.Reporter] == nil {
				sums[one.Reporter] = &mesh.Flow{FlowKey: one.FlowKey}
			}
			if one.FlowKey != sums[one.Reporter].FlowKey {
				t.Errorf("two pairs: %+v and %+v", one.FlowKey, sums[one.Reporter].FlowKey)
			}
			sums[one.Reporter].Add(one)
			for _, n := range one.Requests {
				seen += n
			}
			if one.Reporter == signals.Client {
				for _, n := range one.Durations {
					durations += n
				}
			}
		}
	}
	client, timed := scrape(t, web, signals.Client)
	server, _ := scrape(t, pay, signals.Server)
	for reporter, grew := range map[string]uint64{signals.Client: client["2xx"] - clientBefore["2xx"], signals.Server: server["2xx"] - serverBefore["2xx"]} {
		if got := sums[reporter].Requests["2xx"]; grew != asked || got != grew {
			t.Errorf("%s: %d asked, %d told to Prometheus, %d by top", reporter, asked, grew, got)
		}
	}
	var durations uint64
	for _, n := range sums[signals.Client].Durations {
		durations += n
	}
	if durations != timed-timedBefore || durations != asked {
		t.Errorf("durations of %d told to Prometheus, of %d by top", timed-timedBefore, durations)
	}
	want := mesh.FlowKey{
		Reporter: signals.Client, Source: "web", SourceNamespace: "shop", SourceZone: "east", Destination: "pay", DestinationNamespace: "shop", DestinationZone: "west", Protocol: signals.HTTP,
	}
	if got := sums[signals.Client].FlowKey; got != want {
		t.Errorf("between %+v", got)
	}

	west.kill()
	for {
		f := <-told
		if f.Zone == "west" && len(f.Problems) == 1 && strings.Contains(f.Problems[0].Reason, "the session of zone west has ended") {
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up, it ended with %v", err)
	}
}
