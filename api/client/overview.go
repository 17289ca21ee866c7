package client

import (
	"context"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Overview is the answer of GET /api/v1/overview: what a person looks at first. Its lists are in the order of their
// keys, Attention in the order of urgency. At a zone it is what that zone knows.
type Overview struct {
	About
	Zones    []ZoneOverview        `json:"zones"`
	Links    []mesh.LinkStatus     `json:"links"`
	Traffic  []mesh.TrafficStatus  `json:"traffic"`
	Failover []mesh.FailoverStatus `json:"failover"`
	Refused  []Refusal             `json:"refused"`
	// Policies are all resources that say something about traffic: policies, routes, Gateways, ExternalServices, the MeshConfig.
	Policies []PolicyOverview `json:"policies"`
	// Attention lists what a person should know or do.
	Attention []Attention `json:"attention"`
}

// About says of what an Overview is.
type About struct {
	Mode     string        `json:"mode"`           // global or zone
	Zone     string        `json:"zone,omitempty"` // the zone that answers
	Version  string        `json:"version,omitempty"`
	Revision mesh.Revision `json:"revision"` // of the answering store
	// Proxies of all zones that are heard; at a zone, of this one.
	Proxies          int `json:"proxies"`
	ProxiesConnected int `json:"proxiesConnected"`
	// ProxiesUnknown are those that the other zones had when they were heard of last.
	ProxiesUnknown int `json:"proxiesUnknown,omitempty"`
	// LeftOut counts what the bounds of the lists left out, by list.
	LeftOut map[string]int `json:"leftOut,omitempty"`
}

// ZoneOverview is a zone: what was asked of it, and how it stands. At a zone the status of the others is zero: what is
// known of them is in Links.
type ZoneOverview struct {
	Name   string          `json:"name"`
	Spec   policy.Zone     `json:"spec"`
	Status mesh.ZoneStatus `json:"status"`
	// Revision is the origin's revision that last changed Spec, 0 for a zone that no Zone describes.
	Revision mesh.Revision `json:"revision"`
	// Unheard: what the zone said is not of now.
	Unheard *mesh.Unheard `json:"unheard,omitempty"`
}

// Refusal is a resource that a zone, or proxies in it, did not take; the last good one stays in force there.
type Refusal struct {
	Zone string   `json:"zone"`
	Key  mesh.Key `json:"key"`
	// Message is the zone's or the first proxy's own word.
	Message string    `json:"message"`
	Proxies int       `json:"proxies,omitempty"` // that refused it, at most 8
	At      time.Time `json:"at"`
}

// PolicyOverview is how far a resource about traffic is in force.
type PolicyOverview struct {
	Key mesh.Key `json:"key"`
	// Zones that have said something of it, and are heard.
	Zones int `json:"zones"`
	// Unheard are the zones that had said something of it; how it is there now is not known.
	Unheard []string `json:"unheard,omitempty"`
	// Acked of Total: of the proxies whose configuration it shapes, those that run it as it is wanted.
	Acked int `json:"acked"`
	Total int `json:"total"`
	// Notes are what zones say of it that is more than "applied": why it was refused, or what of it can't take effect.
	Notes []PolicyNote `json:"notes,omitempty"`
}

// PolicyNote is one thing that zones say of a resource.
type PolicyNote struct {
	Zones   []string           `json:"zones"`
	State   mesh.ResourceState `json:"state"`
	Message string             `json:"message,omitempty"`
}

// Severity orders what needs attention.
type Severity string

// The severities, from the most urgent.
const (
	SeverityCritical Severity = "critical" // requests fail, or will soon
	SeverityWarning  Severity = "warning"  // something is not as it should be; requests go on
	SeverityInfo     Severity = "info"     // good to know
)

// Attention is one thing that a person should know or do.
type Attention struct {
	// ID stays the same while the matter does: "<matter>/<subject>".
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`          // one sentence
	Why      string   `json:"why"`           // how it is known, or what follows
	Try      string   `json:"try,omitempty"` // what to do; a command where there is one
	// Link is the path of the record that it is about, as in an OverviewChange.
	Link  string    `json:"link,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Cause is the ID of another Attention that it comes from: what is to be mended is there.
	Cause string `json:"cause,omitempty"`
}

// OverviewChange is the data of an event of GET /api/v1/overview/stream. In an event "snapshot" Records are all
// there are; in an event "patch" they are those that changed, null for what is gone. The paths are
//
//	about                                    About
//	zones/<zone>                             ZoneOverview
//	links/<zone>/<to>                        mesh.LinkStatus
//	traffic/<zone>/<namespace>/<service>/<to>  mesh.TrafficStatus
//	failover/<zone>/<namespace>/<service>    mesh.FailoverStatus
//	refused/<zone>/<key>                     Refusal
//	policies/<key>                           PolicyOverview
//	attention/<id>                           Attention
type OverviewChange struct {
	Records map[string]any `json:"records"`
}

// Overview reads what a person looks at first.
func (c *Client) Overview(ctx context.Context) (Overview, error) {
	var out Overview
	err := c.Fetch(ctx, "/overview", &out)
	return out, err
}
