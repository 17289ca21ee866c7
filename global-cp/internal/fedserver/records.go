package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Buckets of records. Those that other rooms read are exported.
const (
	BucketZones    = "zones"
	bucketTokens   = "jointokens"
	bucketIDs      = "identities"
	bucketSessions = "sessions"
	bucketStatusAt = "status-positions"
)

// BucketOf is one of a zone's status buckets: kind is "status", "proxies" or "services".
func BucketOf(kind, zone string) string { return kind + "/" + zone }

// zoneIdentity is who a zone is. Bucket "identities", by zone.
type zoneIdentity struct {
	Incarnation mesh.Incarnation `json:"incarnation"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	// PublicKey is the key pinned at the join, SubjectPublicKeyInfo in DER.
	PublicKey []byte    `json:"publicKey"`
	JoinedAt  time.Time `json:"joinedAt"`
	// Serial is the newest certificate's. Previous is accepted until the newest was seen, because an answer
	// can be lost.
	Serial   string    `json:"serial"`
	Previous string    `json:"previous,omitempty"`
	Expires  time.Time `json:"expires"`
	// Removed zones keep their record: neither incarnation nor trust domain comes back by itself.
	Removed   bool               `json:"removed,omitempty"`
	RemovedAt time.Time          `json:"removedAt,omitzero"`
	Retired   []mesh.Incarnation `json:"retired,omitempty"`
	// Revoked, of the present life: its key and its trust domain are nobody's any more, whatever becomes of the
	// Zone. Burnt are the trust domains of earlier lives that were revoked.
	Revoked *revocation        `json:"revoked,omitempty"`
	Burnt   []mesh.TrustDomain `json:"burnt,omitempty"`
}

// ended reports whether the zone's certificate is worth nothing any more.
func (id zoneIdentity) ended() bool { return id.Removed || id.Revoked != nil }

// burnt lists the trust domains that nobody gets again.
func (id zoneIdentity) burnt() []mesh.TrustDomain {
	if id.Revoked == nil {
		return id.Burnt
	}
	return append(slices.Clone(id.Burnt), id.TrustDomain)
}

// tokenRecord is a join token without its secret. Bucket "jointokens", by id.
type tokenRecord struct {
	Zone      string    `json:"zone"`
	PublicKey []byte    `json:"publicKey"` // Ed25519, of the token
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	// UsedBy is the SHA-256 of the zone's key that burnt the token, in hex.
	UsedBy string    `json:"usedBy,omitempty"`
	UsedAt time.Time `json:"usedAt,omitzero"`
}

type sessionRecord struct {
	Epoch   uint64 `json:"epoch"`
	Replica string `json:"replica,omitempty"` // that holds it
}

type statusPosition struct {
	Epoch    string `json:"epoch"`
	Sequence uint64 `json:"sequence"`
}

// getJSON reads one record; found is false if there is none.
func getJSON[T any](ctx context.Context, s store.Records, bucket, key string) (v T, version uint64, found bool, err error) {
	rec, err := s.GetRecord(ctx, bucket, key)
	if errors.Is(err, store.ErrNotFound) {
		return v, 0, false, nil
	}
	if err != nil {
		return v, 0, false, fmt.Errorf("read %s %s: %w", bucket, key, err)
	}
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, 0, false, fmt.Errorf("read %s %s: %w", bucket, key, err)
	}
	return v, rec.Version, true, nil
}

// putJSON writes one record; ifVersion nil means whatever is there.
func putJSON(ctx context.Context, s store.Records, bucket, key string, v any, ifVersion *uint64) error {
	w, err := jsonWrite(key, v)
	if err != nil {
		return err
	}
	w.IfVersion = ifVersion
	if _, err := s.PutRecords(ctx, bucket, w); err != nil {
		return fmt.Errorf("write %s %s: %w", bucket, key, err)
	}
	return nil
}

// jsonWrite is the write of one record, whatever is there.
func jsonWrite(key string, v any) (store.RecordWrite, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return store.RecordWrite{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return store.RecordWrite{Key: key, Value: doc}, nil
}

// update changes one record by compare-and-set until nobody came between. change may refuse.
func update[T any](ctx context.Context, s store.Records, bucket, key string, change func(v *T, found bool) error) (T, error) {
	for {
		v, version, found, err := getJSON[T](ctx, s, bucket, key)
		if err != nil {
			return v, err
		}
		if err := change(&v, found); err != nil {
			return v, err
		}
		err = putJSON(ctx, s, bucket, key, v, &version)
		if !errors.Is(err, store.ErrConflict) {
			return v, err
		}
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
	}
}

// clear deletes every record of a bucket.
func clearBucket(ctx context.Context, s store.Records, bucket string) error {
	recs, _, err := s.ListRecords(ctx, bucket, "")
	if err != nil || len(recs) == 0 {
		return err
	}
	writes := make([]store.RecordWrite, 0, len(recs))
	for _, r := range recs {
		writes = append(writes, store.RecordWrite{Key: r.Key, Delete: true})
	}
	if _, err := s.PutRecords(ctx, bucket, writes...); err != nil {
		return fmt.Errorf("clear %s: %w", bucket, err)
	}
	return nil
}
