package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
)

// The end of the story: a zone that is taken out with care, and one that is thrown out.

// checkDrain is step 11.
func (d *Demo) checkDrain(ctx context.Context) ([]string, error) {
	const over = 3 * time.Second
	before, err := d.orders(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := d.underLoad(ctx, asker, func(l *load) (facts []string, err error) {
		_, err = d.global.DrainZone(ctx, standby, client.DrainRequest{Reason: "comity demo --check"})
		if fault.ExitCode(err) != fault.ExitConflict {
			return nil, fmt.Errorf("a drain of %s, without which carts are nowhere: %w, want a refusal", standby, err)
		}
		facts = append(facts, fmt.Sprintf("drain of %s is refused: %v", standby, err))
		begin := time.Now()
		if _, err := d.global.DrainZone(ctx, home, client.DrainRequest{Over: over.String(), Reason: "comity demo --check"}); err != nil {
			return facts, err
		}
		undrain := func() error {
			_, err := d.global.UndrainZone(ctx, home, "comity demo --check")
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, undrain())
			}
		}()
		var progress []string
		err = poll(ctx, patience, func() (bool, error) {
			now, err := d.global.ZoneDrain(ctx, home)
			if err != nil {
				return false, err
			}
			share := 0.0
			for _, z := range now.Zones {
				share = max(share, z.Share)
			}
			if step := fmt.Sprintf("%.0f %%", share*100); len(progress) == 0 || progress[len(progress)-1] != step {
				progress = append(progress, step)
			}
			return now.Done, nil
		})
		if err != nil {
			return facts, fmt.Errorf("drain of %s: %w (its share was %s)", home, err, strings.Join(progress, ", "))
		}
		facts = append(facts, fmt.Sprintf("drain of %s over %s: done after %.1f s; the largest share of a service that still went there: %s", home, over, time.Since(begin).Seconds(), sample(progress, 8)))
		if _, err := l.settle(ctx, begin, standby); err != nil {
			return facts, err
		}
		if err := undrain(); err != nil {
			return facts, err
		}
		undrained := time.Now()
		back, err := l.settle(ctx, undrained, home)
		if err != nil {
			return facts, err
		}
		return append(facts, fmt.Sprintf("undrained: all answered by %s again %.1f s later", home, back.Sub(undrained).Seconds())), nil
	})
	lost, ordersErr := d.ordersSince(ctx, before)
	return append(facts, lost), errors.Join(err, ordersErr)
}

// sample keeps at most n of a list, first and last among them.
func sample(list []string, n int) string {
	if len(list) > n {
		var out []string
		for i := range n {
			out = append(out, list[i*(len(list)-1)/(n-1)])
		}
		list = out
	}
	return strings.Join(list, ", ")
}

// ends is how long after a revocation the last connection may live.
const ends = 5 * time.Second

// checkRevocation is step 12, and the last: the zone does not come back.
func (d *Demo) checkRevocation(ctx context.Context) ([]string, error) {
	const zone, other = "gcp-west", "cart-a1"
	return d.underLoad(ctx, other, func(*load) ([]string, error) {
		var doomed, others []*talk
		for _, t := range []struct {
			list     *[]*talk
			from, to string // zones
			workload string
			host     string // whose feed; "" for the journal
		}{
			{&doomed, zone, home, asker, ledgerOnPrem},
			{&doomed, zone, home, asker, ""},
			{&doomed, standby, zone, "shopper-a", "web.shop." + zone + ".mesh"},
			{&others, standby, home, other, ledgerOnPrem},
			{&others, standby, home, other, ""},
		} {
			what, open := "TCP", func() (net.Conn, error) { return d.journal(ctx, t.workload) }
			if t.host != "" {
				what, open = "HTTP", func() (net.Conn, error) { return d.feed(ctx, t.workload, t.host) }
			}
			what += " from " + t.from + " to " + t.to
			c, err := open()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			defer c.Close()
			*t.list = append(*t.list, talkOn(what, c, t.host == ""))
		}
		before, err := d.shopper(ctx, d.shoppers()[0])
		if err != nil {
			return nil, err
		}

		call := time.Now()
		revoked, err := d.global.RevokeZone(ctx, zone, client.RevokeRequest{Reason: "comity demo --check"})
		if err != nil {
			return nil, err
		}
		begin := revoked.At // the answer comes when the zone's session has ended
		facts := []string{fmt.Sprintf("revocation of %s: committed as revision %d after %.1f ms, REST call %.1f ms; counted from the commit:", zone, revoked.Revision, ms(begin.Sub(call)), ms(time.Since(call)))}
		var errs []error
		for _, t := range doomed {
			took, err := t.awaitEnd(ctx, begin)
			if err == nil && took > ends {
				err = fmt.Errorf("it ended after %.2f s, later than %s", took.Seconds(), ends)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", t.what, err))
				continue
			}
			facts = append(facts, fmt.Sprintf("%s: the live connection ended after %.2f s", t.what, took.Seconds()))
		}
		confirmed, err := d.confirmed(ctx, zone, begin)
		facts = append(facts, confirmed...)
		errs = append(errs, err)
		c := &http.Client{Timeout: 5 * time.Second}
		if code, text, err := d.viaSidecar(ctx, c, asker, http.MethodGet, ledgerOnPrem, "/balance", ""); err == nil && code == http.StatusOK {
			errs = append(errs, fmt.Errorf("a workload of the revoked zone still gets an answer from %s: %s", home, text))
		}
		for _, t := range others {
			if at, ended := t.ended(); ended {
				errs = append(errs, fmt.Errorf("%s was cut after %.2f s, and nobody had revoked it", t.what, at.Sub(begin).Seconds()))
				continue
			}
			facts = append(facts, t.what+": the live connection goes on")
		}
		after, err := d.shopper(ctx, d.shoppers()[0])
		errs = append(errs, err)
		// They were paid in the zone until now.
		facts = append(facts, fmt.Sprintf("orders in %s, where some were just being paid in %s: %d, of which %d failed", standby, zone, after.Sent-before.Sent, after.Failed-before.Failed))
		return facts, errors.Join(errs...)
	})
}

