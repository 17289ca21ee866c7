package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/internal/stack"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store/ready"
	"github.com/comity-mesh/comity/store/retain"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery/vm"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/fedclient"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/inspect"
	"github.com/comity-mesh/comity/zone-cp/internal/keys"
	"github.com/comity-mesh/comity/zone-cp/internal/loads"
	"github.com/comity-mesh/comity/zone-cp/internal/names"
	"github.com/comity-mesh/comity/zone-cp/internal/peering"
	"github.com/comity-mesh/comity/zone-cp/internal/publish"
)

const (
	stopWithin  = 10 * time.Second
	drainWithin = 2 * time.Second
)

// zone is a control plane with its parts.
type zone struct {
	life
	cfg     settings
	log     *slog.Logger
	metrics *prometheus.Registry
	health  *telemetry.Health

	store     *ready.Store
	ca        *ca.CA
	table     *vm.Table
	desk      *inspect.Desk
	book      *imports.Book
	resolver  *imports.Resolver
	keys      *keys.Fetcher
	lease     *imports.Lease
	peers     *peering.Hub
	ledger    *exports.Ledger
	names     *names.Hub
	publisher *publish.Publisher
	loads     *loads.Book
	xds       *ads.Server
	fed       *fedclient.Client

	proxies  net.Listener
	api      net.Listener
	stopping chan struct{} // closed when the API stops
}

// garbage is how much of it there may be beside the memory in use, in percent. It is half of Go's default, because most of what
// is in use are the connections of proxies, which stay: 50 KiB less for each of 1,000, for a tenth more CPU where all of them
// come at once and nothing to be seen where a policy changes.
const garbage = 50

// serve runs the zone until ctx ends. ready, when not nil, is told where its API listens.
func serve(ctx context.Context, s settings, logTo io.Writer, ready func(apiAddress string)) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	l, made, err := initialise(s)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(logTo, s.Log, slog.String(telemetry.KeyZone, l.Zone))
	if err != nil {
		return &fault.Error{Code: "CONFIG-VALUE", What: "the log can't be written as asked", Err: err, Exit: fault.ExitUsage}
	}
	if made {
		log.InfoContext(ctx, "made the zone", "trust_domain", l.TrustDomain, "data_dir", s.DataDir)
	}
	z := &zone{life: l, cfg: s, log: log, metrics: telemetry.NewRegistry(program), health: &telemetry.Health{}, stopping: make(chan struct{})}
	defer func() { err = errors.Join(err, z.close()) }()
	if err := z.open(ctx); err != nil {
		return err
	}
	handler, err := z.handler(ctx)
	if err != nil {
		return err
	}
	refused := telemetry.Refused(z.metrics)
	creds := handshake.Counted(credentials.NewTLS(z.ca.ServerTLS(true)), refused.WithLabelValues("proxies"))
	server := grpc.NewServer(append(ads.ServerOptions(), grpc.Creds(creds))...)
	z.xds.Register(server)
	enrolpb.RegisterEnrolmentServer(server, z.ca.Service(z.attend, z.takeAnswer))

	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if s.API.TLSCert != "" {
		if web.TLSConfig, err = apiTLS(s.API); err != nil {
			return err
		}
	}
	web.RegisterOnShutdown(sync.OnceFunc(func() { close(z.stopping) }))
	telemetry.CountUnserved(web, refused.WithLabelValues("api"))
	log.InfoContext(ctx, "zone control plane", "version", version.Version, "trust_domain", l.TrustDomain,
		"api", z.api.Addr().String(), "proxies", z.proxies.Addr().String(), "joined", z.fed.State().Joined())
	if ready != nil {
		ready(z.api.Addr().String())
	}
	return lifecycle.Run(ctx, log, stopWithin,
		lifecycle.Component{Name: "retention", Run: func(ctx context.Context) error {
			return retain.Run(ctx, z.store, retain.Policy(z.cfg.Retention), z.part("store"))
		}},
		lifecycle.Component{Name: "discovery", Run: func(ctx context.Context) error { return z.table.Run(ctx, z.store, z.Zone, z.part("discovery")) }},
		lifecycle.Component{Name: "resolver", Run: z.resolver.Run},
		lifecycle.Component{Name: "keys", Run: z.keys.Run},
		lifecycle.Component{Name: "xds", Run: func(ctx context.Context) error { z.xds.Run(ctx); return nil }},
		lifecycle.Component{Name: "publish", Run: z.publisher.Run},
		lifecycle.Component{Name: "loads", Run: z.loads.Run},
		lifecycle.Component{Name: "peering", Run: z.peers.Run},
		lifecycle.Component{Name: "trust lease", Run: z.lease.Run},
		lifecycle.Component{Name: "federation", Run: z.fed.Run},
		lifecycle.Component{Name: "proxies", Run: func(ctx context.Context) error { return serveGRPC(ctx, server, z.proxies) }},
		lifecycle.HTTPServer("api", web, z.api, drainWithin),
	)
}

