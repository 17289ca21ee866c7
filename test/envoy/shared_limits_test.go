package envoy

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// quota is a rate limit service whose buckets are never refilled, one for each descriptor that it has been asked about.
type quota struct {
	room uint32 // in each of them

	mu   sync.Mutex
	used map[string]uint32
}

func (q *quota) limit(r *ratelimitv3.RateLimitRequest) *ratelimitv3.RateLimitResponse {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}
	for _, d := range r.GetDescriptors() {
		of := []string{r.GetDomain()}
		for _, e := range d.GetEntries() {
			of = append(of, e.GetKey()+"="+e.GetValue())
		}
		key := strings.Join(of, " ")
		q.used[key]++
		status := &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OK}
		if q.used[key] > q.room {
			status.Code, status.DurationUntilReset = ratelimitv3.RateLimitResponse_OVER_LIMIT, durationpb.New(90e9)
			out.OverallCode = status.Code
		}
		out.Statuses = append(out.Statuses, status)
	}
	return out
}

func (q *quota) asked(descriptor string) uint32 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used[descriptor]
}

// TestSharedLimits: a limit that a rate limit service keeps holds for all workloads of a service together, whatever zone calls; when
// the service can't be asked, failClosed decides.
func TestSharedLimits(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "quota", nil)
	w.service("quota", `{"app":"quota"}`, "one")
	q := &quota{room: 10, used: map[string]uint32{}}
	w.apps["quota"].limit = q.limit
	share := func(t *testing.T, spec string) {
		t.Helper()
		w.apply(t, fmt.Sprintf(limited, "echo", "{shared: "+spec+"}"))
	}
	passed := func(t *testing.T, n int, c call) int {
		t.Helper()
		got := w.tally(t, n, c)
		if ok := got["echo-1"] + got["echo-2"]; ok+got["429"] == n {
			return ok
		}
		t.Errorf("%v", got)
		return -1
	}

	t.Run("two workloads together let through what one may", func(t *testing.T) {
		share(t, `{service: {name: quota, port: 9090}, timeout: 5s, requests: [{name: all}]}`)
		if n := passed(t, 40, call{}); n != 10 {
			t.Errorf("%d passed, not 10", n)
		}
		r := w.call(t, call{})
		var p struct{ Code, Detail string }
		if err := json.Unmarshal([]byte(r.body), &p); err != nil || p.Code != "RATE-LIMITED" || p.Detail != "global/shop/limit" || r.header.Get("Retry-After") != "90" {
			t.Errorf("%v %q %v", err, r.body, r.header)
		}
		if n := q.asked("shop limit=all"); n != 41 {
			t.Errorf("it was asked %d times about 41 requests", n)
		}
	})
	t.Run("by caller, of what matches", func(t *testing.T) {
		share(t, `{service: {name: quota, port: 9090}, timeout: 5s, domain: fair, requests: [{name: orders, each: {caller: true}, match: {path: {type: PathPrefix, value: /orders}}}]}`)
		for _, caller := range []string{"web", "quota"} {
			if n := passed(t, 15, call{from: caller, path: "/orders"}); n != 10 {
				t.Errorf("%d of %s passed, not 10", n, caller)
			}
		}
		if n := passed(t, 15, call{}); n != 15 {
			t.Errorf("%d of 15 that no limit counts passed", n)
		}
		if n := q.asked("fair limit=orders caller=spiffe://one.example/ns/shop/sa/web"); n != 15 {
			t.Errorf("it was asked %d times about 15 requests of web", n)
		}
	})
	t.Run("by the value of a header, where none is a value", func(t *testing.T) {
		share(t, `{service: {name: quota, port: 9090}, timeout: 5s, requests: [{name: tenants, each: {header: X-Tenant}}]}`)
		for _, header := range []map[string]string{{"X-Tenant": "a"}, {"X-Tenant": "b"}, nil} {
			if n := passed(t, 15, call{header: header}); n != 10 {
				t.Errorf("%d with %v passed, not 10", n, header)
			}
		}
	})
	t.Run("of no service, open", func(t *testing.T) {
		share(t, `{service: {name: nobody, port: 9090}, requests: [{name: all}]}`)
		if n := passed(t, 15, call{}); n != 15 {
			t.Errorf("%d of 15 passed", n)
		}
	})
	w.apps["quota"].close()
	for spec, status := range map[string]int{"failClosed: false": 200, "failClosed: true": 503} {
		t.Run("of a service that died, "+spec, func(t *testing.T) {
			share(t, `{service: {name: quota, port: 9090}, timeout: 5s, `+spec+`, requests: [{name: dead}]}`)
			if err := (want{status: status}).check(w.call(t, call{})); err != nil {
				t.Error(err)
			}
		})
	}
}
