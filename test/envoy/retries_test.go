package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestTrafficRetry: failed requests are tried again on the statuses of the policy, as often as it says, elsewhere, and
// those that may not be done twice only where it says so.
func TestTrafficRetry(t *testing.T) {
	w := newWorld(t)
	n := 0
	failing := func(method string, times int) call {
		n++
		return call{method: method, header: map[string]string{doStatus: "500", doFail: strconv.Itoa(times), doKey: strconv.Itoa(n)}}
	}
	expect := func(t *testing.T, c call, status, tries int) {
		t.Helper()
		w.forget()
		if r := w.call(t, c); r.status != status || w.asked() != tries {
			t.Errorf("%s: %d after %d tries, want %d after %d", c.method, r.status, w.asked(), status, tries)
		}
	}
	expect(t, failing("GET", 2), 500, 1) // without a policy what the application says itself stands

	w.apply(t, echoPolicy(`retry: {attempts: 2, reasons: ["500"]}`))
	expect(t, failing("GET", 2), 200, 3)
	expect(t, failing("GET", 3), 500, 3)
	expect(t, failing("POST", 2), 500, 1)

	w.apply(t, echoPolicy(`retry: {attempts: 2, reasons: ["500"], requests: All}`))
	expect(t, failing("POST", 2), 200, 3)

	w.apply(t, echoPolicy(`retry: {attempts: 1, reasons: ["500"]}`))
	w.forget()
	for range 4 {
		w.call(t, failing("GET", 1))
	}
	if a, b := len(w.apps["echo-1"].requests()), len(w.apps["echo-2"].requests()); a != 4 || b != 4 {
		t.Errorf("echo-1 and echo-2 were asked %d and %d times; every retry goes to the other", a, b)
	}

	w.apply(t, echoPolicy(`retry: {attempts: 0}`))
	expect(t, call{header: map[string]string{doStatus: "503"}}, 503, 1)

	w.apply(t, `
kind: TrafficPolicy
metadata: {name: grpc}
spec: {targetRef: {kind: Service, name: echo, sectionName: grpc}, retry: {attempts: 2, reasons: [unavailable], requests: All}}
`)
	app, err := w.callGRPC(t, "web", echoHost+":9090", "/test.Echo/Say", map[string]string{doStatus: "14", doFail: "2", doKey: "grpc"})
	if err != nil || app == "" {
		t.Errorf("a gRPC call is not tried again: %v", err)
	}
}

// gaps are the times between a request's tries, by the clock of the apps, for each of n requests that fail whatever is done.
func (w *world) gaps(t *testing.T, n, tries int, c call) (between [][]time.Duration) {
	t.Helper()
	w.forget()
	w.burst(t, n, n, func(i int) call {
		k := c
		k.path = "/" + strconv.Itoa(i)
		return k
	})
	came := map[string][]time.Time{}
	for _, a := range w.apps {
		for _, r := range a.requests() {
			came[r.Path] = append(came[r.Path], r.at)
		}
	}
	between = make([][]time.Duration, tries-1)
	for path, at := range came {
		if len(at) != tries {
			t.Fatalf("%s was tried %d times, not %d", path, len(at), tries)
		}
		slices.SortFunc(at, time.Time.Compare)
		for i := range between {
			between[i] = append(between[i], at[i+1].Sub(at[i]))
		}
	}
	return between
}