// serveGRPC serves until ctx ends. Streams are long: they are cut, and their clients come back.
func serveGRPC(ctx context.Context, server *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (z *zone) part(name string) *slog.Logger { return z.log.With(telemetry.KeyComponent, name) }

func (z *zone) kek() string {
	if z.cfg.SealingKeyFile != "" {
		return z.cfg.SealingKeyFile
	}
	return filepath.Join(z.cfg.DataDir, "kek")
}

// open opens all parts, each from what the disk says.
func (z *zone) open(ctx context.Context) error {
	engine, err := sqlitestore.Open(ctx, filepath.Join(z.cfg.DataDir, "zone.db"), sqlitestore.Options{Log: z.part("store")})
	if err != nil {
		return &fault.Error{Code: "STORE-OPEN", What: "the zone's store can't be opened", Err: err,
			Try: "see that no other zone-cp uses " + z.cfg.DataDir + ", and that its disk can be written and has room"}
	}
	z.store = ready.Watch(engine, nil)
	if z.proxies, err = listen(ctx, "listen.proxies", z.cfg.Listen.Proxies); err != nil {
		return err
	}
	if z.api, err = listen(ctx, "listen.api", z.cfg.Listen.API); err != nil {
		return err
	}
	advertise := z.cfg.Advertise
	if len(advertise) == 0 {
		advertise = []string{z.proxies.Addr().String()}
	}
	z.ca, err = ca.Open(ca.Config{
		Zone: z.Zone, TrustDomain: z.TrustDomain, Dir: filepath.Join(z.cfg.DataDir, "ca"), KEKFile: z.kek(),
		Records: z.store, Endpoints: advertise, Log: z.part("ca"), LeafTTL: z.cfg.LeafTTL,
	})
	if err != nil {
		return &fault.Error{Code: "CA-OPEN", What: "the zone's authority can't be opened", Err: err,
			Try: "put back what the cause names; a zone without its keys is another zone"}
	}
	z.table = vm.NewTable(z.cfg.Lease, z.cfg.ForgetAfter)
	z.desk = inspect.NewDesk(z.table.Ask)
	if err := z.table.Restore(ctx, z.store); err != nil {
		return err
	}
	return z.openFederation(ctx)
}

func (z *zone) openFederation(ctx context.Context) error {
	now := time.Now()
	bundle, err := z.ca.Bundle(ctx)
	if err != nil {
		return err
	}
	if z.book, err = imports.Open(ctx, z.store, z.Zone, bundle, now); err != nil {
		return err
	}
	if z.resolver, err = imports.NewResolver(ctx, net.DefaultResolver.LookupHost, z.store, z.part("resolver")); err != nil {
		return err
	}
	allow, err := z.cfg.Issuers.prefixes()
	if err != nil {
		return err
	}
	if z.keys, err = keys.New(ctx, keys.Config{Records: z.store, Allow: allow, Log: z.part("keys"), Metrics: z.metrics}); err != nil {
		return err
	}
	if z.ledger, err = exports.OpenLedger(ctx, z.store, z.Zone, z.TrustDomain, z.Incarnation, z.ca.StatementSigner()); err != nil {
		return err
	}
	sealer, err := identity.OpenSealer(z.kek())
	if err != nil {
		return err
	}
	cred, err := fedclient.OpenCredential(z.cfg.DataDir, z.Zone, sealer)
	if err != nil {
		return err
	}
	var epoch [16]byte
	if _, err := rand.Read(epoch[:]); err != nil {
		return err
	}
	statuses := federation.NewStatusBook(hex.EncodeToString(epoch[:]))
	connected := func() bool { return z.fed.Connected() }
	if z.lease, err = imports.OpenLease(ctx, z.store, connected, now); err != nil {
		return err
	}
	z.peers, err = peering.Open(ctx, peering.Config{
		Zone: z.Zone, Records: z.store, Book: z.book, Statements: z.ledger.All, Statuses: statuses, Log: z.part("peering"),
		Connected: connected, TrustUntil: z.lease.Until,
	})
	if err != nil {
		return err
	}
	numbers, err := names.OpenLedger(ctx, z.store, z.Zone)
	if err != nil {
		return err
	}
	z.names = names.NewHub()
	z.publisher, err = publish.New(publish.Config{
		Names: numbers, Told: z.names,
		Zone: z.Zone, TrustDomain: z.TrustDomain, Store: z.store, Source: z.table, Book: z.book, Resolver: z.resolver,
		Peers: z.peers, Keys: z.keys, TrustUntil: z.lease.Until, Ledger: z.ledger, Identity: z.ca, Statuses: statuses, Log: z.part("publish"), Metrics: z.metrics,
		Offer: func(list []identity.Statement) {
			z.fed.Offer(list)
			z.peers.Offer(list)
		},
		Sever: z.table.Sever, Try: z.desk.Try,
	})
	if err != nil {
		return err
	}
	z.loads, err = loads.New(loads.Config{Zone: z.Zone, Records: z.store, Statuses: statuses, Log: z.part("loads"), Metrics: z.metrics})
	if err != nil {
		return err
	}
	z.fed = fedclient.New(fedclient.Config{
		Zone: z.Zone, TrustDomain: z.TrustDomain, Incarnation: z.Incarnation, Endpoints: z.cfg.Global.Endpoints,
		Store: z.store, Book: z.book, Statuses: statuses, Refused: z.publisher.Refused, Log: z.part("federation"),
		Ask: z.ask, Follow: z.follow, Statements: z.ledger.All, BundleStatement: z.bundleStatement, Turned: z.turned,
	}, cred)
	z.xds, err = ads.NewServer(ads.Config{
		Authorize: publish.Authorize(z.ca.Lookup), Observer: z.publisher.Observer(), Log: z.part("xds"), Metrics: z.metrics,
	})
	if err != nil {
		return err
	}
	z.publisher.Serve(z.xds)
	z.health.Require("publish", func(context.Context) error {
		select {
		case <-z.publisher.Ready():
			return nil
		default:
			return errors.New("the first configuration is not built yet")
		}
	})
	z.health.Require("store", z.store.Check)
	return nil
}

// turned is called after a session with global began, and after it ended.
func (z *zone) turned() {
	z.lease.Heard(time.Now())
	z.peers.Turned()
	z.publisher.Turned()
}

// bundleStatement is the zone's newest word about its authorities; the first build makes it.
func (z *zone) bundleStatement(ctx context.Context) (identity.Statement, error) {
	select {
	case <-z.publisher.Ready():
	case <-ctx.Done():
		return identity.Statement{}, ctx.Err()
	}
	for _, s := range z.ledger.All() {
		if s.Kind == identity.KindBundle && !s.Withdrawn {
			return s, nil
		}
	}
	return identity.Statement{}, errors.New("the zone has made no statement of its bundle")
}

func (z *zone) close() error {
	var errs []error
	if z.ca != nil {
		errs = append(errs, z.ca.Close())
	}
	if z.store != nil {
		errs = append(errs, z.store.Close())
	}
	for _, l := range []net.Listener{z.api, z.proxies} {
		if l != nil {
			_ = l.Close() // closed by its server, unless that never ran
		}
	}
	return errors.Join(errs...)
}

func listen(ctx context.Context, key, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &fault.Error{Code: "LISTEN", What: "can't listen on " + addr + " (" + key + ")", Err: err,
			Try: "free the address, or set " + key + " to another"}
	}
	return l, nil
}

