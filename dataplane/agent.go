package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/comity-mesh/comity/dataplane/dns"
	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/lrs"
	"github.com/comity-mesh/comity/dataplane/metrics"
	"github.com/comity-mesh/comity/dataplane/peer"
	"github.com/comity-mesh/comity/dataplane/proxyless"
	"github.com/comity-mesh/comity/dataplane/sds"
	"github.com/comity-mesh/comity/dataplane/tap"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
)

// agent is one running proxy.
type agent struct {
	config   Config
	log      *slog.Logger
	run      *runDir
	ports    reservation
	cred     *credential
	enroller *enroller
	sds      *sds.Server
	envoy    *supervisor
	client   *proxyless.Client // instead of sds and envoy; else nil
	attend   *attendant
	peers    *peer.Peers // of an ingress; else nil
	severer  *severer
	dns      *dns.Server // of a sidecar that answers names; else nil
	// plaintexts are who speaks plaintext to this proxy; none to other than sidecars.
	plaintexts *plaintexts
	check      *appCheck // nil: the application is not checked
	metrics    *agentMetrics
	exporter   *metrics.Exporter
	registry   *prometheus.Registry
	health     telemetry.Health
	admitted   chan struct{} // closed when there is a certificate

	mu        sync.Mutex
	app       bool // the application is healthy
	appReason string
	info      Info
}

// Run runs one proxy until ctx ends, and then ends it in order: the zone withdraws it, its Envoy ends,
// nothing stays in its run directory. Before that only a refusal by the zone, a configuration that
// can't work or an Envoy that never starts end it, with an error; while the zone is away it goes on.
func Run(ctx context.Context, c Config, log *slog.Logger) (err error) {
	if err := c.Check(); err != nil {
		return &fault.Error{Code: "CONFIG-INVALID", What: "the configuration of this proxy is not valid", Err: err, Try: "correct what the cause names", Docs: "docs/configuration.md", Exit: fault.ExitUsage}
	}
	c.setDefaults()
	a := &agent{config: c, admitted: make(chan struct{}), app: true, plaintexts: newPlaintexts(), registry: telemetry.NewRegistry(string(c.role()))}
	instance, token, err := a.config.identify()
	if err != nil {
		return err
	}
	a.log = log.With(telemetry.KeyProxy, a.config.proxy().String())
	if a.config.RunDir == "" {
		a.config.RunDir = defaultRunDir(c.DataDir, a.config.proxy().String())
	}
	if a.run, err = openRunDir(a.config.RunDir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.run.clean(), a.run.Close(), a.ports.Close()) }()
	if err := a.build(ctx, instance, token); err != nil {
		return err
	}
	return a.serve(ctx)
}

func (c *Config) setDefaults() {
	gateway := c.Ingress != nil
	pick := func(v *int, sidecar, ingress int) {
		if *v == 0 {
			if *v = sidecar; gateway {
				*v = ingress
			}
		}
	}
	pick(&c.Envoy.Concurrency, 1, 2)
	pick(&c.Envoy.MaxConnections, 10_000, 50_000)
	if c.Envoy.LogLevel == "" {
		c.Envoy.LogLevel = "warning"
	}
	if c.DrainTime == 0 {
		// How long clients everywhere need to hear that an endpoint is withdrawn; an ingress also
		// carries what they have under way.
		if c.DrainTime = 1500 * time.Millisecond; gateway {
			c.DrainTime = 5 * time.Second
		}
	}
}

