package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// shopperStats is what the shopper has seen so far; GET / on its -listen port answers it.
type shopperStats struct {
	Sent      uint64  `json:"sent"`
	OK        uint64  `json:"ok"`
	Failed    uint64  `json:"failed"`
	CrossZone uint64  `json:"crossZone"` // orders whose trail visited more than one zone
	LongestMS float64 `json:"longestMs"`
	Last      *answer `json:"last,omitempty"`
	LastError string  `json:"lastError,omitempty"`
}

// shop orders at a steady rate, open loop: a slow answer delays no other order.
func (a app) shop(ctx context.Context) error {
	var (
		mu sync.Mutex
		st shopperStats
		wg sync.WaitGroup
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(st)
	})
	served := make(chan error, 1)
	go func() { served <- a.serveHTTP(ctx, mux) }()
	defer wg.Wait()

	c := a.client()
	tick := time.NewTicker(time.Duration(float64(time.Second) / max(a.rate, 0.1)))
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return <-served
		case err := <-served:
			return err
		case <-tick.C:
		}
		wg.Go(func() {
			begin := time.Now()
			ans, err := a.call(ctx, c, "web.shop.svc.clusterset.local", "/order", order{Order: fmt.Sprintf("%s-%d", a.workload, n), Cents: 4200})
			took := time.Since(begin).Seconds() * 1000
			if ctx.Err() != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			st.Sent++
			st.LongestMS = max(st.LongestMS, took)
			if err != nil {
				st.Failed++
				st.LastError = err.Error()
				return
			}
			st.OK++
			st.Last = &ans
			for _, h := range ans.Trail {
				if h.Zone != a.zone {
					st.CrossZone++
					break
				}
			}
		})
	}
}
