package keys

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
)

func TestWhichAddressesAreAsked(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("192.168.1.7"), netip.MustParseAddr("fd12::7")}
	for text, asked := range map[string]bool{
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false,
		"169.254.169.254": false, "169.254.0.1": false, "::ffff:169.254.169.254": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "fd20:ce::254": false,
		"100.100.100.200": false, "168.63.129.16": false, "192.0.0.192": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"64:ff9b::a9fe:a9fe": false, "2002:a9fe:a9fe::1": false, "::7f00:1": false, "64:ff9b::808:808": true,
		"64:ff9b:1::a9fe:a9fe": false, "::ffff:0:169.254.169.254": false, "192.168.1.7": false, "::ffff:192.168.1.7": false, "64:ff9b::c0a8:107": false, "fd12::7": false,
		"10.0.0.1": true, "172.16.3.4": true, "192.168.1.1": true, "fd12:3456::1": true, "8.8.8.8": true, "2001:db8::1": true,
	} {
		if err := askable(netip.MustParseAddr(text), own, nil); (err == nil) != asked {
			t.Errorf("%s: %v", text, err)
		}
	}
	allow := []netip.Prefix{netip.MustParsePrefix("169.254.7.0/24"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("192.168.1.7/32")}
	for text, asked := range map[string]bool{"192.168.1.7": true, "fd12::7": false, "169.254.7.9": true, "169.254.169.254": false, "::1": true, "127.0.0.1": false} {
		if err := askable(netip.MustParseAddr(text), own, allow); (err == nil) != asked {
			t.Errorf("%s where some are allowed: %v", text, err)
		}
	}
}

// TestOwnAddresses: what listens on all addresses of the zone's machine is not reached by any of them.
func TestOwnAddresses(t *testing.T) {
	own, err := ownAddresses()
	if err != nil || !slices.Contains(own, netip.MustParseAddr("127.0.0.1")) {
		t.Fatalf("%v %v", own, err)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, at := range own {
		if at.IsLinkLocalUnicast() {
			continue // it needs a zone, and is refused anyway
		}
		if c, err := dialer(nil)(t.Context(), "tcp", netip.AddrPortFrom(at, uint16(l.Addr().(*net.TCPAddr).Port)).String()); err == nil {
			_ = c.Close()
			t.Errorf("%s is connected to", at)
		}
	}
}

// TestNamesOfForbiddenAddresses: not the name counts but what it means when it is connected to, and nobody there hears of it.
func TestNamesOfForbiddenAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{})
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
			close(heard)
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	records, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	f, err := New(t.Context(), Config{Records: records, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	k := policy.JWKS{URL: fmt.Sprintf("https://localhost:%d/keys", l.Addr().(*net.TCPAddr).Port)}
	got := until(t, f, k, "say why", func(k topology.Keys) bool { return k.Problem != "" })
	if !strings.Contains(got.Problem, "issuers.allow") {
		t.Errorf("%+v", got)
	}
	select {
	case <-heard:
		t.Error("it was connected to")
	default:
	}
}

// TestSourcesAreShared: one namespace that names many URLs leaves the others theirs, whatever the order.
func TestSourcesAreShared(t *testing.T) {
	url := func(format string, args ...any) policy.JWKS { return policy.JWKS{URL: fmt.Sprintf(format, args...)} }
	named := map[string][]policy.JWKS{"shop": {url("https://shop.example/keys")}, "zoo": {url("https://zoo.example/keys"), url("https://shop.example/keys")}}
	for n := range 2 * maxSources {
		named["greedy"] = append(named["greedy"], url("https://a%03d.example/keys", n))
	}
	got := fair(named)
	if len(got) != maxSources {
		t.Errorf("%d sources", len(got))
	}
	for _, want := range []string{"https://shop.example/keys", "https://zoo.example/keys"} {
		if _, ok := got[want]; !ok {
			t.Errorf("%s is crowded out", want)
		}
	}
}

// TestForgottenKeys: keys that no policy names end after a day, in the store too; those that are named stay.
func TestForgottenKeys(t *testing.T) {
	records, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	for _, url := range []string{"https://used.example", "https://left.example"} {
		if _, err := records.PutRecords(t.Context(), Bucket, store.RecordWrite{Key: url, Value: []byte(`{"jwks":"{}"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() string {
		list, _, err := records.ListRecords(t.Context(), Bucket, "")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range list {
			out = append(out, r.Key)
		}
		return strings.Join(out, " ")
	}
	f := open(t, records)
	later := time.Now().Add(forgetAfter + time.Minute)
	if f.forget(t.Context(), later); kept() != "https://left.example https://used.example" {
		t.Errorf("before any policy was read: %s", kept())
	}
	f.Want(map[string][]policy.JWKS{"shop": {{URL: "https://used.example"}}})
	if f.forget(t.Context(), time.Now()); kept() != "https://left.example https://used.example" {
		t.Errorf("soon: %s", kept())
	}
	if f.forget(t.Context(), later); kept() != "https://used.example" {
		t.Errorf("after a day: %s", kept())
	}
}
