package imports

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	// lanesFor is how long after a lane was last given to proxies they may be connected to it: an hour is the
	// longest that a TCP connection lives.
	lanesFor = time.Hour
	// maxLanes are remembered of one zone. What can't be remembered is not given to proxies: it could not be ended.
	maxLanes    = 1024
	lanesPrefix = "lanes/"
)

// lanes are the addresses and ports of a zone's ingresses that proxies were given, and when last.
type lanes struct {
	Zone  string           `json:"zone"`
	Lanes []netip.AddrPort `json:"lanes"` // sorted; as kept on disk
	given map[netip.AddrPort]time.Time
}

// readLanes reads what was given before a restart, as if it were given now.
func (b *Book) readLanes(ctx context.Context, now time.Time) error {
	list, _, err := b.records.ListRecords(ctx, bookBucket, lanesPrefix)
	if err != nil {
		return fmt.Errorf("read the lanes of zones: %w", err)
	}
	for _, r := range list {
		l := &lanes{given: map[netip.AddrPort]time.Time{}}
		if err := json.Unmarshal(r.Value, l); err != nil {
			return fmt.Errorf("read the lanes of zones: %s: %w", r.Key, err)
		}
		for _, a := range l.Lanes {
			l.given[a] = now
		}
		b.lanes[mesh.TrustDomain(strings.TrimPrefix(r.Key, lanesPrefix))] = l
	}
	return nil
}

// Give notes to which addresses proxies will be connected, so that a zone that is revoked later has no connection left
// that it made others forget. It takes away the addresses of which too many are remembered. An error is
// that the note is not on disk; it holds all the same.
func (b *Book) Give(ctx context.Context, remotes []topology.Remote, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range remotes {
		l := b.lanes[r.TrustDomain]
		if l == nil {
			l = &lanes{given: map[netip.AddrPort]time.Time{}}
			b.lanes[r.TrustDomain] = l
		}
		l.Zone = r.Zone
		maps.DeleteFunc(l.given, func(_ netip.AddrPort, at time.Time) bool { return now.Sub(at) > lanesFor })
		for i := range r.Ingresses {
			in := &r.Ingresses[i]
			var room []string
			for _, text := range in.Addresses {
				if l.note(text, in.Ports, now) {
					room = append(room, text)
				}
			}
			in.Addresses = room
		}
	}
	for _, td := range slices.Sorted(maps.Keys(b.lanes)) {
		l := b.lanes[td]
		maps.DeleteFunc(l.given, func(_ netip.AddrPort, at time.Time) bool { return now.Sub(at) > lanesFor })
		if err := b.keepLanes(ctx, td, l); err != nil {
			return err
		}
	}
	return nil
}

// note remembers an address with all its ports, if there is room.
func (l *lanes) note(text string, ports []uint16, now time.Time) bool {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	fresh := map[netip.AddrPort]time.Time{}
	for _, p := range ports {
		fresh[netip.AddrPortFrom(ip.Unmap(), p)] = now
	}
	more := 0
	for a := range fresh {
		if _, known := l.given[a]; !known {
			more++
		}
	}
	if more > 0 && len(l.given)+more > maxLanes {
		return false
	}
	maps.Copy(l.given, fresh)
	return true
}

func (l *lanes) sorted() []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(l.given), netip.AddrPort.Compare)
}

// keepLanes writes the lanes of a trust domain if they are others than before. The caller holds b.mu.
func (b *Book) keepLanes(ctx context.Context, td mesh.TrustDomain, l *lanes) error {
	write := store.RecordWrite{Key: lanesPrefix + string(td), Delete: len(l.given) == 0}
	now := l.sorted()
	if !write.Delete && slices.Equal(now, l.Lanes) {
		return nil
	}
	value, err := json.Marshal(lanes{Zone: l.Zone, Lanes: now})
	if err == nil {
		if !write.Delete {
			write.Value = value
		}
		_, err = b.records.PutRecords(ctx, bookBucket, write)
	}
	if err != nil {
		return fmt.Errorf("keep the lanes of zone %s: %w", l.Zone, err)
	}
	if l.Lanes = now; write.Delete {
		delete(b.lanes, td)
	}
	return nil
}
