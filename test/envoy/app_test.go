package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// What a caller can ask of an app, by request headers (or gRPC metadata).
const (
	doStatus = "X-Do-Status" // the HTTP status (gRPC: the code) of the answer
	doFail   = "X-Do-Fail"   // with doKey: only the first n requests of the key are answered with doStatus
	doKey    = "X-Do-Key"
	doDelay  = "X-Do-Delay"  // how long the answer takes
	doBody   = "X-Do-Body"   // how many bytes the answer has
	doWork   = "X-Do-Work"   // how long the answer takes of one of the app's four workers, for whom requests wait in order
	doReset  = "X-Do-Reset"  // the connection ends instead of an answer; with doKey and doFail only for the first n requests
	doAnswer = "X-Do-Answer" // headers of the answer, as name=value, separated by ;
	doHold   = "X-Do-Hold"   // the answer waits until the app is told to go on (release), unless it is doStatus
)

// app is the application beside a sidecar: HTTP/1.1 and HTTP/2 on one port, gRPC on another, and an echo of
// bytes on a third. It answers with what it was asked (echoed) and keeps it.
type app struct {
	name string
	keys *keyCounts // shared by the apps of a world

	workers chan struct{}
	// connections to the port for bytes, so far
	connections atomic.Int64

	mu     sync.Mutex
	seen   []echoed
	sick   string // a path that is answered with sickAs
	sickAs int
	load   string        // what it says of its load in each answer, if anything
	slow   time.Duration // what every answer takes longer
	held   chan struct{} // closed when those that wait may go on
	close  func()
	// decide, if set, answers as an external authorization instead (its gRPC only).
	decide func(*authv3.CheckRequest) *authv3.CheckResponse
	// health answers health checks of gRPC.
	health *health.Server
	// limit, if set, answers as a rate limit service instead (its gRPC only).
	limit func(*ratelimitv3.RateLimitRequest) *ratelimitv3.RateLimitResponse
}

// echoed is a request as an app got it.
type echoed struct {
	App    string      `json:"app"`
	Method string      `json:"method"`
	Host   string      `json:"host"`
	Path   string      `json:"path"` // with the query
	Proto  string      `json:"proto"`
	Header http.Header `json:"header"`
	Body   string      `json:"body"`

	at time.Time // when it came, by the app's clock
}

type keyCounts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *keyCounts) next(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[key]++
	return c.n[key]
}

// appPorts are those of every app of a world, each at an address of its own.
type appPorts struct{ http, grpc, tcp uint16 }

func startApp(t *testing.T, name, address string, ports appPorts, keys *keyCounts) *app {
	t.Helper()
	a := &app{name: name, keys: keys, workers: make(chan struct{}, 4), held: make(chan struct{}), health: health.NewServer()}
	ctx, cancel := context.WithCancel(context.Background())
	listen := func(port uint16) net.Listener {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	h := &http.Server{Handler: a, Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	g := grpc.NewServer(grpc.UnknownServiceHandler(a.serveGRPC))
	healthpb.RegisterHealthServer(g, a.health)
	raw := listen(ports.tcp)
	go func() { _ = h.Serve(listen(ports.http)) }()
	go func() { _ = g.Serve(listen(ports.grpc)) }()
	go a.serveTCP(ctx, raw)
	a.close = sync.OnceFunc(func() {
		cancel()
		_ = h.Close()
		g.Stop()
		_ = raw.Close()
	})
	t.Cleanup(a.close)
	return a
}

// requests are those that the app has got, oldest first.
func (a *app) requests() []echoed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]echoed(nil), a.seen...)
}

// ill makes the app answer a path with a status.
func (a *app) ill(path string, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sick, a.sickAs = path, status
}

func (a *app) illness(path string) (status int, ill bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sickAs, a.sick != "" && a.sick == path
}

// report makes the app say its load (ORCA) in each answer.
func (a *app) report(utilization float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.load = fmt.Sprintf("TEXT application_utilization=%g,rps_fractional=100", utilization)
}

func (a *app) reported() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.load
}

// delays makes every answer take longer.
func (a *app) delays(by time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slow = by
}

func (a *app) delay() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.slow
}

