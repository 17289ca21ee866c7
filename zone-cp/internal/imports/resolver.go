package imports

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	// resolveEvery is how often the names of ingresses are asked for again.
	resolveEvery = 30 * time.Second
	resolveLimit = 5 * time.Second
	maxAddresses = 64

	resolvedBucket = "resolved"
)

// Lookup answers with the IP addresses of a host name; net.Resolver.LookupHost fits.
type Lookup func(ctx context.Context, host string) ([]string, error)

// Resolver turns the host names of other zones' ingresses into addresses. The last good answer holds
// until there is a better one: a name that does not resolve now did so before, and the traffic that
// goes there still works. Answers survive a restart.
type Resolver struct {
	lookup  Lookup
	records store.Records
	log     *slog.Logger
	changed chan struct{} // capacity 1
	wake    chan struct{} // capacity 1: a name was asked for the first time

	mu      sync.Mutex
	answers map[string][]string
	wanted  map[string]bool
}

// NewResolver reads the answers from before the restart.
func NewResolver(ctx context.Context, lookup Lookup, records store.Records, log *slog.Logger) (*Resolver, error) {
	r := &Resolver{
		lookup: lookup, records: records, log: log,
		changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		answers: map[string][]string{}, wanted: map[string]bool{},
	}
	list, _, err := records.ListRecords(ctx, resolvedBucket, "")
	if err != nil {
		return nil, fmt.Errorf("read resolved names: %w", err)
	}
	for _, rec := range list {
		var a []string
		if json.Unmarshal(rec.Value, &a) == nil {
			r.answers[rec.Key] = a
		}
	}
	return r, nil
}

// Changed signals (coalesced, capacity 1) when an answer became another one.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// Fill sets the addresses of all ingresses, and makes the names in them those that are kept
// up to date. An ingress without an answer yet has no addresses.
func (r *Resolver) Fill(remotes []topology.Remote) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := map[string]bool{}
	for i := range remotes {
		for j := range remotes[i].Ingresses {
			in := &remotes[i].Ingresses[j]
			if _, err := netip.ParseAddr(in.Host); err == nil {
				in.Addresses = []string{in.Host}
				continue
			}
			wanted[in.Host] = true
			in.Addresses = r.answers[in.Host]
			if !r.wanted[in.Host] {
				select {
				case r.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	r.wanted = wanted
}

// Run keeps the answers fresh until ctx ends. Without names it does nothing.
func (r *Resolver) Run(ctx context.Context) error {
	timer := time.NewTimer(resolveEvery)
	defer timer.Stop()
	for {
		r.mu.Lock()
		names := slices.Sorted(maps.Keys(r.wanted))
		r.mu.Unlock()
		for _, n := range names {
			r.resolve(ctx, n)
		}
		timer.Stop()
		if len(names) > 0 {
			timer.Reset(resolveEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.wake:
		}
	}
}

func (r *Resolver) resolve(ctx context.Context, name string) {
	limited, cancel := context.WithTimeout(ctx, resolveLimit)
	defer cancel()
	found, err := r.lookup(limited, name)
	var good []string
	for _, a := range found {
		if ip, perr := netip.ParseAddr(a); perr == nil && len(good) < maxAddresses {
			good = append(good, ip.Unmap().String())
		}
	}
	if err != nil || len(good) == 0 {
		r.log.WarnContext(ctx, "ingress name does not resolve; its last answer holds", "host", name, "error", err)
		return
	}
	slices.Sort(good)
	good = slices.Compact(good)
	r.mu.Lock()
	same := slices.Equal(r.answers[name], good)
	r.answers[name] = good
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
	value, err := json.Marshal(good)
	if err == nil {
		_, err = r.records.PutRecords(ctx, resolvedBucket, store.RecordWrite{Key: name, Value: value})
	}
	if err != nil {
		r.log.WarnContext(ctx, "resolved name not kept", "host", name, "error", err)
	}
}
