package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Role says what a principal may do.
type Role string

// The roles. An admin may do everything, a viewer may read.
const (
	RoleAdmin  Role = "admin"
	RoleViewer Role = "viewer"
)

// Permission is what a viewer may do besides, if its token says so.
type Permission string

// PermissionTap is to see live requests of other people.
const PermissionTap Permission = "tap"

// Principal is who asks.
type Principal struct {
	Name string // of the token
	Role Role
	May  []Permission

	token string // its id
}

// Actor is the principal as histories name it.
func (p Principal) Actor() string { return "user:" + p.Name }

type principalKey struct{}

// Authorizer answers who asks and whether they may, for routes that a program adds.
type Authorizer struct{}

// Principal returns who asks; ok is false where nobody was authenticated.
func (Authorizer) Principal(ctx context.Context) (p Principal, ok bool) {
	p, ok = ctx.Value(principalKey{}).(Principal)
	return p, ok
}

// Require returns an error that answers 403 unless the principal has the role; an admin has every role.
func (a Authorizer) Require(ctx context.Context, role Role) error {
	p, ok := a.Principal(ctx)
	switch {
	case !ok:
		return fail(http.StatusUnauthorized, CodeUnauthenticated, "", "nobody was authenticated")
	case p.Role == RoleAdmin || p.Role == role:
		return nil
	}
	return fail(http.StatusForbidden, CodeForbidden, "use a token with the role "+string(role), "%s has the role %s", p.Name, p.Role)
}

// RequirePermission returns an error that answers 403 unless the principal has the permission; an admin has every one.
func (a Authorizer) RequirePermission(ctx context.Context, permission Permission) error {
	if p, ok := a.Principal(ctx); ok && p.Role != RoleAdmin && !slices.Contains(p.May, permission) {
		return fail(http.StatusForbidden, CodeForbidden, "use a token with the permission: comity token create NAME --role viewer --may "+string(permission),
			"%s does not have the permission %q", p.Name, permission)
	}
	return a.Require(ctx, RoleViewer)
}

// bucketTokens holds tokens by id: the hash of the secret, never the secret.
const bucketTokens = "tokens"

// tokenPrefix lets scanners of repositories find a token that leaked.
const tokenPrefix = "cmt_"

type tokenRecord struct {
	Name     string    `json:"name"`
	Role     Role      `json:"role"`
	Hash     string    `json:"hash"` // SHA-256 of the secret, in hex
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
	LastUsed time.Time `json:"lastUsed,omitzero"`

	May []Permission `json:"may,omitempty"`
}

// Tokens are the bearer tokens of the API. A token is cmt_<id>_<secret>, the secret 256 random bits;
// only its hash is stored, so no slow hash is needed.
type Tokens struct {
	records store.Records
	now     func() time.Time
}

// NewTokens keeps tokens in the records of a store. now nil means time.Now.
func NewTokens(records store.Records, now func() time.Time) *Tokens {
	if now == nil {
		now = time.Now
	}
	return &Tokens{records: records, now: now}
}

// EnsureBootstrapAdmin makes the first admin's token, unless there is any token already. keep is given the
// token before it comes into force, so that a crash between the two costs nothing: the next start makes
// another one. If keep fails there is no token.
func (t *Tokens) EnsureBootstrapAdmin(ctx context.Context, keep func(token string) error) error {
	list, _, err := t.records.ListRecords(ctx, bucketTokens, "")
	if err != nil || len(list) > 0 {
		return err
	}
	// Replicas race for the fixed id; one wins.
	const id = "bootstrap"
	token, rec := t.make(id, "admin", RoleAdmin, 0, nil)
	if err := keep(token); err != nil {
		return fmt.Errorf("keep the first admin's token: %w", err)
	}
	err = t.put(ctx, id, rec)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("another replica made the first admin's token at the same time, and the one kept here is void: %w", err)
	}
	return err
}

