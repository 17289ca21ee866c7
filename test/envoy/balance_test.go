package envoy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// homes says which app answers each of n keys, three times each; an empty name is for keys whose requests met several.
func (w *world) homes(t *testing.T, n int, c func(key string) call) map[string]string {
	t.Helper()
	out, h := map[string]string{}, client(t, false)
	for i := range n {
		key := strconv.Itoa(i)
		for range 3 {
			r, err := w.tryWith(t, h, c(key))
			if err != nil || r.status != http.StatusOK {
				t.Fatalf("key %s: %d, %v", key, r.status, err)
			}
			if was, ok := out[key]; ok && was != r.app {
				r.app = ""
			}
			out[key] = r.app
		}
	}
	return out
}

// TestTrafficHash: what is alike goes to one endpoint. What moves when one comes or goes, TestCrowd shows.
func TestTrafficHash(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, spec string
		of         func(key string) call
	}{
		{"header", `algorithm: RingHash, hash: [{header: X-User}]`, func(k string) call { return call{header: map[string]string{"x-user": k}} }},
		{"query", `algorithm: Maglev, hash: [{query: user}]`, func(k string) call { return call{path: "/x?other=1&user=" + k} }},
		{"cookie", `algorithm: Maglev, hash: [{cookie: {name: user}}]`, func(k string) call { return call{header: map[string]string{"cookie": "a=b; user=" + k}} }},
		{"address", `algorithm: RingHash, hash: [{clientAddress: true}]`, func(k string) call {
			// What follows the first address differs from request to request.
			return call{header: map[string]string{"x-forwarded-for": "10.0.0." + k + ", 192.0.2." + strconv.Itoa(time.Now().Nanosecond()%255)}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.apply(t, echoPolicy("loadBalancer: {"+c.spec+"}"))
			n := map[string]int{}
			for k, app := range w.homes(t, 40, c.of) {
				if n[app]++; app == "" {
					t.Errorf("key %s went to several", k)
				}
			}
			if n["echo-1"] < 5 || n["echo-2"] < 5 {
				t.Errorf("the keys are not spread: %v", n)
			}
		})
	}

	t.Run("a cookie is made", func(t *testing.T) {
		w.apply(t, echoPolicy("loadBalancer: {algorithm: RingHash, hash: [{cookie: {name: home, ttl: 1h}}]}"))
		first := w.call(t, call{})
		cookie := first.header.Get("Set-Cookie")
		pair, _, _ := strings.Cut(cookie, ";")
		if !strings.HasPrefix(pair, "home=") || !strings.Contains(cookie, "Max-Age=3600") {
			t.Fatalf("the cookie: %q", cookie)
		}
		for range 10 {
			if r := w.call(t, call{header: map[string]string{"cookie": pair}}); r.app != first.app {
				t.Fatalf("%s, and then %s", first.app, r.app)
			}
		}
	})
}

// TestTrafficAlgorithms: who gets the next request is as the algorithm says.
func TestTrafficAlgorithms(t *testing.T) {
	w := newWorld(t)
	// turns are how often one endpoint follows the other in n requests, one after the other.
	turns := func(t *testing.T, n int) (turns int, got map[string]int) {
		t.Helper()
		h, last := client(t, false), ""
		got = map[string]int{}
		for range n {
			r, err := w.tryWith(t, h, call{})
			if err != nil || r.status != http.StatusOK {
				t.Fatal(r.status, err)
			}
			if last != "" && r.app != last {
				turns++
			}
			last = r.app
			got[r.app]++
		}
		return turns, got
	}
	const n = 201
	w.apply(t, echoPolicy("loadBalancer: {algorithm: RoundRobin}"))
	if turns, got := turns(t, n); turns != n-1 {
		t.Errorf("by turns: %d of %d, %v", turns, n-1, got)
	}
	w.apply(t, echoPolicy("loadBalancer: {algorithm: Random}"))
	if turns, got := turns(t, n); turns < 65 || turns > 135 || got["echo-1"] < 65 || got["echo-1"] > 136 { // five sigma of a coin
		t.Errorf("at random: %d turns, %v", turns, got)
	}

	// With several requests at a time the one that takes longer has more under way, and gets fewer.
	w.apps["echo-1"].delays(200 * time.Millisecond)
	for _, c := range []struct {
		algorithm   string
		least, most int // of echo-1
	}{{"RoundRobin", 98, 102}, {"LeastRequest", 1, 60}} {
		w.apply(t, echoPolicy("loadBalancer: {algorithm: "+c.algorithm+"}"))
		got := byApp(w.burst(t, 200, 10, same(call{})))
		t.Logf("%s: %v", c.algorithm, got)
		if got["echo-1"] < c.least || got["echo-1"] > c.most || got["echo-1"]+got["echo-2"] != 200 {
			t.Errorf("%s, and echo-1 takes 200 ms longer: %v, want %d to %d of it", c.algorithm, got, c.least, c.most)
		}
	}
}

// TestTrafficSlowStart: a new endpoint gets little at first, then more and more, and its share after the window.
func TestTrafficSlowStart(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "echo-3", map[string]string{"echo": "yes"})
	late := &w.zones[0].Workloads[len(w.zones[0].Workloads)-1]
	late.Healthy = false // its identity is known, so that its coming changes endpoints alone
	const window = 4 * time.Second
	w.apply(t, echoPolicy("loadBalancer: {slowStart: {window: 4s, aggression: 0.5}}"))
	old := time.NewTimer(window) // to a cluster that is new, all endpoints are
	<-old.C
	late.Healthy = true
	began := time.Now()
	w.publish(t)
	var shares []int // of each 60 requests
	eventually(t, "it has its share", func() error {
		got := w.tally(t, 60, call{})
		if shares = append(shares, got["echo-3"]); got["echo-3"] < 19 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("after %s: %v", took, shares)
	if shares[0] > 12 {
		t.Errorf("at once it gets %d of 60", shares[0])
	}
	if took < window*3/4 {
		t.Errorf("it has all of its share after %s", took)
	}
	// By turns, a share is what the weight is but for the rounding of a turn.
	for i := 1; i < len(shares); i++ {
		if shares[i] < shares[i-1]-2 {
			t.Errorf("its share fell: %v", shares)
		}
	}
}
