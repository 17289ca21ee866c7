package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/comity-mesh/comity/api/client"
)

// CodeCapacity is of a drain that was refused for lack of capacity elsewhere.
const CodeCapacity = "capacity"

// capacityProblem is a client.CapacityProblem as an answer.
type capacityProblem struct{ client.CapacityProblem }

func (p *capacityProblem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *capacityProblem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *capacityProblem) ContentType(string) string { return problemType }

// CapacityProblem answers 409: what is to be drained would be missed, service by service.
func CapacityProblem(what string, missing []client.Shortage) error {
	p := &capacityProblem{client.CapacityProblem{Missing: missing, Problem: client.Problem{
		Type: "about:blank", Title: http.StatusText(http.StatusConflict), Status: http.StatusConflict, Code: CodeCapacity,
		Detail: "without " + what + " the others lack capacity; nothing was changed", Try: "add capacity elsewhere, or drain with --force",
	}}}
	for _, m := range missing {
		var have []string
		for _, z := range m.Zones {
			one := fmt.Sprintf("%s %.4g of %.4g", z.Zone, z.Ready, z.Whole)
			if z.Excluded != "" {
				one += ", not counted: " + z.Excluded
			}
			have = append(have, one)
		}
		if len(have) == 0 {
			have = []string{"no other zone has it"}
		}
		p.Errors = append(p.Errors, client.ProblemField{
			Pointer: "/services/" + m.Namespace + "/" + m.Service, Code: CodeCapacity,
			Message: fmt.Sprintf("needs %.4g (%d%% of the whole), has %.4g: %s", m.Needed, m.Threshold, m.Available, strings.Join(have, "; ")),
		})
	}
	return p
}
