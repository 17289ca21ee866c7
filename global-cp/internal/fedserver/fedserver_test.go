package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

func twoZones(t *testing.T) (*global, *zone, *zone) {
	t.Helper()
	g := newGlobal(t)
	g.addZone("east", "shop")
	g.addZone("west", "shop")
	e, w := newZone(t, g, "east"), newZone(t, g, "west")
	e.join()
	w.join()
	return g, e, w
}

var route = func(name string) mesh.Key {
	return mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: name}
}

func TestResourcesGoDownInScopeAndComeUp(t *testing.T) {
	g, e, w := twoZones(t)
	re, _ := e.connect(), w.connect()
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "all", map[string]any{}),
		resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "west-only", map[string]any{}, mesh.AnnotationZones, "west"))
	eventually(t, "both have the wide one", func() bool { return e.has(route("all")) && w.has(route("all")) })
	eventually(t, "west has the narrow one", func() bool { return w.has(route("west-only")) })
	if e.has(route("west-only")) {
		t.Error("east has what is for west")
	}

	// Leaving the scope is an explicit deletion in that zone only.
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "all", map[string]any{}, mesh.AnnotationZones, "west"))
	eventually(t, "east lost it", func() bool { return !e.has(route("all")) })
	if !w.has(route("all")) {
		t.Error("west lost what it still should have")
	}

	// Up: seen at global with the zone's origin, not in the other zone.
	own := resource(mesh.KindService, "east", "shop", "web", map[string]any{})
	if _, err := e.store.Apply(t.Context(), store.Batch{Writes: []store.Write{own}, Actor: "user:e", Source: "api"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "global has the zone's own", func() bool {
		_, err := g.store.Get(t.Context(), own.Resource.Key)
		return err == nil
	})
	if w.has(own.Resource.Key) {
		t.Error("west has east's own resource")
	}
	// A zone may not export from a namespace that it may not speak for; nor make zones.
	for _, bad := range []store.Write{
		resource(mesh.KindServiceExport, "east", "bank", "ledger", map[string]any{}),
		resource(mesh.KindZone, "east", "", "evil", map[string]any{}),
	} {
		if _, err := e.store.Apply(t.Context(), store.Batch{Writes: []store.Write{bad}, Actor: "user:e", Source: "api"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "refused with a reason", func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, ev := range e.events {
				if r, ok := ev.(federation.Refused); ok && r.Refusal.Key == bad.Resource.Key {
					return r.Refusal.Code == federation.CodeNotAllowed
				}
			}
			return false
		})
	}
	select {
	case <-re.done:
		t.Fatalf("the session ended: %v", re.err)
	default:
	}
}

func TestOneRefusedResourceIsRefusedAlone(t *testing.T) {
	g := newGlobal(t)
	g.addZone("east")
	e := newZone(t, g, "east")
	e.check = func(r mesh.Resource) *federation.Refusal {
		if strings.Contains(string(r.Spec), "bad") {
			return &federation.Refusal{Key: r.Key, Revision: r.Changed, Code: federation.CodeInvalid, Reason: "it says bad"}
		}
		return nil
	}
	e.join()
	e.connect()
	status := func(name string) (v mesh.ResourceStatus) {
		rec, err := g.store.GetRecord(t.Context(), BucketOf("status", "east"), route(name).String())
		if err == nil {
			err = json.Unmarshal(rec.Value, &v)
		}
		if err != nil {
			return mesh.ResourceStatus{}
		}
		return v
	}
	first := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{"v": "good"}))
	eventually(t, "applied", func() bool { return e.has(route("x")) })
	e.book.Set(federation.BucketStatus, route("x").String(), []byte(fmt.Sprintf(`{"wanted":%d,"applied":%d,"state":"Applied","zone":"west"}`, first, first)))
	eventually(t, "the zone's word about it", func() bool { s := status("x"); return s.Applied == first && s.Zone == "east" })
	second := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{"v": "bad"}),
		resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "y", map[string]any{"v": "good"}))
	eventually(t, "one refused, one applied", func() bool {
		return status("x").State == mesh.StateRejected && e.has(route("y"))
	})
	if s := status("x"); s.Applied != first || s.Wanted != second || !strings.Contains(s.Message, "it says bad") {
		t.Errorf("status of the refused one: %+v", s)
	}
	if r, err := e.store.Get(t.Context(), route("x")); err != nil || strings.Contains(string(r.Spec), "bad") {
		t.Errorf("the last good one is not in force: %s, %v", r.Spec, err)
	}
	third := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{"v": "mended"}))
	eventually(t, "mended", func() bool {
		s := status("x")
		return s.State == mesh.StatePending && s.Wanted == third && s.Message == ""
	})
}

