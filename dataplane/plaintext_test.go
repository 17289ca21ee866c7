package dataplane

import (
	"fmt"
	"testing"
	"time"
)

// TestPlaintextIsKept: who speaks plaintext is known by address, over restarts of Envoy, and the zone is told at once of who is new and
// of the others seldom.
func TestPlaintextIsKept(t *testing.T) {
	p := newPlaintexts()
	now := time.Unix(1_700_000_000, 0)
	p.clock = func() time.Time { return now }
	const open = "listener.plaintext/pay.shop_8080.downstream_cx_total: 3\nlistener.inbound.downstream_cx_total: 9\n"
	count := func(source string, n int) string {
		return fmt.Sprintf("comity.plaintext.port.pay.shop:8080.source.%s: %d\n", source, n)
	}
	for i, c := range []struct {
		text     string
		after    time.Duration
		news     bool
		requests uint64
		callers  int
	}{
		{open, 0, true, 0, 0}, // a port is watched
		{open, time.Minute, false, 0, 0},
		{open + count("10.0.0.7", 2), time.Second, true, 2, 1}, // somebody new
		{open + count("10.0.0.7", 5), time.Second, false, 5, 1},
		{open + count("10.0.0.7", 6), plaintextNews, true, 6, 1},
		{open + count("10.0.0.7", 1), plaintextNews, true, 7, 1}, // of a new Envoy
		{open + count("10.0.0.7", 1), plaintextNews, false, 7, 1},
		{open + count("10.0.0.7", 1) + count("fd00::1", 1), 0, true, 8, 2},
	} {
		now = now.Add(c.after)
		if news := p.look(c.text); news != c.news {
			t.Errorf("step %d: news %v", i, news)
		}
		r := p.report()
		if len(r) != 1 || r[0].GetPort() != "pay.shop:8080" || r[0].GetRequests() != c.requests || len(r[0].GetCallers()) != c.callers {
			t.Errorf("step %d: %v", i, r)
		}
	}
	if first := p.report()[0].GetCallers()[0]; first.GetAddress() != "fd00::1" {
		t.Errorf("not the newest first: %v", first)
	}
	if !p.look("") || len(p.report()) != 0 {
		t.Error("a port that is strict now is still told of")
	}
	var many string
	for i := range maxPlaintextListed + 3 {
		many += count(fmt.Sprintf("10.1.0.%d", i), 1)
	}
	p.look(open + many)
	if r := p.report()[0]; len(r.GetCallers()) != maxPlaintextListed || r.GetOthers() != 3 {
		t.Errorf("%d callers and %d others", len(r.GetCallers()), r.GetOthers())
	}
}
