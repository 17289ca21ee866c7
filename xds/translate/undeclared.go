package translate

import (
	"net/http"

	"github.com/comity-mesh/comity/xds/ir"
)

// unknownHost takes the requests for hosts that are no service's and no ExternalService's.
func (tr *Translator) unknownHost() ir.VirtualHost {
	return ir.VirtualHost{
		Name: "unknown", Domains: []string{"*"},
		Routes: []ir.Route{{Match: anyPath(), Reply: &ir.Reply{
			Status: http.StatusNotFound, Code: "NO-SUCH-SERVICE", Title: "No service has this host name",
			Detail: "The sidecar knows no HTTP service port for the host of the request.",
			Try:    "Use <service>.<namespace>.svc.clusterset.local or <service>.<namespace>.<zone>.mesh, with the port if it is not the first HTTP port of the service; from another zone the service must be exported.",
		}}},
	}
}
