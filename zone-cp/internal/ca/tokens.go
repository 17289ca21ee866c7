package ca

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Bucket is the bucket of store records that holds tokens ("token/<id>") and registered instances
// ("instance/<proxy id>"). One bucket, because using a token and registering an instance is one
// commit.
const Bucket = "enrolment"

const (
	tokenKey    = "token/"
	instanceKey = "instance/"
	casAttempts = 64
	maxTokenTTL = 366 * 24 * time.Hour
)

// TokenSpec says what a new enrolment token is good for.
type TokenSpec struct {
	Role           mesh.Role // sidecar, ingress or egress
	Namespace      string    // of a sidecar's workload
	ServiceAccount string    // of a sidecar's workload
	Name           string    // of the one workload or ingress that it admits; empty for any
	// Labels of the workloads it admits. Services select by labels, so they decide for whom a workload may answer:
	// the zone gives them, a sidecar can't claim others.
	Labels map[string]string
	TTL    time.Duration
	Limit  int // how many instances may enrol with it
}

// Token is what the zone keeps of an enrolment token: nothing that could enrol.
type Token struct {
	ID             string            `json:"id"`
	Zone           string            `json:"zone"`
	Role           mesh.Role         `json:"role"`
	Namespace      string            `json:"namespace,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Name           string            `json:"name,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Expires        time.Time         `json:"expires"`
	Limit          int               `json:"limit"`
	Used           int               `json:"used"`
	Revoked        bool              `json:"revoked,omitempty"`
	PublicKey      ed25519.PublicKey `json:"publicKey"`
	CreatedAt      time.Time         `json:"createdAt"`
}

// Instance is an enrolled proxy with the key by which it proves itself.
type Instance struct {
	Proxy      mesh.ProxyID `json:"proxy"`
	ID         string       `json:"id"` // SPIFFE ID
	TokenID    string       `json:"tokenId"`
	Key        []byte       `json:"key"` // SubjectPublicKeyInfo, DER
	EnrolledAt time.Time    `json:"enrolledAt"`
	// Labels are those of the token.
	Labels map[string]string `json:"labels,omitempty"`
}

// CreateToken makes an enrolment token. Its secret is only in the returned value: show Text once.
func (c *CA) CreateToken(ctx context.Context, spec TokenSpec) (identity.EnrolToken, error) {
	if spec.TTL < time.Minute || spec.TTL > maxTokenTTL {
		return identity.EnrolToken{}, fmt.Errorf("%w: a lifetime of %s is not between 1 minute and 366 days", identity.ErrToken, spec.TTL)
	}
	if spec.Name != "" {
		if err := mesh.CheckSubdomain(spec.Name); err != nil {
			return identity.EnrolToken{}, fmt.Errorf("%w: name: %w", identity.ErrToken, err)
		}
	}
	secret, err := identity.NewSecret()
	if err != nil {
		return identity.EnrolToken{}, err
	}
	id, err := identity.NewTokenID()
	if err != nil {
		return identity.EnrolToken{}, err
	}
	now := c.cfg.Now()
	t := identity.EnrolToken{
		ID: id, Zone: c.cfg.Zone, Role: spec.Role, Namespace: spec.Namespace, ServiceAccount: spec.ServiceAccount,
		Endpoints: c.cfg.Endpoints, Pin: c.Pin(), Expires: now.Add(spec.TTL).Truncate(time.Second), Limit: spec.Limit, Secret: secret,
	}
	if err := t.Check(); err != nil {
		return identity.EnrolToken{}, err
	}
	pub, err := t.PublicKey()
	if err != nil {
		return identity.EnrolToken{}, err
	}
	rec := Token{
		ID: id, Zone: t.Zone, Role: t.Role, Namespace: t.Namespace, ServiceAccount: t.ServiceAccount, Name: spec.Name, Labels: spec.Labels,
		Expires: t.Expires, Limit: t.Limit, PublicKey: pub, CreatedAt: now,
	}
	w, err := write(tokenKey+id, rec, 0)
	if err != nil {
		return identity.EnrolToken{}, err
	}
	if _, err := c.cfg.Records.PutRecords(ctx, Bucket, w); err != nil {
		return identity.EnrolToken{}, fmt.Errorf("keep an enrolment token: %w", err)
	}
	c.cfg.Log.Info("made an enrolment token", "token", id, "role", t.Role, "namespace", t.Namespace,
		"service_account", t.ServiceAccount, "name", spec.Name, "limit", t.Limit, "expires", t.Expires)
	return t, nil
}

