package imports

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// livesKey is the record, beside the trust in other zones, of the Zones under which they are believed.
const livesKey = "lives"

// life is what a zone is believed for: the Zone resource, and the incarnation that joined under it.
type life struct {
	UID         string           `json:"uid"` // of the Zone
	Incarnation mesh.Incarnation `json:"incarnation"`
}

func (b *Book) readLives(ctx context.Context) error {
	r, err := b.records.GetRecord(ctx, bookBucket, livesKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(r.Value, &b.lives)
	}
	if err != nil {
		return fmt.Errorf("read the lives of zones: %w", err)
	}
	return nil
}

// HeedLives forgets what is believed of a zone whose Zone was deleted and made anew, given the UIDs of global's
// Zones by name. The new Zone is somebody else until global says who joined under it: what the former zone
// said does not come back with the name.
func (b *Book) HeedLives(ctx context.Context, uids map[string]string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for _, t := range b.trust.List() {
		uid, known := uids[t.Zone]
		if t.Zone == b.zone || !known {
			continue // of a Zone that is not there nothing is believed, see Picture
		}
		now, before := life{uid, t.Statement.Incarnation}, b.lives[t.Zone]
		if now == before {
			continue
		}
		b.lives[t.Zone], changed = now, true
		if before.UID == "" || before.UID == uid || before.Incarnation != now.Incarnation {
			continue // heard of for the first time, or another one joined, for which global vouches
		}
		if err := fedstore.ForgetStatements(ctx, b.records, t.Zone); err != nil {
			b.lives[t.Zone] = before
			return fmt.Errorf("forget the former zone %s: %w", t.Zone, err)
		}
		b.of(t.Zone).takePending(&b.waiting)
		delete(b.zones, t.Zone)
		b.trust.Remove(t.Bundle.TrustDomain)
		b.trust.Release(t.Bundle.TrustDomain) // global may vouch for it again
		b.unkept[t.Bundle.TrustDomain] = struct{}{}
		if err := b.keepTrust(ctx, t.Bundle.TrustDomain); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	value, err := json.Marshal(b.lives)
	if err != nil {
		return fmt.Errorf("keep the lives of zones: %w", err)
	}
	if _, err := b.records.PutRecords(ctx, bookBucket, store.RecordWrite{Key: livesKey, Value: value}); err != nil {
		return fmt.Errorf("keep the lives of zones: %w", err)
	}
	return nil
}
