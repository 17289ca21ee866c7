package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/deploy/demo/shop/shoppb"
)

// dialPay opens the channel to pay through the sidecar: plaintext to loopback, mTLS from there on.
func (a app) dialPay() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+a.mesh,
		grpc.WithAuthority("pay.shop.svc.clusterset.local"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// payServer charges orders and enters each in the ledger, over HTTP and, for the record, over TCP.
type payServer struct {
	shoppb.UnimplementedPayServer
	app
	http    *http.Client
	journal journal
}

func (a app) servePay(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.listen)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	shoppb.RegisterPayServer(s, &payServer{app: a, http: a.client(), journal: journal{via: a.journalVia}})
	context.AfterFunc(ctx, s.GracefulStop)
	return s.Serve(l)
}

// Charge implements shoppb.PayServer.
func (p *payServer) Charge(ctx context.Context, r *shoppb.ChargeRequest) (*shoppb.ChargeReply, error) {
	caller := ""
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		caller = callerOf(strings.Join(md.Get("x-forwarded-client-cert"), ","))
	}
	ans, err := p.call(ctx, p.http, "ledger.shop.svc.clusterset.local", "/entry", order{Order: r.GetOrder(), Cents: r.GetCents()})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	entered := ""
	if p.journal.via != "" {
		if entered, err = p.journal.write(ctx, r.GetOrder()); err != nil {
			return nil, status.Error(codes.Unavailable, "journal: "+err.Error())
		}
	}
	out := &shoppb.ChargeReply{Receipt: ans.Receipt, Journal: entered, Trail: []*shoppb.Hop{{Service: p.role, Workload: p.workload, Zone: p.zone, Caller: caller}}}
	for _, h := range ans.Trail {
		out.Trail = append(out.Trail, &shoppb.Hop{Service: h.Service, Workload: h.Workload, Zone: h.Zone, Caller: h.Caller})
	}
	return out, nil
}

// journal keeps one TCP connection to the ledger's journal and redials once when it has ended.
type journal struct {
	via  string
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// write enters a line and returns which ledger took it.
func (j *journal) write(ctx context.Context, line string) (ledger string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for range 2 {
		if j.conn == nil {
			if j.conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", j.via); err != nil {
				return "", err
			}
			j.in = bufio.NewReader(j.conn)
		}
		if ledger, err = j.exchange(line); err == nil {
			return ledger, nil
		}
		_ = j.conn.Close()
		j.conn = nil
	}
	return "", err
}

func (j *journal) exchange(line string) (string, error) {
	_ = j.conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := fmt.Fprintln(j.conn, line); err != nil {
		return "", err
	}
	got, err := j.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	ledger, echo, _ := strings.Cut(strings.TrimSuffix(got, "\n"), " ")
	if echo != line {
		return "", fmt.Errorf("answered %q to %q", got, line)
	}
	return ledger, nil
}