// Tokens lists the zone's enrolment tokens by id, used up and expired ones included.
func (c *CA) Tokens(ctx context.Context) ([]Token, error) {
	return list[Token](ctx, c.cfg.Records, tokenKey)
}

// Instances lists the enrolled proxies.
func (c *CA) Instances(ctx context.Context) ([]Instance, error) {
	return list[Instance](ctx, c.cfg.Records, instanceKey)
}

// RevokeToken ends a token; instances that have enrolled with it stay.
func (c *CA) RevokeToken(ctx context.Context, id string) error {
	for range casAttempts {
		t, version, err := get[Token](ctx, c.cfg.Records, tokenKey+id)
		if err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
		t.Revoked = true
		w, err := write(tokenKey+id, t, version)
		if err != nil {
			return err
		}
		_, err = c.cfg.Records.PutRecords(ctx, Bucket, w)
		if err == nil || !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("revoke token %s: %w", id, store.ErrConflict)
}

// RemoveInstance ends a proxy's registration: it can't renew, and Lookup no longer knows its
// certificates. Removing what is not there is no error.
func (c *CA) RemoveInstance(ctx context.Context, p mesh.ProxyID) error {
	if _, err := c.cfg.Records.PutRecords(ctx, Bucket, store.RecordWrite{Key: instanceKey + p.String(), Delete: true}); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return c.ledger.revoke(p)
}

// Enrolled reports whether the proxy is registered now; long streams ask it again and again.
func (c *CA) Enrolled(ctx context.Context, p mesh.ProxyID) (Instance, bool, error) {
	i, _, err := get[Instance](ctx, c.cfg.Records, instanceKey+p.String())
	if errors.Is(err, store.ErrNotFound) {
		return Instance{}, false, nil
	}
	return i, err == nil, err
}

// use counts one use of the token and registers the instance, in one commit. check sees the records
// as they are in that commit. An instance that enrols again with its own key is not counted again.
// replaced reports that another key held the proxy's name before.
func (c *CA) use(ctx context.Context, tokenID string, in Instance, check func(Token) error) (replaced bool, err error) {
	for range casAttempts {
		t, tv, err := get[Token](ctx, c.cfg.Records, tokenKey+tokenID)
		if err != nil {
			return false, err
		}
		if err := check(t); err != nil {
			return false, err
		}
		old, ov, err := get[Instance](ctx, c.cfg.Records, instanceKey+in.Proxy.String())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		known := err == nil
		if known && old.ID != in.ID {
			return false, refuse(CodeNameTaken, "%s is enrolled as another identity", in.Proxy)
		}
		if known && string(old.Key) == string(in.Key) {
			return false, nil
		}
		if t.Used >= t.Limit {
			return false, refuse(CodeTokenUsedUp, "the token has admitted its %d instances; make a new token", t.Limit)
		}
		t.Used++
		wt, err := write(tokenKey+tokenID, t, tv)
		if err != nil {
			return false, err
		}
		wi, err := write(instanceKey+in.Proxy.String(), in, ov)
		if err != nil {
			return false, err
		}
		_, err = c.cfg.Records.PutRecords(ctx, Bucket, wt, wi)
		if err == nil || !errors.Is(err, store.ErrConflict) {
			return known, err
		}
	}
	return false, fmt.Errorf("use token %s: %w", tokenID, store.ErrConflict)
}

// get reads one record; with ErrNotFound the version is 0, which write takes as "must not exist".
func get[T any](ctx context.Context, r store.Records, key string) (T, uint64, error) {
	var v T
	rec, err := r.GetRecord(ctx, Bucket, key)
	if err != nil {
		return v, 0, err
	}
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, 0, fmt.Errorf("record %s: %w", key, err)
	}
	return v, rec.Version, nil
}

func list[T any](ctx context.Context, r store.Records, prefix string) ([]T, error) {
	recs, _, err := r.ListRecords(ctx, Bucket, prefix)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	out := make([]T, 0, len(recs))
	for _, rec := range recs {
		var v T
		if err := json.Unmarshal(rec.Value, &v); err != nil {
			return nil, fmt.Errorf("record %s: %w", rec.Key, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func write(key string, v any, version uint64) (store.RecordWrite, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return store.RecordWrite{}, fmt.Errorf("record %s: %w", key, err)
	}
	return store.RecordWrite{Key: key, Value: data, IfVersion: &version}, nil
}
