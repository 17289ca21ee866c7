package fedserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/global-cp/internal/trust"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

const globalTD = "global.test.example"

// global is a real federation server on a real store, which can be stopped and started again.
type global struct {
	t       *testing.T
	dir     string
	store   store.Store
	shared  *pgstore.Database // nil: a file of its own
	server  *Server
	trust   *trust.Authority
	metrics *prometheus.Registry
	address string
	log     *syncBuffer
	ahead   atomic.Int64 // of the server's clock, in nanoseconds
	stop    func()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newGlobal(t *testing.T) *global {
	t.Helper()
	g := &global{t: t, dir: t.TempDir(), log: &syncBuffer{}}
	g.start("127.0.0.1:0")
	t.Cleanup(func() { g.stop() })
	return g
}

func (g *global) start(address string) {
	g.t.Helper()
	must := func(err error) {
		g.t.Helper()
		if err != nil {
			g.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if g.shared != nil {
		g.store, err = pgstore.Open(ctx, *g.shared, pgstore.Options{})
	} else {
		g.store, err = sqlitestore.Open(ctx, filepath.Join(g.dir, "store.db"), sqlitestore.Options{})
	}
	must(err)
	g.trust, err = trust.Open(trust.Options{Dir: filepath.Join(g.dir, "ca"), KeyFile: filepath.Join(g.dir, "kek"), TrustDomain: globalTD})
	must(err)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	must(err)
	g.address = l.Addr().String()
	g.metrics = prometheus.NewRegistry()
	g.server = New(Config{
		Store: g.store, Shared: g.shared != nil, Trust: g.trust, Advertise: []string{g.address}, Metrics: g.metrics,
		Now: func() time.Time { return time.Now().Add(time.Duration(g.ahead.Load())) },
		Log: slog.New(slog.NewTextHandler(g.log, nil)),
	})
	done := make(chan error, 1)
	go func() { done <- g.server.Run(ctx, l) }()
	g.stop = func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Errorf("server: %v", err)
		}
		if err := g.store.Close(); err != nil {
			g.t.Errorf("store: %v", err)
		}
		g.stop = func() {}
	}
}

func (g *global) restart() {
	g.t.Helper()
	g.stop()
	g.start(g.address)
}

func (g *global) counter(name string, labels map[string]string) float64 {
	g.t.Helper()
	families, err := g.metrics.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for k, v := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == k && l.GetValue() == v
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// apply puts resources at global: name "a", spec {} unless given.
func (g *global) apply(writes ...store.Write) mesh.Revision {
	g.t.Helper()
	r, err := g.store.Apply(g.t.Context(), store.Batch{Writes: writes, Actor: "user:test", Source: "api"})
	if err != nil {
		g.t.Fatal(err)
	}
	return r.Revision
}

func resource(kind mesh.Kind, origin mesh.Origin, ns, name string, spec any, annotations ...string) store.Write {
	doc, err := json.Marshal(spec)
	if err != nil {
		panic(err) // a test's own literal
	}
	r := mesh.Resource{Key: mesh.Key{Origin: origin, Kind: kind, Namespace: ns, Name: name}, APIVersion: policy.APIVersion, Spec: doc}
	for i := 0; i+1 < len(annotations); i += 2 {
		r.Annotations = map[string]string{annotations[i]: annotations[i+1]}
	}
	return store.Write{Resource: r}
}

func (g *global) addZone(name string, namespaces ...string) {
	g.t.Helper()
	g.apply(resource(mesh.KindZone, mesh.OriginGlobal, "", name, policy.Zone{Namespaces: namespaces}))
}

func (g *global) token(zone string, ttl time.Duration) identity.JoinToken {
	g.t.Helper()
	text, _, err := g.server.CreateToken(g.t.Context(), zone, ttl)
	if err != nil {
		g.t.Fatal(err)
	}
	tok, err := identity.ParseJoinToken(text)
	if err != nil {
		g.t.Fatal(err)
	}
	return tok
}

// zone is the other end, with a real store and authority.
type zone struct {
	t           *testing.T
	g           *global
	name        string
	td          mesh.TrustDomain
	incarnation mesh.Incarnation
	store       *sqlitestore.Store
	ca          *identity.Authority
	signer      *identity.StatementSigner
	key         *ecdsa.PrivateKey
	cert        *tls.Certificate
	book        *federation.StatusBook
	sequence    uint64

	mu     sync.Mutex
	events []federation.Effect
	heard  map[federation.Subject]*federationpb.Statement
	check  func(mesh.Resource) *federation.Refusal
}

func random128(t *testing.T) string {
	t.Helper()
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:])
}