func TestNothingIsSentAgain(t *testing.T) {
	g, e, w := twoZones(t)
	re := e.connect()
	rw := w.connect()
	for range 50 {
		g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "r"+random128(t), map[string]any{"pad": strings.Repeat("x", 500)}))
	}
	last := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "last", map[string]any{}))
	e.book.Set(federation.BucketProxies, "sidecar~shop~web-1", []byte(`{"connected":true}`))
	st := e.export("shop", "web")
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	zoneStatus := func() (z mesh.ZoneStatus) {
		rec, err := g.store.GetRecord(t.Context(), BucketZones, "east")
		if err == nil {
			err = json.Unmarshal(rec.Value, &z)
		}
		if err != nil {
			return mesh.ZoneStatus{}
		}
		return z
	}
	eventually(t, "east has it all", func() bool { return zoneStatus().Acked == last && zoneStatus().ProxiesConnected == 1 })
	eventually(t, "west has heard of the export", func() bool { return w.heardOf("east", "export", "shop/web") != nil })
	if z := zoneStatus(); !z.Connected || z.SentBytes < 25_000 || z.Wanted != last {
		t.Errorf("status of east: %+v", z)
	}

	g.restart()
	<-re.done
	<-rw.done
	eventually(t, "shown as away", func() bool { return !zoneStatus().Connected })
	re = e.connect()
	rw = w.connect()
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	rev := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "after", map[string]any{}))
	eventually(t, "east has the change", func() bool { return zoneStatus().Acked == rev })
	eventually(t, "west has the change", func() bool { return w.has(route("after")) })
	down, up := re.recv.counts()
	t.Logf("after the restart: %d bytes down, %d bytes up", down, up)
	if down > 300 || up > 0 {
		t.Errorf("after a restart with one change of some 100 bytes: %d bytes down, %d up", down, up)
	}
	if d, _ := rw.recv.counts(); d > 300 {
		t.Errorf("west was told again: %d bytes", d)
	}
	if z := zoneStatus(); z.SentBytes > 300 {
		t.Errorf("sent bytes shown: %d", z.SentBytes)
	}
}

func TestSnapshotAfterCompaction(t *testing.T) {
	g, e, _ := twoZones(t)
	r := e.connect()
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "keep", map[string]any{}),
		resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "drop", map[string]any{}))
	eventually(t, "east has both", func() bool { return e.has(route("keep")) && e.has(route("drop")) })
	r.disconnect()
	g.apply(store.Write{Resource: mesh.Resource{Key: route("drop")}, Delete: true})
	last := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "new", map[string]any{}))
	if err := g.store.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	e.connect()
	eventually(t, "east is as global is", func() bool { return e.has(route("keep")) && e.has(route("new")) && !e.has(route("drop")) })
}