// TestTrafficBackOff: tries come apart as the policy says, as the application sees it. Envoy draws each gap between nothing and a bound that
// doubles from the base to the maximum, so that it is the middle of many that tells. A busy machine makes gaps longer.
func TestTrafficBackOff(t *testing.T) {
	w := newWorld(t)
	const ms = time.Millisecond
	fails := call{header: map[string]string{doStatus: "500"}}
	for _, c := range []struct {
		base, max   time.Duration
		least, most [3]time.Duration // of the middle of 60: half of what is drawn on average, and three times that
	}{
		{200 * ms, 2000 * ms, [3]time.Duration{50 * ms, 100 * ms, 200 * ms}, [3]time.Duration{}},
		{200 * ms, 200 * ms, [3]time.Duration{50 * ms, 50 * ms, 50 * ms}, [3]time.Duration{0, 0, 300 * ms}},
		{1 * ms, 1 * ms, [3]time.Duration{}, [3]time.Duration{0, 0, 300 * ms}},
	} {
		w.apply(t, echoPolicy(fmt.Sprintf(`retry: {attempts: 3, reasons: ["500"], backOff: {base: %s, max: %s}}`, c.base, c.max)))
		for i, g := range w.gaps(t, 60, 4, fails) {
			m := median(g)
			t.Logf("base %s, at most %s: retry %d after %s", c.base, c.max, i+1, m)
			if m < c.least[i] || c.most[i] > 0 && m > c.most[i] {
				t.Errorf("base %s, at most %s: retry %d comes after %s, want %s to %s", c.base, c.max, i+1, m, c.least[i], c.most[i])
			}
		}
	}

	// A try that takes too long is given up for the next one.
	for _, spec := range []string{`retry: {attempts: 2, perTryTimeout: 300ms}`, `timeouts: {request: 10s, backendRequest: 300ms}, retry: {attempts: 2}`} {
		w.apply(t, echoPolicy(spec))
		for i, g := range w.gaps(t, 1, 3, call{header: map[string]string{doDelay: "5s"}}) {
			if g[0] < 270*ms || g[0] > 3*time.Second {
				t.Errorf("%s: retry %d comes after %s", spec, i+1, g[0])
			}
		}
	}
}

// TestTrafficRetryBudget: when everything fails, retries add no more than the budget.
func TestTrafficRetryBudget(t *testing.T) {
	w := newWorld(t)
	failing := call{header: map[string]string{doStatus: "503", doDelay: "20ms"}}
	for _, c := range []struct {
		budget      string
		least, most int
	}{
		{``, 800, 800}, // three retries each
		{`, budget: {percent: 20, minimum: 1}`, 201, 270},
	} {
		w.apply(t, echoPolicy(`retry: {attempts: 3`+c.budget+`}`))
		w.forget()
		if got := byApp(w.burst(t, 200, 40, same(failing))); got["503"] != 200 {
			t.Errorf("%v", got)
		}
		if n := w.asked(); n < c.least || n > c.most {
			t.Errorf("200 requests with retries%s made %d, want %d to %d", c.budget, n, c.least, c.most)
		}
	}
}

// TestTrafficRetryInOtherZone: what this zone can't answer another one does, if it may be done twice.
func TestTrafficRetryInOtherZone(t *testing.T) {
	w := newWorld(t)
	host := w.twoZoned(t)
	fails := call{to: host, header: map[string]string{doStatus: "503"}}
	for _, c := range []struct {
		policy string
		method string
		local  int // tries here
		remote int
	}{
		{``, "GET", 2, 2}, // two and two, the default
		{`retry: {otherZoneAfter: 1, attempts: 1}`, "GET", 1, 1},
		{`retry: {otherZoneAfter: 0}`, "GET", 4, 0},
		{`retry: {otherZoneAfter: 1}`, "POST", 1, 0},
		{`retry: {otherZoneAfter: 1, attempts: 1, requests: All}`, "POST", 1, 1},
	} {
		doc := ""
		if c.policy != "" {
			doc = "kind: TrafficPolicy\nmetadata: {name: shared}\nspec: {targetRef: {kind: Service, name: shared}, " + c.policy + "}\n"
		}
		w.apply(t, doc)
		w.forget()
		fails.method = c.method
		r := w.call(t, fails)
		if a, b := len(w.apps["echo-1"].requests()), len(w.apps["pay-1"].requests()); r.status != 503 || a != c.local || b != c.remote {
			t.Errorf("%s with %q: %d after %d tries here and %d there, want %d and %d", c.method, c.policy, r.status, a, b, c.local, c.remote)
		}
	}
}