func newZone(t *testing.T, g *global, name string) *zone {
	t.Helper()
	z := &zone{
		t: t, g: g, name: name, td: mesh.TrustDomain(name + ".test.example"), incarnation: mesh.Incarnation(random128(t)),
		book: federation.NewStatusBook(random128(t)), heard: map[federation.Subject]*federationpb.Statement{},
	}
	var err error
	if z.store, err = sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := z.store.Close(); err != nil {
			t.Error(err)
		}
	})
	z.newCA()
	if z.key, err = identity.NewKey(); err != nil {
		t.Fatal(err)
	}
	return z
}

// twin is a zone that says that it is this one.
func (z *zone) twin() *zone {
	return &zone{
		t: z.t, g: z.g, name: z.name, td: z.td, incarnation: z.incarnation, store: z.store, ca: z.ca, signer: z.signer,
		key: z.key, book: z.book, heard: map[federation.Subject]*federationpb.Statement{},
	}
}

func (z *zone) newCA() {
	z.t.Helper()
	root, err := identity.NewRoot(z.td, time.Now())
	if err != nil {
		z.t.Fatal(err)
	}
	if z.ca, err = root.NewIntermediate(time.Now()); err != nil {
		z.t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		z.t.Fatal(err)
	}
	id, err := identity.ParseID(z.td.ZoneCPID())
	if err != nil {
		z.t.Fatal(err)
	}
	issued, err := z.ca.Sign(key.Public(), id, 0, time.Now())
	if err != nil {
		z.t.Fatal(err)
	}
	cert := identity.TLSCertificate(issued.Chain, key)
	z.signer = identity.NewStatementSigner(func() (*tls.Certificate, error) { return cert, nil })
}

// say makes a signed statement of the zone, with the next sequence.
func (z *zone) say(kind, subject string, payload any, edit ...func(*identity.Statement)) *federationpb.Statement {
	z.t.Helper()
	doc, ok := payload.([]byte)
	if !ok && payload != nil {
		var err error
		if doc, err = json.Marshal(payload); err != nil {
			z.t.Fatal(err)
		}
	}
	z.sequence++
	s := identity.Statement{
		Kind: kind, Zone: z.name, TrustDomain: z.td, Incarnation: z.incarnation, Sequence: z.sequence, Subject: subject,
		Issued: time.Now(), LeaseUntil: time.Now().Add(time.Hour), Payload: doc,
	}
	for _, f := range edit {
		f(&s)
	}
	s, err := z.signer.Sign(s)
	if err != nil {
		z.t.Fatal(err)
	}
	return &federationpb.Statement{
		Kind: s.Kind, Zone: s.Zone, TrustDomain: string(s.TrustDomain), Incarnation: string(s.Incarnation), Sequence: s.Sequence, Subject: s.Subject,
		IssuedMs: s.Issued.UnixMilli(), LeaseUntilMs: s.LeaseUntil.UnixMilli(), Withdrawn: s.Withdrawn, Payload: s.Payload, Signature: s.Signature, Chain: s.Chain,
	}
}

func (z *zone) bundle() *federationpb.Statement {
	z.t.Helper()
	doc, err := z.ca.Bundle(1).Marshal()
	if err != nil {
		z.t.Fatal(err)
	}
	return z.say(identity.KindBundle, string(z.td), doc)
}

func (z *zone) export(ns, svc string) *federationpb.Statement {
	z.t.Helper()
	return z.say(federation.StatementExport, ns+"/"+svc, mesh.Export{
		Namespace: ns, Service: svc, Ports: []mesh.ExportPort{{Port: 80, AppProtocol: "http"}},
		Identities: []string{z.td.WorkloadID(ns, svc)}, Ready: 1, Total: 1, Capacity: 1, ReadyCapacity: 1,
	})
}

// dial makes the TLS session first, so that a proof can be made over its exporter.
func dial(t *testing.T, address string, config *tls.Config) (*grpc.ClientConn, tls.ConnectionState, error) {
	t.Helper()
	config.NextProtos = []string{"h2"}
	raw, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, tls.ConnectionState{}, err
	}
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return nil, tls.ConnectionState{}, errors.Join(err, raw.Close())
	}
	cc, err := grpc.NewClient("passthrough:///global", grpc.WithTransportCredentials(established{}),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return c, nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() }) // some tests close it before
	return cc, c.ConnectionState(), nil
}