func TestTokenIsUsedOnce(t *testing.T) {
	g := newGlobal(t)
	g.addZone("east")
	tok := g.token("east", 0)
	// 50 zones with the same name and different keys at once: one gets in.
	zones := make([]*zone, 50)
	first := newZone(t, g, "east")
	for i := range zones {
		z := first.twin()
		z.incarnation = mesh.Incarnation(random128(t))
		var err error
		if z.key, err = identity.NewKey(); err != nil {
			t.Fatal(err)
		}
		zones[i] = z
	}
	var in, refused atomic.Int32
	var wg sync.WaitGroup
	for _, z := range zones {
		wg.Go(func() {
			switch _, err := z.tryJoin(tok); status.Code(err) {
			case codes.OK:
				in.Add(1)
			case codes.PermissionDenied:
				refused.Add(1)
			default:
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 || refused.Load() != 49 {
		t.Errorf("%d joined, %d refused", in.Load(), refused.Load())
	}
	for _, z := range zones {
		if z.cert == nil {
			continue
		}
		// The same key again resumes; its certificate works.
		resp, err := z.tryJoin(tok)
		if err != nil || !resp.GetResumed() {
			t.Errorf("resuming: %v, %v", resp.GetResumed(), err)
		}
	}
	log := g.log.String()
	if strings.Count(log, "reason=token-used") != 49 {
		t.Error("the refusals are not in the log")
	}
	if text, err := tok.Text(); err != nil || strings.Contains(log, text[20:]) {
		t.Error("the log holds a token")
	}
}

func TestJoinRefuses(t *testing.T) {
	g, _, _ := twoZones(t)
	g.addZone("north")
	g.addZone("south")
	n := newZone(t, g, "north")
	expect := func(what string, tok identity.JoinToken, code codes.Code, edit ...func(*federationpb.JoinRequest)) {
		t.Helper()
		if _, err := n.tryJoin(tok, edit...); status.Code(err) != code {
			t.Errorf("%s: %v, not %s", what, err, code)
		}
	}
	south := g.token("south", 0)
	expect("a token of another zone", south, codes.PermissionDenied)
	tok := g.token("north", 0)
	unknown := tok
	unknown.ID = "00112233445566ff"
	expect("an unknown token", unknown, codes.Unauthenticated)
	forged := tok
	forged.Secret = south.Secret
	expect("a token with another secret", forged, codes.Unauthenticated)
	expect("another zone's trust domain", tok, codes.AlreadyExists, func(r *federationpb.JoinRequest) { r.TrustDomain = "east.test.example" })
	expect("a look-alike", tok, codes.AlreadyExists, func(r *federationpb.JoinRequest) { r.TrustDomain = "east-test.example" })
	expect("a child", tok, codes.AlreadyExists, func(r *federationpb.JoinRequest) { r.TrustDomain = "a.east.test.example" })
	expect("global's", tok, codes.AlreadyExists, func(r *federationpb.JoinRequest) { r.TrustDomain = globalTD })
	expect("upper case", tok, codes.InvalidArgument, func(r *federationpb.JoinRequest) { r.Zone = "NORTH" })
	expect("a malformed incarnation", tok, codes.InvalidArgument, func(r *federationpb.JoinRequest) { r.Incarnation = "x" })
	expect("an old protocol", tok, codes.FailedPrecondition, func(r *federationpb.JoinRequest) { r.Protocol = 0 })
	expect("another zone's bundle", tok, codes.InvalidArgument, func(r *federationpb.JoinRequest) { r.Bundle.Zone = "east" })
	expect("an altered bundle", tok, codes.InvalidArgument, func(r *federationpb.JoinRequest) { r.Bundle.Sequence++ })
	if err := g.server.RevokeToken(t.Context(), "north", tok.ID); err != nil {
		t.Fatal(err)
	}
	expect("a revoked token", tok, codes.Unauthenticated)

	late := g.token("north", time.Second)
	g.ahead.Store(int64(time.Minute))
	expect("an expired token", late, codes.PermissionDenied)
	g.ahead.Store(0)
	// None of the refusals used south's token up.
	s := newZone(t, g, "south")
	if _, err := s.tryJoin(south); err != nil {
		t.Errorf("the token that another zone tried: %v", err)
	}
	if n := g.counter("comity_federation_joins_total", map[string]string{"outcome": "refused"}); n != 14 {
		t.Errorf("%v refusals counted", n)
	}
}

func TestStatementsOfOthersAreRefused(t *testing.T) {
	_, e, w := twoZones(t)
	re := e.connect()
	w.connect()
	good := e.export("shop", "web")
	for name, st := range map[string]*federationpb.Statement{
		"another zone's":                w.export("shop", "web"),
		"unsigned":                      func() *federationpb.Statement { s := e.export("shop", "a"); s.Signature = nil; return s }(),
		"altered":                       func() *federationpb.Statement { s := e.export("shop", "b"); s.Payload[20] ^= 1; return s }(),
		"a namespace not its own":       e.export("bank", "ledger"),
		"another trust domain":          e.say("export", "shop/c", mesh.Export{Namespace: "shop", Service: "c"}, func(s *identity.Statement) { s.TrustDomain = w.td }),
		"an identity of another domain": e.say("export", "shop/d", mesh.Export{Namespace: "shop", Service: "d", Identities: []string{w.td.WorkloadID("shop", "d")}}),
		"another incarnation":           e.say("export", "shop/e", mesh.Export{Namespace: "shop", Service: "e"}, func(s *identity.Statement) { s.Incarnation = w.incarnation }),
		"another zone's bundle":         e.say("bundle", string(w.td), []byte(`{"keys":[]}`), func(s *identity.Statement) { s.TrustDomain = w.td }),
		"a bundle without continuity": func() *federationpb.Statement {
			z := e.twin() // a thief with another authority
			z.newCA()
			z.sequence = 1000
			return z.bundle()
		}(),
		"an unknown kind": e.say("gossip", "x", map[string]any{}),
	} {
		t.Run(name, func(t *testing.T) {
			re.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
			eventually(t, "an answer", func() bool { return e.answered(st) != nil })
			if a := e.answered(st); a.GetRefused() == "" {
				t.Error("it was kept")
			}
			if heard := w.heardOf(st.GetZone(), st.GetKind(), st.GetSubject()); heard != nil && heard.GetSequence() == st.GetSequence() {
				t.Error("it was relayed")
			}
		})
	}
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(good) })
	eventually(t, "the zone's own is relayed as signed", func() bool {
		h := w.heardOf("east", "export", "shop/web")
		return h != nil && string(h.GetSignature()) == string(good.GetSignature())
	})
	// Older ones of the same subject change nothing; withdrawal is relayed and kept.
	gone := e.say("export", "shop/web", nil, func(s *identity.Statement) { s.Withdrawn = true })
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(gone) })
	eventually(t, "the withdrawal is relayed", func() bool { return w.heardOf("east", "export", "shop/web").GetWithdrawn() })
	if w.heardOf("east", "bundle", string(e.td)) == nil {
		t.Error("the bundle of the join was not relayed")
	}
}

