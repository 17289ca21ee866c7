// Package keys fetches the public keys of issuers of tokens (JWKS) that AuthenticationPolicies name by URL, once for all of
// the zone's proxies, so that they agree, and no change of a route or a policy depends on an issuer that is away. The last good
// keys hold until there are better ones, also over a restart.
package keys

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	// Bucket of the last good keys by policy.JWKS.Source.
	Bucket = "jwks"
	// fetchLimit is how long one fetch may take.
	fetchLimit = 5 * time.Second
	// maxAnswer bounds what is read of an issuer; the certificates that many send along are most of it.
	maxAnswer = 256 << 10
	// maxSources bounds what policies can have this zone ask for, shared among their namespaces. The keys of further ones are fetched by
	// the proxies themselves.
	maxSources = 256
	// keepEvery is how often keys are written that have not changed, for their age.
	keepEvery = time.Hour
	// forgetAfter is how long keys are kept that no policy names any more: one that is put back soon finds them.
	forgetAfter = 24 * time.Hour
)

// Config is what a Fetcher is made of.
type Config struct {
	Records store.Records
	// Allow are addresses of issuers that are asked though they are not for everybody (loopback, link-local).
	Allow   []netip.Prefix
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Fetcher keeps the keys fresh of those issuers that it is asked for. It is safe for concurrent use.
type Fetcher struct {
	cfg     Config
	changed chan struct{} // capacity 1
	wake    chan struct{} // capacity 1: what is wanted has changed

	fetches, age *prometheus.Desc

	mu      sync.Mutex
	wanted  map[string]policy.JWKS // nil until somebody said
	sources map[string]*source
}

// source is one URL with whom to believe there.
type source struct {
	good    kept
	problem string            // of the last fetch; empty if it went well
	fetched map[string]uint64 // by result
	written time.Time
}

// kept is what a record holds.
type kept struct {
	JWKS string    `json:"jwks"`
	At   time.Time `json:"at"` // of the last fetch that went well
}

// Results of fetches, as labels.
const (
	resultOK     = "ok"
	resultFailed = "failed"
)

// New reads what was fetched before the restart.
func New(ctx context.Context, cfg Config) (*Fetcher, error) {
	f := &Fetcher{
		cfg: cfg, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), sources: map[string]*source{},
		fetches: prometheus.NewDesc("comity_jwks_fetches_total", "Fetches of the keys of issuers of tokens that policies name by URL.", []string{"url", "result"}, nil),
		age:     prometheus.NewDesc("comity_jwks_age_seconds", "Since the keys of an issuer were last fetched; none while they never were.", []string{"url"}, nil),
	}
	list, _, err := cfg.Records.ListRecords(ctx, Bucket, "")
	if err != nil {
		return nil, fmt.Errorf("read keys of issuers: %w", err)
	}
	for _, r := range list {
		s := &source{fetched: map[string]uint64{}, written: r.UpdatedAt}
		if json.Unmarshal(r.Value, &s.good) == nil {
			f.sources[r.Key] = s
		}
	}
	if err := cfg.Metrics.Register(f); err != nil {
		return nil, fmt.Errorf("metrics of keys: %w", err)
	}
	return f, nil
}

// Describe and Collect make it a prometheus.Collector.
func (f *Fetcher) Describe(out chan<- *prometheus.Desc) { out <- f.fetches; out <- f.age }

// Collect tells of the sources that are wanted, by URL.
func (f *Fetcher) Collect(out chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := map[string]bool{}
	for key, k := range f.wanted {
		s := f.sources[key]
		if s == nil || told[k.URL] { // a URL may be there twice, with other authorities
			continue
		}
		told[k.URL] = true
		for _, result := range []string{resultOK, resultFailed} {
			out <- prometheus.MustNewConstMetric(f.fetches, prometheus.CounterValue, float64(s.fetched[result]), k.URL, result)
		}
		if !s.good.At.IsZero() {
			out <- prometheus.MustNewConstMetric(f.age, prometheus.GaugeValue, time.Since(s.good.At).Seconds(), k.URL)
		}
	}
}

// Changed signals (coalesced, capacity 1) when keys, or what is wrong with them, became others.
func (f *Fetcher) Changed() <-chan struct{} { return f.changed }

// Want replaces what is kept fresh: what the policies of each namespace name. It returns what there is of it, by policy.JWKS.Source.
func (f *Fetcher) Want(named map[string][]policy.JWKS) map[string]topology.Keys {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := fair(named)
	out := map[string]topology.Keys{}
	for at := range wanted {
		if s := f.sources[at]; s != nil {
			out[at] = topology.Keys{JWKS: s.good.JWKS, Problem: s.told()}
		}
	}
	if !sameSources(f.wanted, wanted) {
		signal(f.wake)
	}
	f.wanted = wanted
	return out
}

// fair takes a source of each namespace in turn, until there are enough: one that names many takes nothing from those that name few. The
// same input gives the same sources. One that is named with several refreshes is refreshed as the most impatient wants.
func fair(named map[string][]policy.JWKS) map[string]policy.JWKS {
	soonest := map[string]policy.JWKS{}
	lists := make(map[string][]string, len(named))
	for namespace, list := range named {
		for _, k := range list {
			at := k.Source()
			if was, twice := soonest[at]; !twice || k.Every() < was.Every() {
				soonest[at] = k
			}
			lists[namespace] = append(lists[namespace], at)
		}
		slices.Sort(lists[namespace])
	}
	namespaces := slices.Sorted(maps.Keys(lists))
	out := map[string]policy.JWKS{}
	for turn, more := 0, true; more; turn++ {
		more = false
		for _, n := range namespaces {
			if turn >= len(lists[n]) {
				continue
			}
			if more = true; len(out) < maxSources {
				out[lists[n][turn]] = soonest[lists[n][turn]]
			}
		}
	}
	return out
}