type established struct {
	credentials.TransportCredentials
}

func (established) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := credentials.TLSInfo{State: c.(*tls.Conn).ConnectionState()}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return c, info, nil
}
func (established) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (e established) Clone() credentials.TransportCredentials { return e }

func (z *zone) joinRequest(tok identity.JoinToken, state tls.ConnectionState, edit ...func(*federationpb.JoinRequest)) *federationpb.JoinRequest {
	z.t.Helper()
	exporter, err := identity.Exporter(state)
	if err != nil {
		z.t.Fatal(err)
	}
	csr, err := identity.NewCSR(z.key)
	if err != nil {
		z.t.Fatal(err)
	}
	req := &federationpb.JoinRequest{
		Protocol: federation.Protocol, Zone: z.name, TrustDomain: string(z.td), Incarnation: string(z.incarnation),
		TokenId: tok.ID, Csr: csr, Version: "test", Bundle: z.bundle(),
	}
	for _, f := range edit {
		f(req)
	}
	req.Proof, err = tok.Prove(identity.JoinTranscript{
		Exporter: exporter, CSR: req.GetCsr(), TokenID: req.GetTokenId(), Zone: req.GetZone(),
		TrustDomain: mesh.TrustDomain(req.GetTrustDomain()), Incarnation: mesh.Incarnation(req.GetIncarnation()),
	}.Bytes())
	if err != nil {
		z.t.Fatal(err)
	}
	return req
}

func (z *zone) tryJoin(tok identity.JoinToken, edit ...func(*federationpb.JoinRequest)) (*federationpb.JoinResponse, error) {
	z.t.Helper()
	cc, state, err := dial(z.t, z.g.address, identity.PinnedClientTLS(nil, tok.Pin, identity.GlobalCPPath, identity.TLSOptions{}))
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	resp, err := federationpb.NewFederationClient(cc).Join(z.t.Context(), z.joinRequest(tok, state, edit...))
	if err == nil {
		z.install(resp.GetCertificateChain())
	}
	return resp, err
}

func (z *zone) install(chain [][]byte) {
	z.t.Helper()
	certs := make([]*x509.Certificate, 0, len(chain))
	for _, d := range chain {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			z.t.Fatal(err)
		}
		certs = append(certs, c)
	}
	z.cert = identity.TLSCertificate(certs, z.key)
}

func (z *zone) join() {
	z.t.Helper()
	if _, err := z.tryJoin(z.g.token(z.name, 0)); err != nil {
		z.t.Fatalf("join %s: %v", z.name, err)
	}
}

// renew asks for a new certificate with a proof of the given key.
func (z *zone) renew(key *ecdsa.PrivateKey, incarnation string) error {
	z.t.Helper()
	authorize := identity.AuthorizeOneOf("spiffe://" + globalTD + identity.GlobalCPPath)
	cc, state, err := dial(z.t, z.g.address, identity.ClientTLS(nil, z.g.trust.Bundle(), authorize, identity.TLSOptions{}))
	if err != nil {
		z.t.Fatal(err)
	}
	defer cc.Close()
	exporter, err := identity.Exporter(state)
	if err != nil {
		z.t.Fatal(err)
	}
	csr, err := identity.NewCSR(z.key)
	if err != nil {
		z.t.Fatal(err)
	}
	tr := identity.RenewTranscript{Exporter: exporter, CSR: csr, Who: z.name, Incarnation: mesh.Incarnation(incarnation)}
	proof, err := identity.SignTranscript(key, tr.Bytes())
	if err != nil {
		z.t.Fatal(err)
	}
	resp, err := federationpb.NewFederationClient(cc).Renew(z.t.Context(), &federationpb.RenewRequest{
		Protocol: federation.Protocol, Zone: z.name, Incarnation: incarnation, Csr: csr, Proof: proof,
	})
	if err == nil {
		z.install(resp.GetCertificateChain())
	}
	return err
}

// running is one session of a zone.
type running struct {
	link   *federation.ZoneLink
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	recv   *countingStream
}

type countingStream struct {
	federation.Stream[*federationpb.ZoneFrame, *federationpb.GlobalFrame]
	mu     sync.Mutex
	config int
	sent   int // own configuration and statuses
}

