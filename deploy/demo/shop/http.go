package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/comity-mesh/comity/deploy/demo/shop/shoppb"
)

// hop is one handler of a request, as JSON.
type hop struct {
	Service  string `json:"service"`
	Workload string `json:"workload"`
	Zone     string `json:"zone"`
	Caller   string `json:"caller"`
}

type order struct {
	Order string `json:"order"`
	Cents uint32 `json:"cents"`
}

type answer struct {
	Order   string `json:"order"`
	Receipt string `json:"receipt,omitempty"`
	Journal string `json:"journal,omitempty"` // the ledger that entered it over TCP
	Trail   []hop  `json:"trail"`
	Error   string `json:"error,omitempty"`
}

// callerOf reads the SPIFFE ID out of X-Forwarded-Client-Cert, which the sidecar sets and nobody else can.
func callerOf(xfcc string) string {
	for part := range strings.SplitSeq(xfcc, ";") {
		if id, ok := strings.CutPrefix(part, "URI="); ok {
			return id
		}
	}
	return ""
}

func (a app) hop(caller string) hop {
	return hop{Service: a.role, Workload: a.workload, Zone: a.zone, Caller: caller}
}

func (a app) client() *http.Client {
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, DisableCompression: true},
	}
}

// call posts the order to a service of the mesh by host name through the sidecar's local port.
func (a app) call(ctx context.Context, c *http.Client, host, path string, o order) (answer, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+a.mesh+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Host = host
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return answer{}, err
	}
	var ans answer
	if res.StatusCode != http.StatusOK {
		return ans, fmt.Errorf("%s answered %d: %s", host, res.StatusCode, bytes.TrimSpace(text))
	}
	err = json.Unmarshal(text, &ans)
	return ans, err
}

func reply(w http.ResponseWriter, status int, v answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func readOrder(w http.ResponseWriter, r *http.Request) (order, bool) {
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&o); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: "not an order: " + err.Error()})
		return o, false
	}
	return o, true
}

// webHandler takes orders and passes them to cart.
func (a app) webHandler() http.Handler {
	c := a.client()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("POST /order", func(w http.ResponseWriter, r *http.Request) {
		o, ok := readOrder(w, r)
		if !ok {
			return
		}
		ans, err := a.call(r.Context(), c, "cart.shop.svc.clusterset.local", "/checkout", o)
		a.finish(w, r, ans, err)
	})
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, answer{Order: "hello", Trail: []hop{a.hop(callerOf(r.Header.Get("X-Forwarded-Client-Cert")))}})
	})
	mux.HandleFunc("GET /feed", a.feed)
	return mux
}

// healthy answers the sidecar's health check.
func healthy(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func (a app) finish(w http.ResponseWriter, r *http.Request, ans answer, err error) {
	me := a.hop(callerOf(r.Header.Get("X-Forwarded-Client-Cert")))
	if err != nil {
		reply(w, http.StatusBadGateway, answer{Error: err.Error(), Trail: []hop{me}})
		return
	}
	ans.Trail = append([]hop{me}, ans.Trail...)
	reply(w, http.StatusOK, ans)
}

// cartHandler takes checkouts and charges them through pay, over gRPC.
func (a app) cartHandler() (http.Handler, func(), error) {
	conn, err := a.dialPay()
	if err != nil {
		return nil, nil, err
	}
	pay := shoppb.NewPayClient(conn)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("POST /checkout", func(w http.ResponseWriter, r *http.Request) {
		o, ok := readOrder(w, r)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		res, err := pay.Charge(ctx, &shoppb.ChargeRequest{Order: o.Order, Cents: o.Cents})
		ans := answer{Order: o.Order, Receipt: res.GetReceipt(), Journal: res.GetJournal()}
		for _, h := range res.GetTrail() {
			ans.Trail = append(ans.Trail, hop{Service: h.GetService(), Workload: h.GetWorkload(), Zone: h.GetZone(), Caller: h.GetCaller()})
		}
		a.finish(w, r, ans, err)
	})
	return mux, func() { _ = conn.Close() }, nil
}

// serveLedger writes entries down: over HTTP, and over a TCP journal that answers each line with its name and the line.
func (a app) serveLedger(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.journal)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go a.journalLoop(l)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("POST /entry", func(w http.ResponseWriter, r *http.Request) {
		o, ok := readOrder(w, r)
		if !ok {
			return
		}
		a.finish(w, r, answer{Order: o.Order, Receipt: a.workload + "/" + o.Order}, nil)
	})
	mux.HandleFunc("GET /balance", func(w http.ResponseWriter, r *http.Request) { a.finish(w, r, answer{}, nil) })
	mux.HandleFunc("GET /feed", a.feed)
	return a.serveHTTP(ctx, mux)
}

// feed answers for as long as the caller listens: a line every 100 ms, with its own name.
func (a app) feed(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	out := http.NewResponseController(w)
	for {
		if _, err := fmt.Fprintln(w, a.workload); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (a app) journalLoop(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			a.log.Error("journal", "error", err)
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 4<<10)
			for {
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Minute))
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := fmt.Fprintf(c, "%s %s", a.workload, buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}