// Create makes a token; ttl 0 means without end. The secret is in the answer and nowhere else.
func (t *Tokens) Create(ctx context.Context, name string, role Role, ttl time.Duration, may ...Permission) (client.APIToken, error) {
	if err := mesh.CheckLabel(name); err != nil {
		return client.APIToken{}, invalid([]client.ProblemField{{Pointer: "/name", Code: CodeInvalid, Message: err.Error()}})
	}
	if role != RoleAdmin && role != RoleViewer {
		return client.APIToken{}, invalid([]client.ProblemField{{Pointer: "/role", Code: CodeInvalid, Message: "must be admin or viewer", Choices: []string{"admin", "viewer"}}})
	}
	for i, p := range may {
		if p != PermissionTap || i > 0 {
			return client.APIToken{}, invalid([]client.ProblemField{{Pointer: "/may", Code: CodeInvalid, Message: "must be tap, once", Choices: []string{string(PermissionTap)}}})
		}
	}
	if ttl < 0 || ttl > 10*365*24*time.Hour {
		return client.APIToken{}, invalid([]client.ProblemField{{Pointer: "/ttlSeconds", Code: CodeInvalid, Message: "must be from 0 to 10 years"}})
	}
	id := strings.ToLower(rand.Text()[:12])
	token, rec := t.make(id, name, role, ttl, may)
	if err := t.put(ctx, id, rec); err != nil {
		return client.APIToken{}, err
	}
	out := rec.wire(id)
	out.Token = token
	return out, nil
}

// make makes a token's text and what is kept of it.
func (t *Tokens) make(id, name string, role Role, ttl time.Duration, may []Permission) (string, tokenRecord) {
	var secret [32]byte
	rand.Read(secret[:]) //nolint:errcheck // never fails
	text := base64.RawURLEncoding.EncodeToString(secret[:])
	rec := tokenRecord{Name: name, Role: role, May: may, Hash: hashSecret(text), Created: t.now().UTC()}
	if ttl > 0 {
		rec.Expires = rec.Created.Add(ttl)
	}
	return tokenPrefix + id + "_" + text, rec
}

// put brings a new token into force.
func (t *Tokens) put(ctx context.Context, id string, rec tokenRecord) error {
	value, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if _, err := t.records.PutRecords(ctx, bucketTokens, store.RecordWrite{Key: id, Value: value, IfVersion: new(uint64)}); err != nil {
		return fmt.Errorf("store a token: %w", err)
	}
	return nil
}

// List returns all tokens without their secrets.
func (t *Tokens) List(ctx context.Context) ([]client.APIToken, error) {
	list, _, err := t.records.ListRecords(ctx, bucketTokens, "")
	if err != nil {
		return nil, err
	}
	out := make([]client.APIToken, 0, len(list))
	for _, r := range list {
		var rec tokenRecord
		if err := json.Unmarshal(r.Value, &rec); err != nil {
			return nil, fmt.Errorf("token %s: %w", r.Key, err)
		}
		out = append(out, rec.wire(r.Key))
	}
	return out, nil
}

// Revoke ends a token at once; store.ErrNotFound if there is none with the id.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	if !isTokenID(id) {
		return store.ErrNotFound
	}
	rec, err := t.records.GetRecord(ctx, bucketTokens, id)
	if err != nil {
		return err
	}
	_, err = t.records.PutRecords(ctx, bucketTokens, store.RecordWrite{Key: id, Delete: true, IfVersion: &rec.Version})
	return err
}

func (r tokenRecord) wire(id string) client.APIToken {
	return client.APIToken{ID: id, Name: r.Name, Role: string(r.Role), May: words(r.May), Expires: r.Expires, LastUsed: r.LastUsed}
}