func TestRemovedZoneDoesNotComeBack(t *testing.T) {
	g, e, w := twoZones(t)
	re, rw := e.connect(), w.connect()
	st := e.export("shop", "web")
	re.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	eventually(t, "heard", func() bool { return w.heardOf("east", "export", "shop/web") != nil })
	unused := g.token("east", 0)

	g.apply(store.Write{Resource: mesh.Resource{Key: zoneKey("east")}, Delete: true})
	eventually(t, "the session ends", func() bool {
		select {
		case <-re.done:
			return true
		default:
			return false
		}
	})
	if re.err == nil || !strings.Contains(re.err.Error(), federation.ByeRevoked) {
		t.Errorf("the zone was told: %v", re.err)
	}
	eventually(t, "west knows", func() bool { return !w.has(zoneKey("east")) })
	eventually(t, "nothing of it is left", func() bool {
		recs, _, err := g.store.ListRecords(t.Context(), "statements/east", "")
		_, zerr := g.store.GetRecord(t.Context(), BucketZones, "east")
		tokens, terr := g.server.Tokens(t.Context(), "east")
		return err == nil && terr == nil && len(recs) == 0 && zerr != nil && len(tokens) == 0
	})

	refused := func(what string) {
		t.Helper()
		r := e.connect()
		<-r.done
		if c := status.Code(r.err); c != codes.PermissionDenied {
			t.Errorf("%s: %v", what, r.err)
		}
	}
	refused("with a certificate that still holds")
	if _, err := e.tryJoin(unused); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token of before: %v", err)
	}
	g.addZone("east", "shop")
	refused("after a zone of that name was made anew")
	if _, err := e.tryJoin(g.token("east", 0)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the same life with a new token: %v", err)
	}
	again := newZone(t, g, "east")
	again.join()
	ra := again.connect()
	eventually(t, "the new life is connected", func() bool { return again.has(zoneKey("east")) })
	ra.link.Do(func(s *federation.ZoneSession) { s.Offer(st) }) // replay of the old life's word
	eventually(t, "the old life's word is refused", func() bool { return again.answered(st).GetRefused() != "" })
	select {
	case <-rw.done:
		t.Errorf("west's session ended: %v", rw.err)
	default:
	}
}