// buildEnvoy makes what only a proxy has.
func (a *agent) buildEnvoy() error {
	files, err := raiseFileLimit()
	if err != nil {
		return err
	}
	// A connection through a proxy takes two descriptors; some are for the rest.
	if most := int(min(files, 1<<24)/2) - 128; a.config.Envoy.MaxConnections > most { //nolint:gosec // bounded
		a.config.Envoy.MaxConnections = max(most, 64)
		a.log.Info("the limit of open files lowers the maximum of connections", "files", files, "connections", a.config.Envoy.MaxConnections)
	}
	secrets := sds.NewSecrets()
	if a.sds, err = sds.NewServer(secrets, a.config.SecretsDir, a.log, a.registry); err != nil {
		return err
	}
	a.cred = &credential{secrets: secrets}
	a.envoy = &supervisor{
		path: a.config.Envoy.Path, dir: a.run.path, bootstrap: fileBootstrap,
		concurrency: a.config.Envoy.Concurrency, logLevel: a.config.Envoy.LogLevel,
		admin: newAdmin(a.run.socket(fileAdmin)), log: a.log, changed: a.changed,
	}
	return nil
}

// build makes the parts; nothing runs yet.
func (a *agent) build(ctx context.Context, instance *instance, token *identity.EnrolToken) (err error) {
	if a.config.Proxyless() {
		err = a.buildClient()
	} else {
		err = a.buildEnvoy()
	}
	if err != nil {
		return err
	}
	if a.metrics, err = newAgentMetrics(a.registry, a.proxyState); err != nil {
		return err
	}
	tell := metrics.Config{Own: a.registry, Self: a.self, Application: a.config.AppMetrics, Log: a.log}
	if a.envoy != nil {
		tell.Envoy = a.envoy.admin.stats
	}
	a.exporter = metrics.NewExporter(tell)
	a.enroller = &enroller{
		proxy: a.config.proxy(), instance: instance, token: token, addresses: a.config.ZoneAddresses,
		cred: a.cred, log: a.log, metrics: a.metrics, now: time.Now, lookAgain: time.Minute, early: make(chan struct{}, 1),
	}
	if a.config.Ingress != nil && a.config.Ingress.Role != mesh.RoleEgress {
		if a.peers, err = peer.New(peer.Config{Certificate: a.cred.certificate, Log: a.log, Metrics: a.registry, Now: a.config.clock}); err != nil {
			return err
		}
	}
	if a.config.clock != nil {
		a.enroller.now, a.enroller.lookAgain = a.config.clock, 10*time.Millisecond
	}
	if len(a.enroller.endpoints()) == 0 {
		return a.enroller.admit(ctx) // which says that there is neither token nor enrolment
	}
	if err := a.describe(ctx); err != nil {
		return err
	}
	a.health.Require("certificate", func(context.Context) error {
		if !a.cred.usable(time.Now()) {
			return errors.New("there is no valid certificate")
		}
		return nil
	})
	a.health.Require("envoy", func(context.Context) error {
		if !a.proxyState().Ready {
			return errors.New("Envoy, or what stands in for it, has no configuration yet")
		}
		return nil
	})
	a.health.Require("registered", func(context.Context) error {
		if !a.attend.everAccepted() {
			return errors.New("the zone has not registered this proxy yet")
		}
		return nil
	})
	return nil
}

// describe settles addresses and ports, and with them what the zone is told.
func (a *agent) describe(ctx context.Context) error {
	a.info = Info{PID: os.Getpid(), Proxy: a.config.proxy().String(), RunDir: a.run.path}
	spec, err := a.describeIngress(ctx)
	switch {
	case a.config.Proxyless():
		spec, err = a.describeClient(ctx)
	case a.config.Sidecar != nil:
		spec, err = a.describeSidecar(ctx)
	}
	if err != nil {
		return err
	}
	a.severer = newSeverer(func() int { return a.proxyState().PID }, a.changed, a.log)
	a.severer.never = a.enroller.endpoints
	spec.Answers, spec.Tries = a.client == nil, a.client == nil // there is an Envoy to ask
	a.attend = newAttendant(spec)
	a.attend.sever, a.attend.names = a.severer.set, a.answerNames
	a.attend.log, a.attend.metrics, a.attend.drain = a.log, a.metrics, a.config.DrainTime
	if a.envoy != nil {
		a.attend.inspect = a.envoy.admin.inspect
		a.attend.trials = newTrials(a.envoy.path, a.run.file(folderTrials))
		a.attend.tap, a.attend.self = tap.NewServer(a.envoy.admin.tapShare), a.tapSelf
		a.attend.top = a.exporter.Follow
	}
	a.attend.trust, a.attend.unknown, a.attend.peers = a.enroller.trust, a.enroller.soon, a.peers
	return nil
}

