package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/comity-mesh/comity/policy"
)

// ActingList is the answer of GET /api/v1/acting: the policies and routes that act on the requests to a Service, the narrowest first.
// How far each is in force is in its status, and in the Policies of an Overview.
type ActingList struct {
	Items []policy.Act `json:"items"`
}

// Acting reads what acts on the requests to a Service.
func (c *Client) Acting(ctx context.Context, namespace, service string) (ActingList, error) {
	var out ActingList
	err := c.do(ctx, request{method: http.MethodGet, path: "/api/v1/acting", query: url.Values{"namespace": {namespace}, "service": {service}}}, &out)
	return out, err
}
