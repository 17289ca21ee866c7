package telemetry

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// CountUnserved makes the server count connections that were closed before any of their bytes made a request. To be
// called before it serves; it takes over ConnContext and ConnState.
func CountUnserved(s *http.Server, unserved prometheus.Counter) {
	type served struct{ yes atomic.Bool }
	type key struct{}
	var conns sync.Map // net.Conn -> *served
	next := s.Handler
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		v := &served{}
		conns.Store(c, v)
		return context.WithValue(ctx, key{}, v)
	}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, ok := r.Context().Value(key{}).(*served); ok {
			v.yes.Store(true)
		}
		next.ServeHTTP(w, r)
	})
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state != http.StateClosed {
			return
		}
		if v, ok := conns.LoadAndDelete(c); ok && !v.(*served).yes.Load() { //nolint:forcetypeassert // only *served is stored
			unserved.Inc()
		}
	}
}

// Refused registers and returns the counter of connections that a port turned away before they made a request, by
// the port's name ("api", "proxies").
func Refused(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "comity_refused_connections_total", Help: "Connections closed before any of their bytes made a request.",
	}, []string{"port"})
	reg.MustRegister(c)
	return c
}