func (a *agent) describeSidecar(ctx context.Context) (*enrolpb.AgentReport, error) {
	s := a.config.Sidecar
	w := s.Workload
	var err error
	if w.Address == "" {
		if w.Address, err = localAddress(ctx, a.enroller.endpoints()[0]); err != nil {
			return nil, err
		}
	}
	const loopback = "127.0.0.1"
	pick := func(p *uint16, address string) {
		if *p == 0 && err == nil {
			*p, err = a.ports.pick(ctx, address)
		}
	}
	pick(&w.InboundPort, w.Address)
	if !s.NoOutbound {
		pick(&w.OutboundPort, loopback)
	}
	w.Upstreams = append([]Upstream(nil), w.Upstreams...)
	for i := range w.Upstreams {
		pick(&w.Upstreams[i].LocalPort, loopback)
	}
	if err != nil {
		return nil, err
	}
	if err := a.openDNS(ctx, &w); err != nil {
		return nil, err
	}
	a.settle(&w)
	a.info.Address, a.info.InboundPort, a.info.Upstreams = w.Address, w.InboundPort, w.Upstreams
	if w.OutboundPort != 0 {
		a.info.Outbound = net.JoinHostPort(loopback, fmt.Sprint(w.OutboundPort))
	}
	if w.HealthCheck != nil {
		app := w.AppAddress
		if app == "" {
			app = loopback
		}
		a.check, a.app, a.appReason = newAppCheck(*w.HealthCheck, app), false, "the application has not answered yet"
	}
	raw, err := jsonOf(w)
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Workload{Workload: &enrolpb.WorkloadSpec{Spec: raw, Labels: s.Labels}}}, err
}

func (a *agent) describeIngress(ctx context.Context) (*enrolpb.AgentReport, error) {
	i := a.config.Ingress
	if i == nil {
		return nil, nil
	}
	ports := append([]uint16(nil), i.BindPorts...)
	lanes := make([]uint32, len(ports))
	for n := range ports {
		if ports[n] == 0 {
			p, err := a.ports.pick(ctx, i.BindAddress)
			if err != nil {
				return nil, err
			}
			ports[n] = p
		}
		lanes[n] = uint32(ports[n])
	}
	adv := i.Advertised
	if adv.ID == "" {
		adv.ID = a.config.Name
	}
	if adv.Host == "" {
		adv.Host = i.BindAddress
	}
	if len(adv.Ports) == 0 {
		adv.Ports = ports
	}
	if adv.Source == "" {
		adv.Source = "declared"
	}
	a.info.Address, a.info.Ports = i.BindAddress, ports
	raw, err := jsonOf(adv)
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Ingress{Ingress: &enrolpb.IngressSpec{
		Ingress: raw, BindAddress: i.BindAddress, BindPorts: lanes, Peers: i.Role != mesh.RoleEgress, Gateways: i.Gateways,
	}}}, err
}