// attend serves the stream of an enrolled proxy.
func (z *zone) attend(caller ca.Caller, stream enrolpb.Enrolment_AttendServer) error {
	var peer *attendant
	var err error
	stack.Apart(func() { peer, err = z.attendant(stream.Context(), caller) })
	if err != nil {
		return err
	}
	defer peer.leave()
	return z.table.Attend(&peer.Peer, stream, z.checkWorkload, z.part("discovery"))
}

// attendant is a proxy while it attends.
type attendant struct {
	vm.Peer
	leave func()
}

// attendant opens what a proxy reports to and is told from.
func (z *zone) attendant(ctx context.Context, caller ca.Caller) (*attendant, error) {
	in, _, err := z.ca.Enrolled(ctx, caller.Proxy)
	if err != nil {
		return nil, status.Error(codes.Unavailable, "the zone can't read its registrations now; come back")
	}
	peer := &attendant{Peer: vm.Peer{Proxy: caller.Proxy, Identity: caller.ID.String(), Labels: in.Labels}, leave: func() {}}
	if rest, ok := strings.CutPrefix(caller.ID.Path(), "/ns/"+caller.Proxy.Namespace+"/sa/"); ok && caller.Proxy.Role == mesh.RoleSidecar {
		source, told := z.loads.Open(caller.Proxy), z.names.Open(caller.Proxy)
		peer.ServiceAccount, peer.Load = rest, source.Report
		peer.Names = &vm.Names{Wake: told.Wake(), Next: told.Next}
		peer.leave = func() {
			told.Close()
			source.Close()
		}
	}
	if caller.Proxy.Role == mesh.RoleIngress {
		agent := z.peers.Open(caller.Proxy)
		peer.Peers = &vm.Peers{Wake: agent.Wake(), Notices: agent.Notices, Links: agent.Links, Word: agent.Word}
		peer.leave = agent.Close
	}
	return peer, nil
}