func TestNewerSessionFencesTheOlder(t *testing.T) {
	g := newGlobal(t)
	g.addZone("east")
	e := newZone(t, g, "east")
	e.join()
	first := e.connect()
	eventually(t, "connected", func() bool { return e.has(zoneKey("east")) })
	second := e.connect()
	<-first.done
	if first.err == nil || !strings.Contains(first.err.Error(), federation.ByeFenced) {
		t.Errorf("the older session ended by %v", first.err)
	}
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{}))
	eventually(t, "the newer works", func() bool { return e.has(route("x")) })
	second.disconnect()
}

func TestRenewal(t *testing.T) {
	g := newGlobal(t)
	g.addZone("east")
	e := newZone(t, g, "east")
	e.join()
	old := e.cert
	renew := func(by *zone, incarnation string) error { return e.renew(by.key, incarnation) }
	if err := renew(newZone(t, g, "east"), string(e.incarnation)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("by another key: %v", err)
	}
	if err := renew(e, random128(t)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("for another incarnation: %v", err)
	}
	if err := renew(e, string(e.incarnation)); err != nil {
		t.Fatal(err)
	}
	// The answer may have been lost: the certificate before works until the newest was seen, then never.
	renewed := e.cert
	e.cert = old
	r := e.connect()
	eventually(t, "the old one works", func() bool { return e.has(zoneKey("east")) })
	r.disconnect()
	e.cert = renewed
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{}))
	r = e.connect()
	eventually(t, "the new one works", func() bool { return e.has(route("x")) })
	r.disconnect()
	e.cert = old
	r = e.connect()
	<-r.done
	if status.Code(r.err) != codes.PermissionDenied {
		t.Errorf("the old one after the new one: %v", r.err)
	}
}

func TestHostileBytes(t *testing.T) {
	g := newGlobal(t)
	g.addZone("east")
	e := newZone(t, g, "east")
	e.join()
	good := e.connect()
	eventually(t, "connected", func() bool { return e.has(zoneKey("east")) })
	before := g.counter("comity_federation_refused_connections_total", nil)
	for _, bytes := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", strings.Repeat("\xff\x00", 5000), "\x16\x03\x01\x40\x00" + strings.Repeat("a", 100)} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", g.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(bytes)) // the other side may close first
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.CloseWrite()
		}
		if err := c.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		for err == nil {
			_, err = c.Read(buf)
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Error("the connection stayed open")
		}
		_ = c.Close()
	}
	eventually(t, "counted", func() bool { return g.counter("comity_federation_refused_connections_total", nil) >= before+3 })

	// A zone that breaks the protocol is told so, and only its session ends.
	for _, f := range []*federationpb.ZoneFrame{
		{}, {Frame: &federationpb.ZoneFrame_Ack{Ack: &federationpb.Ack{}}},
		{Frame: &federationpb.ZoneFrame_Changes{Changes: &federationpb.Changes{From: 1 << 62, Revision: 1<<62 + 1}}},
	} {
		stream, cancel := e.open()
		hello := &federationpb.ZoneHello{Protocol: 1, Zone: "east", Incarnation: string(e.incarnation), UpHead: &federationpb.Cursor{Incarnation: "x", Revision: 1}}
		if err := stream.Send(&federationpb.ZoneFrame{Frame: &federationpb.ZoneFrame_Hello{Hello: hello}}); err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(f); err != nil {
			t.Fatal(err)
		}
		told := false
		for {
			r, err := stream.Recv()
			if err != nil {
				break
			}
			told = told || r.GetBye().GetCode() == federation.ByeProtocol
		}
		if !told {
			t.Errorf("no goodbye after %v", f)
		}
		cancel()
	}
	<-good.done // fenced by the hostile session of the same zone, which had its certificate
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := e.connect()
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "x", map[string]any{}))
	eventually(t, "the server is well", func() bool { return e.has(route("x")) && ctx.Err() == nil })
	r.disconnect()
}