// told is the problem for people, with the age of what is used.
func (s *source) told() string {
	switch {
	case s.problem == "":
		return ""
	case s.good.JWKS == "":
		return s.problem + "; the zone never had them, and its proxies try by themselves"
	}
	return s.problem + "; those of " + s.good.At.UTC().Format(time.RFC3339) + " are used"
}

func sameSources(a, b map[string]policy.JWKS) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if o, ok := b[k]; !ok || o.Every() != v.Every() {
			return false
		}
	}
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps what is wanted fresh until ctx ends, each source at its own pace.
func (f *Fetcher) Run(ctx context.Context) error {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	type running struct {
		policy.JWKS
		stop context.CancelFunc
	}
	all := map[string]running{}
	tidy := time.NewTicker(keepEvery)
	defer tidy.Stop()
	for {
		f.mu.Lock()
		wanted := f.wanted
		f.mu.Unlock()
		for at, r := range all {
			if k, ok := wanted[at]; !ok || k.Every() != r.Every() {
				r.stop()
				delete(all, at)
			}
		}
		for at, k := range wanted {
			if _, ok := all[at]; ok {
				continue
			}
			own, stop := context.WithCancel(ctx) //nolint:gosec // stopped when it is wanted no more, and with ctx
			all[at] = running{k, stop}
			fetching.Go(func() { f.keep(own, at, k) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case now := <-tidy.C:
			f.forget(ctx, now)
		}
	}
}

// forget drops what no policy names and was not renewed for a day. In use it is written every hour.
func (f *Fetcher) forget(ctx context.Context, now time.Time) {
	f.mu.Lock()
	var old []store.RecordWrite
	for at, s := range f.sources {
		if _, wanted := f.wanted[at]; !wanted && f.wanted != nil && now.Sub(s.written) > forgetAfter {
			delete(f.sources, at)
			old = append(old, store.RecordWrite{Key: at, Delete: true})
		}
	}
	f.mu.Unlock()
	if len(old) == 0 {
		return
	}
	if _, err := f.cfg.Records.PutRecords(ctx, Bucket, old...); err != nil {
		f.cfg.Log.WarnContext(ctx, "keys that nobody needs any more stay in the store", "error", err)
	}
}

// keep fetches again and again, sooner while it fails.
func (f *Fetcher) keep(ctx context.Context, at string, k policy.JWKS) {
	client, err := clientFor(k, f.cfg.Allow)
	if err != nil {
		f.took(ctx, at, k, "", err)
		return
	}
	defer client.CloseIdleConnections()
	again := &backoff.ExponentialBackOff{InitialInterval: time.Second, Multiplier: 2, RandomizationFactor: 0.3, MaxInterval: min(k.Every(), 30*time.Second)}
	again.Reset()
	for {
		set, err := fetch(ctx, client, k.URL)
		if ctx.Err() != nil {
			return
		}
		f.took(ctx, at, k, set, err)
		wait := k.Every()
		if err != nil {
			wait = min(again.NextBackOff(), wait)
		} else {
			again.Reset()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// took notes how a fetch went.
func (f *Fetcher) took(ctx context.Context, at string, k policy.JWKS, set string, err error) {
	now := time.Now()
	f.mu.Lock()
	s := f.sources[at]
	if s == nil {
		s = &source{fetched: map[string]uint64{}}
		f.sources[at] = s
	}
	before := topology.Keys{JWKS: s.good.JWKS, Problem: s.told()}
	write := false
	if err != nil {
		s.problem = err.Error()
		s.fetched[resultFailed]++
	} else {
		s.problem = ""
		s.fetched[resultOK]++
		write = set != s.good.JWKS || now.Sub(s.written) > keepEvery
		s.good = kept{set, now}
	}
	good := s.good
	after := topology.Keys{JWKS: good.JWKS, Problem: s.told()}
	if write {
		s.written = now
	}
	f.mu.Unlock()
	if before != after {
		signal(f.changed)
	}
	if err != nil && after.Problem != before.Problem {
		f.cfg.Log.WarnContext(ctx, "keys of an issuer could not be fetched; the last good ones hold", "url", k.URL, "error", err)
	}
	if !write {
		return
	}
	value, err := json.Marshal(good)
	if err == nil {
		_, err = f.cfg.Records.PutRecords(ctx, Bucket, store.RecordWrite{Key: at, Value: value})
	}
	if err != nil {
		f.cfg.Log.WarnContext(ctx, "keys of an issuer not kept", "url", k.URL, "error", err)
	}
}

// clientFor believes whom the policy says at the URL, and goes nowhere else: who can redirect could sign.
func clientFor(k policy.JWKS, allow []netip.Prefix) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if k.CA != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(k.CA.PEM)) {
			return nil, errors.New("its authorities can't be read")
		}
	}
	transport := &http.Transport{TLSClientConfig: conf, MaxIdleConns: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10, Proxy: http.ProxyFromEnvironment}
	if !proxied(k.URL) {
		transport.DialContext = dialer(allow)
	}
	return &http.Client{
		Timeout:       fetchLimit,
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// fetch returns the usable keys in one form.
func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or is of no use
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", url, err)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s answers %d", url, resp.StatusCode)
	case len(raw) > maxAnswer:
		return "", fmt.Errorf("%s answers with more than %d bytes", url, maxAnswer)
	}
	set, err := policy.UsableKeys(raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", url, err)
	}
	return set, nil
}