// serve runs the parts. They end in the reverse order: first the lease, so that traffic stops coming,
// then Envoy, then what it needed.
func (a *agent) serve(ctx context.Context) error {
	if a.client != nil {
		return a.serveClient(ctx)
	}
	secretsListener, err := sds.Listen(a.run.socket(fileSDS))
	if err != nil {
		return err
	}
	parts, err := a.observed(ctx)
	if err != nil {
		return errors.Join(err, secretsListener.Close())
	}
	parts = append(parts,
		lifecycle.Component{Name: "secrets", Run: func(ctx context.Context) error {
			return a.sds.Serve(ctx, secretsListener, a.registerEnvoys, lrs.ServerOptions()...)
		}},
		lifecycle.Component{Name: "secret files", Run: a.sds.KeepFiles},
		lifecycle.Component{Name: "secret problems", Run: a.watchSecrets},
		lifecycle.Component{Name: "identity", Run: a.keepIdentity},
		lifecycle.Component{Name: "envoy", Run: a.runEnvoy},
	)
	if a.dns != nil {
		parts = append(parts, lifecycle.Component{Name: "names", Run: a.dns.Serve})
	}
	if a.peers != nil {
		parts = append(parts, lifecycle.Component{Name: "peers", Run: a.runPeers})
	}
	if a.config.proxy().Role == mesh.RoleSidecar {
		parts = append(parts, lifecycle.Component{Name: "plaintext", Run: a.watchPlaintext})
	}
	if a.check != nil {
		parts = append(parts, lifecycle.Component{Name: "health check", Run: func(ctx context.Context) error { return a.check.run(ctx, a.appIs) }})
	}
	parts = append(parts, lifecycle.Component{Name: "sever", Run: a.severer.run}, lifecycle.Component{Name: "lease", Run: a.keepLease})
	if err := a.writeInfo(); err != nil {
		return errors.Join(err, secretsListener.Close())
	}
	a.changed()
	return lifecycle.Run(ctx, a.log, a.config.DrainTime+endWithin+5*time.Second, parts...)
}

// registerEnvoys adds what this machine's Envoy is served besides secrets.
func (a *agent) registerEnvoys(r grpc.ServiceRegistrar) {
	lrs.NewServer(a.attend.loads.add).Register(r)
	a.attend.tap.Register(r)
}

// tapSelf is this proxy to those who look at its requests. Without a certificate nobody asks.
func (a *agent) tapSelf() tap.Self {
	i := a.enroller.instance
	return tap.Self{Proxy: a.config.proxy(), Zone: i.Zone, Identity: i.SPIFFEID}
}

// observed is the agent's HTTP port, if it shall have one.
func (a *agent) observed(ctx context.Context) ([]lifecycle.Component, error) {
	if a.config.MetricsAddress == "" {
		return nil, nil
	}
	l, err := listenHTTP(ctx, a.config.MetricsAddress)
	if err != nil {
		return nil, &fault.Error{
			Code: "METRICS-PORT", What: "the agent's HTTP port can't be opened", Err: err,
			Try: "choose another metrics.address, or none", Docs: "docs/configuration.md",
		}
	}
	a.info.Metrics = l.Addr().String()
	return []lifecycle.Component{lifecycle.HTTPServer("metrics", observe(a.exporter, &a.health, a.registry, a.metrics), l, time.Second)}, nil
}

// self is who tells the metrics.
func (a *agent) self() metrics.Self {
	a.mu.Lock()
	defer a.mu.Unlock()
	return metrics.Self{Role: a.config.role(), Identity: a.info.Identity, Zone: a.info.Zone}
}

func (a *agent) keepIdentity(ctx context.Context) error {
	if err := a.enroller.admit(ctx); err != nil {
		return err
	}
	close(a.admitted)
	a.mu.Lock()
	a.info.Identity, a.info.Zone = a.enroller.instance.SPIFFEID, a.enroller.instance.Zone
	a.mu.Unlock()
	return a.enroller.keep(ctx)
}