// hold waits until the app is told to go on.
func (a *app) hold(ctx context.Context) {
	a.mu.Lock()
	held := a.held
	a.mu.Unlock()
	select {
	case <-held:
	case <-ctx.Done():
	}
}

// release lets the answers go that wait.
func (a *app) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.held)
	a.held = make(chan struct{})
}

// forget drops what was kept.
func (a *app) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = nil
}

func (a *app) note(e echoed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, e)
}

// fails reports whether this is a request to be answered with doStatus, and with which.
func (a *app) fails(get func(string) string) (code int, yes bool) {
	code, err := strconv.Atoi(get(doStatus))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(get(doFail))
	return code, err != nil || a.keys.next(get(doKey)) <= n
}

// resets reports whether this is a request whose connection is to end.
func (a *app) resets(h http.Header) bool {
	if h.Get(doReset) == "" {
		return false
	}
	n, err := strconv.Atoi(h.Get(doFail))
	return err != nil || a.keys.next(h.Get(doKey)) <= n
}

func pause(ctx context.Context, of string) {
	if d, err := time.ParseDuration(of); err == nil {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	e := echoed{App: a.name, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI(), Proto: r.Proto, Header: r.Header, Body: string(body), at: time.Now()}
	a.note(e)
	pause(r.Context(), r.Header.Get(doDelay))
	pause(r.Context(), a.delay().String())
	if of := r.Header.Get(doWork); of != "" {
		a.workers <- struct{}{}
		pause(context.WithoutCancel(r.Context()), of) // a worker does not notice that nobody waits for it any more
		<-a.workers
	}
	if a.resets(r.Header) {
		panic(http.ErrAbortHandler)
	}
	for h := range strings.SplitSeq(r.Header.Get(doAnswer), ";") {
		if name, value, ok := strings.Cut(h, "="); ok {
			w.Header().Set(name, value)
		}
	}
	if r.Header.Get("Upgrade") == "websocket" {
		serveUpgrade(w, r, a.name)
		return
	}
	w.Header().Set("X-App", a.name)
	if load := a.reported(); load != "" {
		w.Header().Set("Endpoint-Load-Metrics", load)
	}
	if n, err := strconv.Atoi(r.Header.Get(doBody)); err == nil {
		_, _ = io.WriteString(w, strings.Repeat("x", n)) // the caller may be gone
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if code, yes := a.fails(r.Header.Get); yes {
		w.WriteHeader(code)
	} else if code, yes := a.illness(r.URL.Path); yes {
		w.WriteHeader(code)
	} else if r.Header.Get(doHold) != "" {
		a.hold(r.Context())
	}
	_ = json.NewEncoder(w).Encode(e) // the caller may be gone
}

// serveGRPC answers every method with an empty message.
func (a *app) serveGRPC(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	get := func(k string) string { return strings.Join(md.Get(k), ",") }
	a.note(echoed{App: a.name, Method: http.MethodPost, Path: method, Proto: "grpc", Header: http.Header(md), Host: get(":authority")})
	switch {
	case a.decide != nil:
		return unary(s, new(authv3.CheckRequest), a.decide)
	case a.limit != nil:
		return unary(s, new(ratelimitv3.RateLimitRequest), a.limit)
	}
	if err := s.RecvMsg(new(emptypb.Empty)); err != nil {
		return err
	}
	pause(s.Context(), get(doDelay))
	if code, yes := a.fails(get); yes {
		return status.Error(codes.Code(code), "as asked") // alone, so that Envoy sees it before it passes headers on
	}
	if err := s.SetHeader(metadata.Pairs("x-app", a.name)); err != nil {
		return err
	}
	return s.SendMsg(new(emptypb.Empty))
}

// unary is a unary method.
func unary[Asked, Answer any](s grpc.ServerStream, asked Asked, method func(Asked) Answer) error {
	if err := s.RecvMsg(asked); err != nil {
		return err
	}
	return s.SendMsg(method(asked))
}

// serveTCP greets with its name and echoes.
func (a *app) serveTCP(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		a.connections.Add(1)
		go func() {
			defer stop()
			defer c.Close()
			fmt.Fprintln(c, a.name)
			_, _ = io.Copy(c, c) // until the peer is gone
		}()
	}
}
