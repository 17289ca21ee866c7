package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Lives of join tokens.
const (
	DefaultTokenTTL = 30 * time.Minute
	MaxTokenTTL     = 7 * 24 * time.Hour
)

// ErrNoZone: there is no Zone of that name at global.
var ErrNoZone = errors.New("there is no such zone")

// ErrTokenUsed: a used token can't be revoked; remove the zone instead.
var ErrTokenUsed = errors.New("the token was used")

// TokenInfo is a join token without its secret.
type TokenInfo struct {
	ID      string
	Zone    string
	Created time.Time
	Expires time.Time
	UsedAt  time.Time // zero: unused
}

// CreateToken makes a token with which the zone may join once. Only the text holds the secret, and only
// its public half is kept. ttl 0 means DefaultTokenTTL.
func (s *Server) CreateToken(ctx context.Context, zone string, ttl time.Duration) (text string, info TokenInfo, err error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < 0 || ttl > MaxTokenTTL {
		return "", TokenInfo{}, fmt.Errorf("a life of %s is not between 0 and %s", ttl, MaxTokenTTL)
	}
	spec, err := s.zone(ctx, zone)
	if err != nil {
		return "", TokenInfo{}, err
	}
	if spec.Revoked != nil {
		return "", TokenInfo{}, fmt.Errorf("zone %s: %w", zone, ErrRevoked)
	}
	id, err := identity.NewTokenID()
	if err != nil {
		return "", TokenInfo{}, err
	}
	secret, err := identity.NewSecret()
	if err != nil {
		return "", TokenInfo{}, err
	}
	now := s.cfg.Now().UTC()
	t := identity.JoinToken{
		ID: id, Zone: zone, Endpoints: s.cfg.Advertise, Pin: s.cfg.Trust.Pin(), Expires: now.Add(ttl).Truncate(time.Second), Secret: secret,
	}
	if text, err = t.Text(); err != nil {
		return "", TokenInfo{}, err
	}
	pub, err := t.PublicKey()
	if err != nil {
		return "", TokenInfo{}, err
	}
	none := uint64(0)
	rec := tokenRecord{Zone: zone, PublicKey: pub, Created: now, Expires: t.Expires}
	if err := putJSON(ctx, s.cfg.Store, bucketTokens, id, rec, &none); err != nil {
		return "", TokenInfo{}, err
	}
	return text, TokenInfo{ID: id, Zone: zone, Created: now, Expires: t.Expires}, nil
}

// Connected reports whether the zone has a session, with whichever replica.
func (s *Server) Connected(ctx context.Context, zone string) (bool, error) {
	z, _, _, err := getJSON[mesh.ZoneStatus](ctx, s.cfg.Store, BucketZones, zone)
	return z.Connected, err
}

// Tokens lists a zone's tokens, used and unused.
func (s *Server) Tokens(ctx context.Context, zone string) ([]TokenInfo, error) {
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketTokens, "")
	if err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	var out []TokenInfo
	for _, r := range recs {
		var t tokenRecord
		if err := json.Unmarshal(r.Value, &t); err != nil {
			return nil, fmt.Errorf("read join token %s: %w", r.Key, err)
		}
		if t.Zone == zone {
			out = append(out, TokenInfo{ID: r.Key, Zone: t.Zone, Created: t.Created, Expires: t.Expires, UsedAt: t.UsedAt})
		}
	}
	return out, nil
}

// RevokeToken ends an unused token: store.ErrNotFound if the zone has none of that id, ErrTokenUsed.
func (s *Server) RevokeToken(ctx context.Context, zone, id string) error {
	t, version, found, err := getJSON[tokenRecord](ctx, s.cfg.Store, bucketTokens, id)
	if err != nil {
		return err
	}
	if !found || t.Zone != zone {
		return fmt.Errorf("join token %s: %w", id, store.ErrNotFound)
	}
	if t.UsedBy != "" {
		return fmt.Errorf("join token %s: %w", id, ErrTokenUsed)
	}
	_, err = s.cfg.Store.PutRecords(ctx, bucketTokens, store.RecordWrite{Key: id, Delete: true, IfVersion: &version})
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("join token %s: %w", id, ErrTokenUsed)
	}
	return err
}

// pruneTokens forgets tokens that have ended a while ago; until then a late use is told why.
func (s *Server) pruneTokens(ctx context.Context) error {
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketTokens, "")
	if err != nil {
		return fmt.Errorf("list join tokens: %w", err)
	}
	var old []store.RecordWrite
	for _, r := range recs {
		var t tokenRecord
		if json.Unmarshal(r.Value, &t) != nil || s.cfg.Now().After(t.Expires.Add(MaxTokenTTL)) {
			old = append(old, store.RecordWrite{Key: r.Key, Delete: true})
		}
	}
	if len(old) == 0 {
		return nil
	}
	_, err = s.cfg.Store.PutRecords(ctx, bucketTokens, old...)
	return err
}

// zoneKey is the key of a Zone made at global.
func zoneKey(name string) mesh.Key {
	return mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: name}
}
