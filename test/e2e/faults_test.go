package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/openloop"
)

const (
	// rate is the load under which faults happen, in requests a second.
	rate = 200
	// slow is what a request takes only if something is wrong, on a busy machine too.
	slow = 300 * time.Millisecond
)

// estate is a mesh on a network: in east a caller, in west and north the same service, west being the nearer. Global is a
// site of its own, and in each zone the control plane, the ingress and the workload are hosts.
type estate struct {
	*network
	global *controlPlane
	zones  map[string]*member
	web    *workload
}

// member is a zone with its hosts.
type member struct {
	*zone
	site    string
	ingress *proxy
	entry   *host // of the ingress
	pay     *workload
	start   func()
}

const payPort = 9000

func newEstate(t testing.TB) *estate {
	t.Helper()
	e := &estate{network: newNetwork(t), zones: map[string]*member{}}
	e.global = startGlobalOn(t, e.host(1))
	e.global.apply(payService(payPort) + "---" + exportPay + "---" + allowAll)
	for i, z := range []struct{ name, place string }{
		{"east", "cloud: a, region: r1, "}, {"west", "cloud: a, region: r1, "}, {"north", "cloud: b, region: r2, "},
	} {
		m := &member{site: site(i + 2), zone: startZoneOn(t, e.host(i+2), z.name)}
		m.place = z.place
		m.joins(e.global, "shop")
		m.entry = e.host(i + 2)
		m.ingress = m.ingressOn(m.entry, "in1")
		e.zones[z.name] = m
		at := e.host(i + 2)
		if z.name == "east" {
			e.web = m.workloadOn(at, "web")
			continue
		}
		appOn(t, at, "pay@"+z.name+"@", payPort)
		m.pay = m.workloadOn(at, "pay")
	}
	e.settled(t)
	return e
}

// settled awaits that all is well: west serves.
func (e *estate) settled(t testing.TB) {
	t.Helper()
	good := 0
	await(t, "west serves", func() error {
		by, err := e.ask(t.Context())
		if err != nil || by != "west" {
			good = 0
			return fmt.Errorf("%s answers, %v", by, err)
		}
		if good++; good < 50 {
			return errors.New("not for long")
		}
		return nil
	})
}

// ask makes one request and says which zone answered.
func (e *estate) ask(ctx context.Context) (by string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+payHost+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := e.web.http.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.200s", res.Status, text)
	}
	_, rest, _ := strings.Cut(string(text), "@")
	by, _, _ = strings.Cut(rest, "@")
	return by, nil
}

// load begins the requests, and awaits that they flow.
func (e *estate) load(t testing.TB) *openloop.Load {
	t.Helper()
	l := openloop.Start(t.Context(), rate, func(ctx context.Context, _ int) (string, error) { return e.ask(ctx) })
	e.only(t, l, "west", time.Second)
	return l
}

// only awaits that all requests of the last while were answered by one zone, quickly; of those of now, most have been.
func (e *estate) only(t testing.TB, l *openloop.Load, zone string, while time.Duration) {
	t.Helper()
	await(t, "only "+zone+" serves", func() error {
		last := l.SoFar().Since(time.Now().Add(-while))
		if want := int(0.9 * rate * while.Seconds()); len(last) < want {
			return fmt.Errorf("%d answers, not %d", len(last), want)
		}
		for _, q := range last {
			if q.Err != nil || q.By != zone || q.Took > slow {
				return fmt.Errorf("one by %s, in %s, %v", q.By, q.Took, q.Err)
			}
		}
		return nil
	})
}

// TestFaults breaks the network under load.
func TestFaults(t *testing.T) {
	e := newEstate(t)
	west := e.zones["west"]
	t.Run("control path cut", func(t *testing.T) {
		l := e.load(t)
		defer e.heal()
		begin := time.Now()
		e.part(west.on.ip, e.global.on.ip)
		await(t, "global knows that west is away", func() error {
			if zoneStatus(t, e.global, "west").Connected {
				return errors.New("west is connected")
			}
			return nil
		})
		known := time.Since(begin)
		e.only(t, l, "west", 2*time.Second)
		e.heal()
		healed := time.Now()
		await(t, "west is back", func() error {
			if !zoneStatus(t, e.global, "west").Connected {
				return errors.New("west is not connected")
			}
			return nil
		})
		back := time.Since(healed)
		all := l.Stop().Since(begin)
		t.Logf("figures: %d of %d failed, longest %s, by %v; known to global in %s, back in %s",
			len(all.Failed()), len(all), all.Longest().Round(time.Millisecond), all.By(), known.Round(time.Millisecond), back.Round(time.Millisecond))
		if len(all.Failed()) > 0 || all.By()["west"] != len(all) {
			t.Errorf("%d of %d failed, answered by %v", len(all.Failed()), len(all), all.By())
		}
	})
}