// whenAdmitted waits for the first certificate, without which there is nothing to do.
func (a *agent) whenAdmitted(ctx context.Context) bool {
	select {
	case <-a.admitted:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (a *agent) runEnvoy(ctx context.Context) error {
	if !a.whenAdmitted(ctx) {
		return nil
	}
	i := a.enroller.instance
	b := bootstrap{
		Proxy: a.config.proxy(), Zone: i.Zone, TrustDomain: i.TrustDomain, Locality: a.config.Locality, ZoneAddresses: a.xdsAddresses(),
		// Relative to the run directory, where Envoy runs: its path may be longer than a socket's may.
		AdminSocket: fileAdmin, Resolver: a.plainResolver(), SDSSocket: fileSDS, MaxConnections: a.config.Envoy.MaxConnections, ReportLoad: a.config.Sidecar != nil,
	}
	if a.peers != nil {
		b.PeersSocket = filePeers
	}
	raw, err := b.JSON()
	if err != nil {
		return err
	}
	if err := identity.WriteFileAtomic(a.run.file(fileBootstrap), raw); err != nil {
		return fmt.Errorf("envoy bootstrap: %w", err)
	}
	return a.envoy.run(ctx)
}

// runPeers answers other zones' ingresses on the socket that this one's Envoy connects to, and probes them.
func (a *agent) runPeers(ctx context.Context) error {
	if !a.whenAdmitted(ctx) {
		return nil
	}
	l, err := sds.Listen(a.run.socket(filePeers))
	if err != nil {
		return err
	}
	return a.peers.Run(ctx, a.enroller.instance.Zone, l)
}

func (a *agent) keepLease(ctx context.Context) error {
	if !a.whenAdmitted(ctx) {
		return nil
	}
	d := &dialer{addresses: a.enroller.endpoints(), tls: a.enroller.zoneTLS(a.cred.certificate)}
	return a.attend.run(ctx, d.lasting)
}

// watchSecrets tells the zone which of this machine's secrets are missing or expired.
func (a *agent) watchSecrets(ctx context.Context) error {
	for {
		select {
		case <-a.sds.ProblemsChanged():
			a.changed()
		case <-ctx.Done():
			return nil
		}
	}
}

// appIs takes the result of a health check.
func (a *agent) appIs(healthy bool, reason string) {
	a.mu.Lock()
	a.app, a.appReason = healthy, reason
	a.mu.Unlock()
	if healthy {
		a.log.Info("the application is healthy")
	} else {
		a.log.Warn("the application is unhealthy", "reason", reason)
	}
	a.changed()
}

// changed tells the zone, the metrics and the info file how this proxy does now.
func (a *agent) changed() {
	envoy := a.proxyState()
	a.mu.Lock()
	h := &enrolpb.Health{Healthy: a.app, Reason: a.appReason, EnvoyVersion: envoy.Version, EnvoyReady: envoy.Ready, Unsevered: a.severer.unsevered(), Plaintext: a.plaintexts.report()}
	if a.sds != nil {
		for _, p := range a.sds.Problems() {
			h.Secrets = append(h.Secrets, &enrolpb.Secret{Name: p.Name, Problem: p.Reason})
		}
	}
	rewrite := a.info.Ready != envoy.Ready
	a.info.Ready, a.info.EnvoyPID = envoy.Ready, envoy.PID
	a.mu.Unlock()
	if h.GetHealthy() {
		a.metrics.healthy.Set(1)
	} else {
		a.metrics.healthy.Set(0)
	}
	a.attend.report(h)
	if rewrite {
		if err := a.writeInfo(); err != nil {
			a.log.Error("could not write the info file", "reason", err)
		}
	}
}

func (a *agent) writeInfo() error {
	if a.config.InfoFile == "" {
		return nil
	}
	a.mu.Lock()
	raw, err := json.MarshalIndent(a.info, "", "  ")
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("info file: %w", err)
	}
	err = os.MkdirAll(filepath.Dir(a.config.InfoFile), 0o755) //nolint:gosec // holds no secret
	if err == nil {
		err = identity.WriteFileAtomic(a.config.InfoFile, append(raw, '\n'))
	}
	if err != nil {
		return &fault.Error{Code: "INFO-FILE", What: "the info file can't be written", Err: err, Try: "check --write-info", Docs: "docs/configuration.md"}
	}
	return nil
}