// words are permissions on the wire.
func words(list []Permission) []string {
	var out []string
	for _, p := range list {
		out = append(out, string(p))
	}
	return out
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// errBadToken hides why: unknown, wrong, expired and malformed look alike.
var errBadToken = errors.New("the token is not valid")

// isTokenID reports whether a token can have this id. Anything else never reaches the store.
func isTokenID(id string) bool {
	if id == "" || len(id) > 32 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Check returns the principal of a token. Any token that is not valid now is the same error.
func (t *Tokens) Check(ctx context.Context, token string) (Principal, error) {
	body, ok := strings.CutPrefix(token, tokenPrefix)
	id, secret, ok2 := strings.Cut(body, "_")
	if !ok || !ok2 || !isTokenID(id) || len(token) > 256 {
		return Principal{}, errBadToken
	}
	raw, err := t.records.GetRecord(ctx, bucketTokens, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return Principal{}, err
	}
	var rec tokenRecord
	if err == nil {
		if err := json.Unmarshal(raw.Value, &rec); err != nil {
			return Principal{}, fmt.Errorf("token %s: %w", id, err)
		}
	}
	// An unknown id is compared too, so that it takes the time of a wrong secret.
	same := subtle.ConstantTimeCompare([]byte(rec.Hash), []byte(hashSecret(secret))) == 1
	now := t.now()
	if !same || rec.Hash == "" || !rec.Expires.IsZero() && now.After(rec.Expires) {
		return Principal{}, errBadToken
	}
	t.used(ctx, id, raw.Version, rec, now)
	return Principal{Name: rec.Name, Role: rec.Role, May: rec.May, token: id}, nil
}

// used notes the use, at most once a minute: it is a write.
func (t *Tokens) used(ctx context.Context, id string, version uint64, rec tokenRecord, now time.Time) {
	if now.Sub(rec.LastUsed) < time.Minute {
		return
	}
	rec.LastUsed = now.UTC()
	value, err := json.Marshal(rec)
	if err != nil {
		return
	}
	// Losing against a revocation or another use is right, and a disk that is full must not lock
	// the operator out.
	_, _ = t.records.PutRecords(ctx, bucketTokens, store.RecordWrite{Key: id, Value: value, IfVersion: &version}) // see above
}

// authenticate lets requests with a valid token through, viewers only to read.
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			next.ServeHTTP(w, r)
			return
		}
		p, err := s.principal(r)
		if err != nil {
			problemOf(r.Context(), s.cfg.Log, err).write(w)
			return
		}
		reading := r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Path == sessionPath
		ctx := context.WithValue(r.Context(), principalKey{}, p)
		if !reading {
			if err := s.authz.Require(ctx, RoleAdmin); err != nil {
				problemOf(ctx, s.cfg.Log, err).write(w)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *server) principal(r *http.Request) (Principal, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme == "" {
		scheme, token = "Bearer", s.cookieToken(r)
	}
	if strings.EqualFold(scheme, "Bearer") && token != "" {
		p, err := s.cfg.Tokens.Check(r.Context(), strings.TrimSpace(token))
		if !errors.Is(err, errBadToken) {
			return p, err
		}
	}
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	s.metrics.refused.Inc()
	if !s.failures.allow(peer) {
		return Principal{}, fail(http.StatusTooManyRequests, CodeTooMany, "wait, then check the token", "too many requests without a valid token").with("Retry-After", "5")
	}
	s.cfg.Log.WarnContext(r.Context(), "a request without a valid token", "peer", peer, "method", r.Method, "path", r.URL.Path, "had_token", token != "")
	return Principal{}, fail(http.StatusUnauthorized, CodeUnauthenticated, "send a valid token: Authorization: Bearer <token>", "the request has no valid token").
		with("WWW-Authenticate", `Bearer realm="comity"`)
}

// failureLimits bounds how often each peer may fail. It spares the log and the store; guessing 256
// bits needs no limit.
type failureLimits struct {
	mu    sync.Mutex
	peers map[string]*rate.Limiter
}

const maxPeers = 10_000

func (f *failureLimits) allow(peer string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.peers[peer]
	if l == nil {
		if f.peers == nil || len(f.peers) >= maxPeers {
			// Forgetting everybody is cheap, rare, and costs a flood one burst each.
			f.peers = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(1, 20)
		f.peers[peer] = l
	}
	return l.Allow()
}
