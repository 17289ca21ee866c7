package client

import (
	"context"
	"net/http"
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
	// Confirmed: each of its proxies that was concerned has acknowledged that it runs without the revoked zone, Envoy's
	// drain time has passed since, and no agent says that it could not end its Envoy's connections. At is when that was so.
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

// DrainRequest moves traffic away from a zone. POST /api/v1/zones/{zone}/drain, at global; of
// POST .../leave, which then removes the zone, too.
type DrainRequest struct {
	// Over is how long the zone's share falls to nothing, as "60s"; empty is at once.
	Over string `json:"over,omitempty"`
	// Reason is for people.
	Reason string `json:"reason,omitempty"`
	// Force drains even if the other zones lack capacity; to leave, it also does without the word of zones that are
	// away from global.
	Force bool `json:"force,omitempty"`
}

// The states of a Drain.
const (
	DrainNone    = "Serving"
	DrainRunning = "Draining"
	DrainLeaving = "Leaving" // draining, and removed when done
	DrainDone    = "Drained"
)

// Drain says what still goes to a zone. GET /api/v1/zones/{zone}/drain.
type Drain struct {
	Zone   string    `json:"zone"`
	State  string    `json:"state"`
	Since  time.Time `json:"since,omitzero"`
	Over   string    `json:"over,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Done: every zone has said that nothing goes there any more, but for services that nobody else has
	// (DrainService.Last). A zone that is away from global counts by what it said last: its data path goes on.
	Done     bool           `json:"done"`
	Zones    []DrainZone    `json:"zones"`
	Services []DrainService `json:"services"` // those of which something still goes there
}

// DrainZone is what one zone, which may be the drained one itself, still sends to the drained zone, as it said last.
type DrainZone struct {
	Zone      string `json:"zone"`
	Connected bool   `json:"connected"`
	// Heeds says that the zone has applied the drain.
	Heeds bool `json:"heeds"`
	// Awaited says that Done waits for this zone.
	Awaited bool `json:"awaited,omitempty"`
	// Share is the largest of its services' shares, 0 to 1.
	Share float64 `json:"share"`
	// Requests a second that were counted lately.
	Requests float64 `json:"requests"`
}

// DrainService is a service of which requests still go to the drained zone.
type DrainService struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// Shares by zone that sends them, 0 to 1.
	Shares map[string]float64 `json:"shares"`
	// Last says that no other zone has it: its last backend is not withdrawn.
	Last bool `json:"last,omitempty"`
}

// CapacityProblem is the 409 that refuses a drain: what the others would lack.
type CapacityProblem struct {
	Problem
	Missing []Shortage `json:"missing"`
}

// Shortage is a service whose other backends could not carry what is presumed to be asked of it. Capacities are
// in endpoint-equivalents.
type Shortage struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// Needed is Threshold percent of the whole capacity of all zones.
	Needed    float64          `json:"needed"`
	Threshold uint32           `json:"threshold"`
	Available float64          `json:"available"`
	Zones     []CapacityOfZone `json:"zones"` // all but the one to be drained
}

// CapacityOfZone is what one zone has of a service.
type CapacityOfZone struct {
	Zone  string  `json:"zone"`
	Ready float64 `json:"ready"`
	Whole float64 `json:"whole"`
	// Excluded says why its capacity does not count; empty if it does.
	Excluded string `json:"excluded,omitempty"`
}

// DrainZone moves traffic away from a zone.
func (c *Client) DrainZone(ctx context.Context, zone string, r DrainRequest) (Drain, error) {
	return c.drain(ctx, zone, "drain", r)
}

// LeaveZone drains a zone, and removes it when nothing goes there any more.
func (c *Client) LeaveZone(ctx context.Context, zone string, r DrainRequest) (Drain, error) {
	return c.drain(ctx, zone, "leave", r)
}

// UndrainZone takes a drain back.
func (c *Client) UndrainZone(ctx context.Context, zone, reason string) (Drain, error) {
	return c.drain(ctx, zone, "undrain", DrainRequest{Reason: reason})
}

func (c *Client) drain(ctx context.Context, zone, verb string, r DrainRequest) (Drain, error) {
	var out Drain
	err := c.Post(ctx, zonePath(zone, verb), r, &out)
	return out, err
}

// ZoneDrain says what still goes to a zone.
func (c *Client) ZoneDrain(ctx context.Context, zone string) (Drain, error) {
	var out Drain
	err := c.Fetch(ctx, zonePath(zone, "drain"), &out)
	return out, err
}

// ProxyDrainRequest takes one workload, ingress or egress out of use, at its zone.
// POST /api/v1/namespaces/{namespace}/workloads/{name}/drain, POST /api/v1/ingresses/{name}/drain, POST /api/v1/egresses/{name}/drain.
type ProxyDrainRequest struct {
	Reason string `json:"reason,omitempty"` // for the log
	// Force drains a workload even if the others lack capacity. The last ingress of a zone is never drained, nor the last egress.
	Force bool `json:"force,omitempty"`
}

// ProxyDrain is the answer to it, and to undrain; of a workload also
// GET /api/v1/namespaces/{namespace}/workloads/{name}/drain.
type ProxyDrain struct {
	Proxy    mesh.ProxyID `json:"proxy"`
	Draining bool         `json:"draining"`
	// Services for which a workload answers, as namespace/name; in the answer to an order only.
	Services []string `json:"services,omitempty"`
	// Done: each connected proxy of the zone, its ingresses included, has acknowledged endpoints without the drained
	// workload: Acked of Total. Of an ingress that is not known, because others than this zone's proxies use it.
	Done  bool `json:"done"`
	Acked int  `json:"acked"`
	Total int  `json:"total"`
}

// ProxyRevocation is the answer of POST .../workloads/{name}/revoke, .../ingresses/{name}/revoke and .../egresses/{name}/revoke, at a zone:
// the proxy's registration has ended.
type ProxyRevocation struct {
	Proxy    mesh.ProxyID `json:"proxy"`
	Identity string       `json:"identity"` // SPIFFE ID
	// CertificateUntil is until when others still take its last certificate for what it is.
	CertificateUntil time.Time `json:"certificateUntil,omitzero"`
	// Token with which it had enrolled, ended too so that it can't enrol again; empty if that was gone.
	Token string `json:"token,omitempty"`
}

// proxyPath is a workload, ingress or egress at its zone.
func proxyPath(p mesh.ProxyID, verb string) string {
	switch p.Role {
	case mesh.RoleIngress:
		return "/ingresses/" + url.PathEscape(p.Name) + "/" + verb
	case mesh.RoleEgress:
		return "/egresses/" + url.PathEscape(p.Name) + "/" + verb
	case mesh.RoleSidecar:
	}
	return "/namespaces/" + url.PathEscape(p.Namespace) + "/workloads/" + url.PathEscape(p.Name) + "/" + verb
}

// DrainProxy takes a workload or an ingress out of use.
func (c *Client) DrainProxy(ctx context.Context, p mesh.ProxyID, r ProxyDrainRequest) (ProxyDrain, error) {
	var out ProxyDrain
	err := c.Post(ctx, proxyPath(p, "drain"), r, &out)
	return out, err
}

// ProxyDrain says how far the drain of a workload is.
func (c *Client) ProxyDrain(ctx context.Context, p mesh.ProxyID) (ProxyDrain, error) {
	var out ProxyDrain
	err := c.Fetch(ctx, proxyPath(p, "drain"), &out)
	return out, err
}

// UndrainProxy takes that back.
func (c *Client) UndrainProxy(ctx context.Context, p mesh.ProxyID) (ProxyDrain, error) {
	var out ProxyDrain
	err := c.Post(ctx, proxyPath(p, "undrain"), ProxyDrainRequest{}, &out)
	return out, err
}

// RevokeProxy ends the registration of a workload's sidecar or of an ingress.
func (c *Client) RevokeProxy(ctx context.Context, p mesh.ProxyID) (ProxyRevocation, error) {
	var out ProxyRevocation
	err := c.Post(ctx, proxyPath(p, "revoke"), struct{}{}, &out)
	return out, err
}

// RevokeEnrolmentToken ends an enrolment token; what has enrolled with it stays.
func (c *Client) RevokeEnrolmentToken(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: "/api/v1/enrolmenttokens/" + url.PathEscape(id)}, nil)
}