// ask asks one of the zone's proxies, for a person at the zone or at global.
func (z *zone) ask(ctx context.Context, what, subject string) ([]byte, error) {
	id, err := mesh.ParseProxyID(subject)
	if err != nil {
		return nil, err
	}
	return z.desk.Ask(ctx, id, what)
}

// takeAnswer takes what a proxy answers.
func (z *zone) takeAnswer(caller ca.Caller, stream enrolpb.Enrolment_AnswerServer) error {
	err := z.desk.Answer(caller.Proxy, stream)
	if errors.Is(err, inspect.ErrUnasked) {
		return status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return err
	}
	return stream.SendAndClose(&enrolpb.AnswerTaken{})
}

func (z *zone) checkWorkload(key mesh.Key, labels map[string]string, spec []byte) (policy.Workload, error) {
	key.Origin = mesh.Origin(z.Zone)
	r := mesh.Resource{Key: key, APIVersion: policy.APIVersion, Labels: labels, Spec: spec}
	if fields := policy.Validate(r); len(fields) > 0 {
		return policy.Workload{}, &policy.InvalidError{Fields: fields}
	}
	w, err := policy.DecodeAs[policy.Workload](r)
	if err != nil {
		return policy.Workload{}, err
	}
	return *w, nil
}

func adminTokenFile(s settings) string {
	if s.AdminTokenFile != "" {
		return s.AdminTokenFile
	}
	return filepath.Join(s.DataDir, "admin.token")
}

// keepAdminToken writes the first admin's token where only the operator reads it.
func (z *zone) keepAdminToken(token string) error {
	path := adminTokenFile(z.cfg)
	if err := identity.WriteFileAtomic(path, []byte(token+"\n")); err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	z.log.Info("made the first admin token", "file", path)
	return nil
}
