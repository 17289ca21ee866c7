package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Protocols of an Order.
const (
	HTTP1 = "http1"
	HTTP2 = "http2"
	GRPC  = "grpc"
)

// Order is what a generator is told, a line of JSON each. Do is
//
//	open   connections to an address, and make Requests on them that count for nothing
//	run    Requests, each connection its next as soon as it has an answer
//	pace   Requests at Rate a second, whatever becomes of the earlier ones
//	close  the connections
type Order struct {
	Do       string `json:"do"`
	Requests int    `json:"requests,omitempty"`
	Rate     int    `json:"rate,omitempty"`

	Protocol string   `json:"protocol,omitempty"`
	Address  string   `json:"address,omitempty"`
	Host     string   `json:"host,omitempty"`
	Path     string   `json:"path,omitempty"`
	Headers  []string `json:"headers,omitempty"` // names and values
	// Connections, with Streams requests at a time on each; of HTTP/1.1 one.
	Connections int `json:"connections,omitempty"`
	Streams     int `json:"streams,omitempty"`
}

// Result is what it says of an order, a line of JSON each.
type Result struct {
	// Error is the first thing that went wrong, a status other than 200 included; empty for nothing.
	Error string `json:"error,omitempty"`
	// Seconds that the requests took together.
	Seconds float64 `json:"seconds"`
	// P50 and P99 of a pace, in microseconds from when a request was due to its answer.
	P50 float64 `json:"p50,omitempty"`
	P99 float64 `json:"p99,omitempty"`
}

// Generate follows orders until they end.
func Generate(in io.Reader, out io.Writer) error {
	g := &generator{}
	enc := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o Order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		r, err := g.do(o)
		if err != nil {
			r.Error = err.Error()
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

type generator struct {
	links   []link
	readers sync.WaitGroup

	mu sync.Mutex
	// What is to be done with an answer on a link.
	answered func(l link, tag int)
	wrong    error
	failed   chan struct{} // closed with wrong
}

func (g *generator) do(o Order) (Result, error) {
	switch o.Do {
	case "open":
		if err := g.open(o); err != nil {
			g.close()
			return Result{}, err
		}
		return g.run(o.Requests)
	case "run":
		return g.run(o.Requests)
	case "pace":
		return g.pace(o.Requests, o.Rate)
	case "close":
		return Result{}, g.close()
	}
	return Result{}, fmt.Errorf("there is no order %q", o.Do)
}

func (g *generator) open(o Order) error {
	g.wrong, g.failed = nil, make(chan struct{})
	for i := range o.Connections {
		l, err := o.dial()
		if err != nil {
			return err
		}
		g.links = append(g.links, l)
		g.readers.Go(func() {
			err := l.read(func(tag int, err error) {
				if err != nil {
					g.fail(err)
				}
				g.mu.Lock()
				f := g.answered
				g.mu.Unlock()
				f(l, tag)
			})
			g.fail(fmt.Errorf("connection: %w", err))
		})
		if i%together == together-1 {
			if _, err := g.runOn(g.links[i+1-together:], together); err != nil {
				return err
			}
		}
	}
	return nil
}

// together are the connections that are opened at a time: of all handshakes at once, some would take longer on a busy machine
// than proxies wait for one.
const together = 4

func (g *generator) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wrong == nil {
		g.wrong = err
		close(g.failed)
	}
}

// close ends the connections; what their readers say of that is not wrong.
func (g *generator) close() error {
	g.mu.Lock()
	wrong := g.wrong
	g.mu.Unlock()
	for _, l := range g.links {
		_ = l.close()
	}
	g.readers.Wait()
	g.links = nil
	return wrong
}

// wait returns when done does, or something went wrong.
func (g *generator) wait(done chan struct{}) error {
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-g.failed:
		return g.wrong
	case <-limit.C:
		return errors.New("no answer within 30 s")
	}
}

func (g *generator) onAnswer(f func(l link, tag int)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = f
}

// run makes n requests with all connections busy.
func (g *generator) run(n int) (Result, error) { return g.runOn(g.links, n) }

func (g *generator) runOn(links []link, n int) (Result, error) {
	if n == 0 {
		return Result{}, nil
	}
	var mu sync.Mutex
	begun, ended, done := 0, 0, make(chan struct{})
	begin := func(l link) {
		mu.Lock()
		defer mu.Unlock()
		if begun < n {
			begun++
			l.send(0)
		}
	}
	g.onAnswer(func(l link, _ int) {
		mu.Lock()
		if ended++; ended == n {
			close(done)
		}
		mu.Unlock()
		begin(l)
	})
	at := time.Now()
	for _, l := range links {
		for range l.streams() {
			begin(l)
		}
		if err := l.flush(); err != nil {
			return Result{}, err
		}
	}
	err := g.wait(done)
	return Result{Seconds: time.Since(at).Seconds()}, err
}

// pace makes n requests at a rate. A request that finds all connections busy waits, and its time runs.
func (g *generator) pace(n, rate int) (Result, error) {
	// One thread waits for the next request to be due, another takes answers.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var mu sync.Mutex
	took, ended, done := make([]float64, n), 0, make(chan struct{})
	due := make([]time.Time, n)
	free := make(chan link, 1<<12)
	for _, l := range g.links {
		for range l.streams() {
			free <- l
		}
	}
	g.onAnswer(func(l link, tag int) {
		mu.Lock()
		took[tag] = float64(time.Since(due[tag]).Nanoseconds()) / 1000
		if ended++; ended == n {
			close(done)
		}
		mu.Unlock()
		free <- l
	})
	begin := time.Now()
	for i := range n {
		at := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if rest := time.Until(at); rest > 0 {
			// The runtime's timers are as fine as a millisecond.
			t := unix.NsecToTimespec(rest.Nanoseconds())
			_ = unix.Nanosleep(&t, nil) // earlier is seen in the figure
		}
		var l link
		select {
		case l = <-free:
		case <-g.failed:
			return Result{}, g.wrong
		}
		mu.Lock()
		due[i] = at
		mu.Unlock()
		l.send(i)
		if err := l.flush(); err != nil {
			return Result{}, err
		}
	}
	err := g.wait(done)
	slices.Sort(took)
	return Result{Seconds: time.Since(begin).Seconds(), P50: took[n/2], P99: took[n*99/100]}, err
}
