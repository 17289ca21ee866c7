package client

import (
	"context"
	"net/url"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// RevokeRequest ends all trust in a zone, for good. POST /api/v1/zones/{zone}/revoke, at global.
type RevokeRequest struct {
	// Reason goes into the Zone, where every zone reads it, and into the history.
	Reason string `json:"reason,omitempty"`
}

// Revocation says who has confirmed that a zone is cut off. GET /api/v1/zones/{zone}/revocation.
type Revocation struct {
	Zone     string        `json:"zone"`
	Revision mesh.Revision `json:"revision"` // of global, that revoked it
	At       time.Time     `json:"at"`
	Actor    string        `json:"actor,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	// Done says that every other zone that is connected has confirmed. Those that are not are in Zones, each with
	// the time when it stops believing the revoked zone by itself.
	Done  bool             `json:"done"`
	Zones []RevocationZone `json:"zones"`
}

// RevocationZone is one other zone's part in a Revocation.
type RevocationZone struct {
	Zone      string `json:"zone"`
	Connected bool   `json:"connected"`
	// Confirmed: each of its proxies that was concerned runs without the revoked zone, and what was connected
	// through them has ended, the last of it at At or before.
	Confirmed bool      `json:"confirmed"`
	At        time.Time `json:"at,omitzero"`
	// Acked of Total proxies that were concerned.
	Acked int `json:"acked"`
	Total int `json:"total"`
	// TrustUntil is when a zone that can't be reached stops believing the revoked zone by itself.
	TrustUntil time.Time `json:"trustUntil,omitzero"`
	Message    string    `json:"message,omitempty"`
}

func zonePath(zone, verb string) string { return "/zones/" + url.PathEscape(zone) + "/" + verb }

// RevokeZone ends all trust in a zone.
func (c *Client) RevokeZone(ctx context.Context, zone string, r RevokeRequest) (Revocation, error) {
	var out Revocation
	err := c.Post(ctx, zonePath(zone, "revoke"), r, &out)
	return out, err
}

// ZoneRevocation says who has confirmed a revocation.
func (c *Client) ZoneRevocation(ctx context.Context, zone string) (Revocation, error) {
	var out Revocation
	err := c.Fetch(ctx, zonePath(zone, "revocation"), &out)
	return out, err
}
