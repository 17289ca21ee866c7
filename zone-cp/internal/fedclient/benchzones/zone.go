package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/fedclient"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

// zone is one zone without proxies.
type zone struct {
	name        string
	dir         string
	trustDomain mesh.TrustDomain
	incarnation mesh.Incarnation
	store       *sqlitestore.Store
	authority   *ca.CA
	book        *imports.Book
	ledger      *exports.Ledger
	credential  *fedclient.Credential
	statuses    *federation.StatusBook
	held        held
	log         *slog.Logger

	stopFollowing context.CancelFunc
	following     sync.WaitGroup

	fed     *fedclient.Client
	stop    context.CancelFunc
	running sync.WaitGroup
}

// open makes a zone, and what it says to the others.
func open(ctx context.Context, parent, name string, services, proxies int) (z *zone, err error) {
	z = &zone{
		name: name, dir: filepath.Join(parent, name), trustDomain: mesh.TrustDomain(name + ".bench.example"), incarnation: mesh.Incarnation(random()),
		statuses: federation.NewStatusBook(random()), held: held{moved: make(chan struct{})},
		log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	if err := os.MkdirAll(z.dir, 0o700); err != nil {
		return nil, err
	}
	if z.store, err = sqlitestore.Open(ctx, filepath.Join(z.dir, "zone.db"), sqlitestore.Options{}); err != nil {
		return nil, err
	}
	z.authority, err = ca.Open(ca.Config{
		Zone: name, TrustDomain: z.trustDomain, Dir: filepath.Join(z.dir, "ca"), KEKFile: filepath.Join(z.dir, "kek"), Records: z.store, Log: z.log,
	})
	if err != nil {
		return nil, err
	}
	bundle, err := z.authority.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	if z.book, err = imports.Open(ctx, z.store, name, bundle, time.Now()); err != nil {
		return nil, err
	}
	if z.ledger, err = exports.OpenLedger(ctx, z.store, name, z.trustDomain, z.incarnation, z.authority.StatementSigner()); err != nil {
		return nil, err
	}
	sealer, err := identity.OpenSealer(filepath.Join(z.dir, "kek"))
	if err != nil {
		return nil, err
	}
	if z.credential, err = fedclient.OpenCredential(z.dir, name, sealer); err != nil {
		return nil, err
	}
	if err := z.speak(ctx, bundle, services); err != nil {
		return nil, err
	}
	z.reportProxies(proxies)
	return z, z.follow()
}

// speak makes the zone's statements: its bundle, an ingress and some services.
func (z *zone) speak(ctx context.Context, bundle identity.Bundle, services int) error {
	in := exports.Input{
		Bundle: bundle, Zone: &policy.Zone{Namespaces: []string{"*"}},
		Ingresses: []discovery.Ingress{{Advertised: mesh.Ingress{ID: "main", Host: "192.0.2.1", Ports: []uint16{15443}}, Ready: true}},
	}
	for i := range services {
		in.Exports = append(in.Exports, mesh.Export{
			Namespace: "shop", Service: fmt.Sprintf("service-%d", i), Ports: []mesh.ExportPort{{Port: 8080, AppProtocol: "http"}},
			Identities: []string{z.trustDomain.WorkloadID("shop", "app")}, Ready: 3, Total: 3, Capacity: 3, ReadyCapacity: 3,
		})
	}
	claims, _, err := exports.Compute(in)
	if err != nil {
		return err
	}
	_, err = z.ledger.Set(ctx, claims, time.Now())
	return err
}

func (z *zone) reportProxies(n int) {
	for i := range n {
		id := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: fmt.Sprintf("app-%d", i)}
		z.set(federation.BucketProxies, id.String(), mesh.ProxyStatus{
			Proxy: id, Zone: z.name, Connected: true, Healthy: true, Identity: z.trustDomain.WorkloadID("shop", "app"), Version: "1.40.0", ObservedAt: time.Now().UTC(),
		})
	}
}

func (z *zone) set(bucket, key string, v any) {
	if value, err := json.Marshal(v); err == nil {
		z.statuses.Set(bucket, key, value)
	}
}