// confirmed waits until every other zone has confirmed a revocation, and says who did when.
func (d *Demo) confirmed(ctx context.Context, zone string, since time.Time) ([]string, error) {
	var last client.Revocation
	err := poll(ctx, patience, func() (bool, error) {
		var err error
		last, err = d.global.ZoneRevocation(ctx, zone)
		return last.Done, err
	})
	var facts []string
	for _, z := range last.Zones {
		if z.Confirmed {
			facts = append(facts, fmt.Sprintf("%s has confirmed for %d of %d proxies after %.2f s", z.Zone, z.Acked, z.Total, z.At.Sub(since).Seconds()))
		}
	}
	if err != nil {
		err = fmt.Errorf("not every zone confirms the revocation: %w", err)
	}
	return facts, err
}

// feed asks a service for its feed through a workload's sidecar, and returns the connection once it is answered.
func (d *Demo) feed(ctx context.Context, workload, host string) (net.Conn, error) {
	c, err := dial(ctx, d.info(workload).Outbound)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "GET /feed HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	line, err := bufio.NewReaderSize(c, 16).ReadString(' ')
	if err == nil && !strings.HasPrefix(line, "HTTP/1.1 ") {
		err = fmt.Errorf("answered %q", line)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, c.SetDeadline(time.Time{}) // it lasts
}

// journal opens the ledger's journal through a workload's sidecar.
func (d *Demo) journal(ctx context.Context, workload string) (net.Conn, error) {
	up := d.info(workload).Upstreams
	if len(up) == 0 {
		return nil, fmt.Errorf("%s has no port for the journal", workload)
	}
	c, err := dial(ctx, addr("127.0.0.1", int(up[0].LocalPort)))
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Time{})
}

// talk is a live connection on which somebody speaks all the time.
type talk struct {
	what string
	over chan struct{} // closed at its end
	at   time.Time     // of its end
}

// talkOn listens until the connection ends. On one that speaks only when asked it asks, ten times a second.
func talkOn(what string, c net.Conn, asks bool) *talk {
	t := &talk{what: what, over: make(chan struct{})}
	go func() {
		defer close(t.over)
		in := bufio.NewReader(c)
		for {
			if _, err := in.ReadString('\n'); err != nil {
				t.at = time.Now()
				return
			}
		}
	}()
	if asks {
		go func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-t.over:
					return
				case <-tick.C:
					_, _ = io.WriteString(c, "still there?\n") // its end is noticed by who listens
				}
			}
		}()
	}
	return t
}

func (t *talk) ended() (time.Time, bool) {
	select {
	case <-t.over:
		return t.at, true
	default:
		return time.Time{}, false
	}
}

func (t *talk) awaitEnd(ctx context.Context, since time.Time) (time.Duration, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-t.over:
		return t.at.Sub(since), nil
	case <-limit.C:
		return 0, fmt.Errorf("the live connection has not ended after %s", patience)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