func (c *countingStream) Recv() (*federationpb.GlobalFrame, error) {
	f, err := c.Stream.Recv()
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.GetChanges() != nil || f.GetSnapshotBegin() != nil || f.GetStatement() != nil {
		c.config += proto.Size(f)
	}
	return f, err
}

func (c *countingStream) Send(f *federationpb.ZoneFrame) error {
	c.mu.Lock()
	if f.GetChanges() != nil || f.GetStatus() != nil || f.GetStatement() != nil {
		c.sent += proto.Size(f)
	}
	c.mu.Unlock()
	return c.Stream.Send(f)
}

func (c *countingStream) counts() (config, sent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config, c.sent
}

func (z *zone) certificate() (*tls.Certificate, error) { return z.cert, nil }

func (z *zone) open() (federationpb.Federation_SessionClient, context.CancelFunc) {
	z.t.Helper()
	authorize := identity.AuthorizeOneOf("spiffe://" + globalTD + identity.GlobalCPPath)
	cc, _, err := dial(z.t, z.g.address, identity.ClientTLS(z.certificate, z.g.trust.Bundle(), authorize, identity.TLSOptions{}))
	if err != nil {
		z.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(z.t.Context())
	stream, err := federationpb.NewFederationClient(cc).Session(ctx)
	if err != nil {
		z.t.Fatal(err)
	}
	return stream, cancel
}

func (z *zone) connect() *running {
	z.t.Helper()
	stream, cancel := z.open()
	ctx := z.t.Context()
	down, err := fedstore.Cursor(ctx, z.store, "global")
	if err != nil {
		z.t.Fatal(err)
	}
	head, err := z.store.Head(ctx)
	if err != nil {
		z.t.Fatal(err)
	}
	z.mu.Lock()
	var heads []*federationpb.StatementHead
	for _, st := range z.heard {
		heads = append(heads, federation.HeadOf(st))
	}
	z.mu.Unlock()
	r := &running{cancel: cancel, done: make(chan struct{}), recv: &countingStream{Stream: stream}}
	s := federation.NewZoneSession(federation.ZoneConfig{
		Zone: z.name, Incarnation: z.incarnation, Version: "test", Down: down, UpHead: head, Heads: heads, Statuses: z.book,
	})
	r.link = federation.NewZoneLink(s, z)
	go func() {
		defer close(r.done)
		r.err = r.link.Run(z.t.Context(), r.recv) // not the stream's own context: it ends before its error is read
		cancel()
	}()
	z.t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

func (r *running) disconnect() {
	r.cancel()
	<-r.done
}

func (z *zone) Follow(ctx context.Context, from mesh.Cursor) (federation.Log, error) {
	return fedstore.Follow(ctx, z.store, from, false)
}

func (z *zone) Snapshot(ctx context.Context, begin func(mesh.Cursor), add func([]mesh.Resource) error) error {
	return fedstore.Snapshot(ctx, z.store, mesh.Origin(z.name), begin, add)
}

func (z *zone) Apply(ctx context.Context, b federation.Batch) ([]federation.Refusal, error) {
	a := fedstore.Applier{Store: z.store, Origin: mesh.OriginGlobal, Peer: "global", Actor: "global", Check: z.check}
	return a.Apply(ctx, b)
}

func (z *zone) Statement(_ context.Context, st *federationpb.Statement) (string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.heard[federation.SubjectOf(st)] = st
	return "", nil
}

func (z *zone) Status(context.Context, *federationpb.StatusReport) error { return nil }

func (z *zone) Handle(_ context.Context, e federation.Effect) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.events = append(z.events, e)
	return nil
}

func (z *zone) heardOf(zone, kind, subject string) *federationpb.Statement {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.heard[federation.Subject{Zone: zone, Kind: kind, Subject: subject}]
}

// answered is what global said to a statement, nil for nothing yet.
func (z *zone) answered(st *federationpb.Statement) *federationpb.StatementAck {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, e := range z.events {
		if a, ok := e.(federation.StatementAnswered); ok && a.Ack.GetKind() == st.GetKind() && a.Ack.GetSequence() == st.GetSequence() {
			return a.Ack
		}
	}
	return nil
}

func (z *zone) has(k mesh.Key) bool {
	_, err := z.store.Get(z.t.Context(), k)
	return err == nil
}

// eventually polls for a fact.
func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}