// follow reports what comes from global as applied, as a publisher does of which no proxy is concerned.
func (z *zone) follow() error {
	ctx, cancel := context.WithCancel(context.Background())
	z.stopFollowing = cancel
	w, err := z.store.Watch(ctx, mesh.Cursor{})
	if err != nil {
		return err
	}
	z.following.Go(func() {
		defer w.Close()
		for {
			c, err := w.Next(ctx)
			if err != nil {
				return
			}
			now := time.Now()
			z.statuses.Together(func() { z.report(c, now.UTC()) })
			z.held.reach(c, now)
		}
	})
	return nil
}

func (z *zone) report(c store.Commit, now time.Time) {
	changes := map[mesh.Revision]int{}
	for _, ch := range c.Changes {
		if ch.Resource.Origin == mesh.OriginGlobal {
			changes[ch.Resource.Changed]++
		}
	}
	for revision, n := range changes {
		z.set(federation.BucketRevisions, mesh.RevisionSlot(mesh.OriginGlobal, revision), mesh.RevisionStatus{
			Zone: z.name, Origin: mesh.OriginGlobal, Revision: revision, Changes: n, State: mesh.StateApplied, Done: true, ObservedAt: now,
		})
	}
	for _, ch := range c.Changes {
		r := ch.Resource
		if r.Origin != mesh.OriginGlobal {
			continue
		}
		if ch.Deleted {
			z.statuses.Set(federation.BucketStatus, r.Key.String(), nil)
			continue
		}
		z.set(federation.BucketStatus, r.Key.String(), mesh.ResourceStatus{
			Zone: z.name, Wanted: r.Changed, Applied: r.Changed, State: mesh.StateApplied, ObservedAt: now,
		})
	}
}

// client makes the federation client; an empty address means what the token says.
func (z *zone) client(address string) *fedclient.Client {
	var endpoints []string
	if address != "" {
		endpoints = []string{address}
	}
	return fedclient.New(fedclient.Config{
		Turned: func() {},
		Zone:   z.name, TrustDomain: z.trustDomain, Incarnation: z.incarnation, Endpoints: endpoints, Store: z.store, Book: z.book, Statuses: z.statuses,
		Statements: z.ledger.All, BundleStatement: z.bundle, Refused: func(federation.Refusal) {}, Log: z.log,
	}, z.credential)
}

func (z *zone) bundle(context.Context) (identity.Statement, error) {
	for _, s := range z.ledger.All() {
		if s.Kind == identity.KindBundle {
			return s, nil
		}
	}
	return identity.Statement{}, errors.New("no bundle")
}

// begin holds a session with global until end.
func (z *zone) begin(address string) {
	ctx, cancel := context.WithCancel(context.Background())
	z.fed, z.stop = z.client(address), cancel
	z.running.Go(func() { _ = z.fed.Run(ctx) })
}

func (z *zone) end() {
	if z.stop != nil {
		z.stop()
		z.running.Wait()
	}
}

func (z *zone) close() {
	z.end()
	z.stopFollowing()
	z.following.Wait()
	_ = z.authority.Close()
	_ = z.store.Close()
}

// held is how far global's log is in a zone's store.
type held struct {
	mu    sync.Mutex
	at    map[mesh.Revision]time.Time
	moved chan struct{} // closed and replaced when at grows
}

func (h *held) reach(c store.Commit, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[mesh.Revision]time.Time{}
	}
	for _, ch := range c.Changes {
		if ch.Resource.Origin == mesh.OriginGlobal {
			h.at[ch.Resource.Changed] = now
		}
	}
	close(h.moved)
	h.moved = make(chan struct{})
}

// wait returns when the revision came.
func (h *held) wait(ctx context.Context, revision mesh.Revision) (time.Time, error) {
	for {
		h.mu.Lock()
		at, ok := h.at[revision]
		moved := h.moved
		h.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("waiting for revision %d: %w", revision, ctx.Err())
		}
	}
}

func random() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
