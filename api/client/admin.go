package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// JoinTokenRequest asks global for a token with which a zone may join once.
// POST /api/v1/zones/{zone}/jointokens.
type JoinTokenRequest struct {
	// TTLSeconds until it ends unused; 0 means 30 minutes, at most 7 days.
	TTLSeconds int `json:"ttlSeconds,omitempty"`
	// Force makes one for a zone that is connected, too: whoever joins with it takes the zone's place.
	Force bool `json:"force,omitempty"`
}

// JoinToken is a token as made (Token set, this once) or as listed (without it).
type JoinToken struct {
	ID      string    `json:"id"`
	Zone    string    `json:"zone"`
	Token   string    `json:"token,omitempty"`
	Expires time.Time `json:"expires"`
	Used    bool      `json:"used,omitempty"`
}

// JoinTokens lists tokens.
type JoinTokens struct {
	Items []JoinToken `json:"items"`
}

// JoinRequest tells a zone to join. POST /api/v1/_join at the zone.
type JoinRequest struct {
	Token string `json:"token"`
}

// JoinResult is the answer once the first session stands and all of global's resources are applied.
type JoinResult struct {
	Zone        string           `json:"zone"`
	Global      string           `json:"global"`   // address
	Identity    string           `json:"identity"` // SPIFFE ID of the federation certificate
	Expires     time.Time        `json:"expires"`  // of that certificate
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Resumed     bool             `json:"resumed,omitempty"` // it had joined before
	Resources   int              `json:"resources"`         // applied from global
	Revision    mesh.Revision    `json:"revision"`          // of global, applied
}

// EnrolmentTokenRequest asks a zone for a token with which sidecars or an ingress get their identity.
// POST /api/v1/enrolmenttokens at the zone.
type EnrolmentTokenRequest struct {
	Role           mesh.Role `json:"role"` // sidecar, ingress or egress
	Namespace      string    `json:"namespace,omitempty"`
	ServiceAccount string    `json:"serviceAccount,omitempty"`
	Name           string    `json:"name,omitempty"` // only this workload or ingress; empty for any
	// Labels of the workloads; Services select by them, so they say for which services a workload may answer.
	Labels     map[string]string `json:"labels,omitempty"`
	Limit      int               `json:"limit,omitempty"` // instances; 0 means 1
	TTLSeconds int               `json:"ttlSeconds,omitempty"`
}

// EnrolmentToken is the answer; Token is shown this once.
type EnrolmentToken struct {
	ID      string    `json:"id"`
	Token   string    `json:"token,omitempty"`
	Expires time.Time `json:"expires"`
}

// APITokenRequest asks for a bearer token of the REST API. POST /api/v1/tokens.
type APITokenRequest struct {
	Name string `json:"name"`
	Role string `json:"role"` // admin or viewer
	// May lists what a viewer may do besides: "tap".
	May        []string `json:"may,omitempty"`
	TTLSeconds int      `json:"ttlSeconds,omitempty"`
}

// APIToken is a token as made (Token set, this once) or as listed.
type APIToken struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	May      []string  `json:"may,omitempty"`
	Token    string    `json:"token,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// APITokens lists tokens.
type APITokens struct {
	Items []APIToken `json:"items"`
}

// CreateJoinToken makes a join token for a zone, at global.
func (c *Client) CreateJoinToken(ctx context.Context, zone string, r JoinTokenRequest) (JoinToken, error) {
	var out JoinToken
	err := c.Post(ctx, "/zones/"+url.PathEscape(zone)+"/jointokens", r, &out)
	return out, err
}

// JoinTokens lists the join tokens of a zone, at global.
func (c *Client) JoinTokens(ctx context.Context, zone string) ([]JoinToken, error) {
	var out JoinTokens
	err := c.Fetch(ctx, "/zones/"+url.PathEscape(zone)+"/jointokens", &out)
	return out.Items, err
}

// RevokeJoinToken ends an unused token, at global.
func (c *Client) RevokeJoinToken(ctx context.Context, zone, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/zones/" + url.PathEscape(zone) + "/jointokens/" + url.PathEscape(id)}, nil)
}

// Join makes the zone that c speaks with join.
func (c *Client) Join(ctx context.Context, r JoinRequest) (JoinResult, error) {
	var out JoinResult
	err := c.Post(ctx, "/_join", r, &out)
	return out, err
}

// EnrolmentTokenInfo is an enrolment token as its zone lists it: nothing that could enrol.
type EnrolmentTokenInfo struct {
	ID             string    `json:"id"`
	Role           mesh.Role `json:"role"`
	Namespace      string    `json:"namespace,omitempty"`
	ServiceAccount string    `json:"serviceAccount,omitempty"`
	Name           string    `json:"name,omitempty"`
	Expires        time.Time `json:"expires"`
	Limit          int       `json:"limit"`
	Used           int       `json:"used"`
	Revoked        bool      `json:"revoked,omitempty"`
}

// EnrolmentTokens lists the enrolment tokens of a zone, used up and ended ones included.
func (c *Client) EnrolmentTokens(ctx context.Context) ([]EnrolmentTokenInfo, error) {
	var out struct {
		Items []EnrolmentTokenInfo `json:"items"`
	}
	err := c.Fetch(ctx, "/enrolmenttokens", &out)
	return out.Items, err
}

// CreateEnrolmentToken makes an enrolment token, at a zone.
func (c *Client) CreateEnrolmentToken(ctx context.Context, r EnrolmentTokenRequest) (EnrolmentToken, error) {
	var out EnrolmentToken
	err := c.Post(ctx, "/enrolmenttokens", r, &out)
	return out, err
}

// CreateAPIToken makes a bearer token.
func (c *Client) CreateAPIToken(ctx context.Context, r APITokenRequest) (APIToken, error) {
	var out APIToken
	err := c.Post(ctx, "/tokens", r, &out)
	return out, err
}

// APITokens lists the bearer tokens, without their secrets.
func (c *Client) APITokens(ctx context.Context) ([]APIToken, error) {
	var out APITokens
	err := c.Fetch(ctx, "/tokens", &out)
	return out.Items, err
}

// RevokeAPIToken ends a bearer token.
func (c *Client) RevokeAPIToken(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/tokens/" + url.PathEscape(id)}, nil)
}
