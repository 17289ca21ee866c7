// Command shop is the demo's application: four small services and a customer, none of which knows
// anything of the mesh but the local port of its sidecar.
//
//	shopper ──HTTP──▶ web ──HTTP──▶ cart ──gRPC──▶ pay ──HTTP and TCP──▶ ledger
//
// Every answer carries the trail of who handled it and which caller identity each of them saw.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// app is what every role needs to know of its surroundings.
type app struct {
	role, workload, zone string
	listen               string // host:port for HTTP or gRPC
	journal              string // ledger only: host:port of its TCP journal
	mesh                 string // host:port of the sidecar's outbound listener
	journalVia           string // pay only: local host:port that the sidecar binds for ledger's journal
	rate                 float64
	log                  *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	a := app{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	f := flag.NewFlagSet("shop", flag.ContinueOnError)
	f.StringVar(&a.role, "role", "", "web, cart, pay, ledger or shopper")
	f.StringVar(&a.workload, "workload", "", "name of this instance")
	f.StringVar(&a.zone, "zone", "", "zone it runs in, for display")
	f.StringVar(&a.listen, "listen", "", "host:port to serve on")
	f.StringVar(&a.mesh, "mesh", "", "host:port of the sidecar's outbound listener")
	f.StringVar(&a.journal, "journal", "", "ledger: host:port of its TCP journal")
	f.StringVar(&a.journalVia, "journal-via", "", "pay: local host:port that leads to ledger's journal")
	f.Float64Var(&a.rate, "rate", 10, "shopper: orders a second")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch a.role {
	case "web":
		return a.serveHTTP(ctx, a.webHandler())
	case "cart":
		h, stop, err := a.cartHandler()
		if err != nil {
			return err
		}
		defer stop()
		return a.serveHTTP(ctx, h)
	case "pay":
		return a.servePay(ctx)
	case "ledger":
		return a.serveLedger(ctx)
	case "shopper":
		return a.shop(ctx)
	}
	return fmt.Errorf("-role must be web, cart, pay, ledger or shopper, not %q", a.role)
}

// serveHTTP serves HTTP/1.1 and cleartext HTTP/2 until ctx ends.
func (a app) serveHTTP(ctx context.Context, h http.Handler) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.listen)
	if err != nil {
		return err
	}
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: &p, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = srv.Shutdown(end)
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
