package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/policy/openapi"
)

func (s *shell) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make resources of what others wrote",
		Long:  "import reads documents of other kinds and prints resources of Comity's. No control plane is asked, and nothing is applied.",
	}
	cmd.AddCommand(s.importOpenAPI())
	return cmd
}

func (s *shell) importOpenAPI() *cobra.Command {
	var (
		service string
		o       openapi.Options
	)
	cmd := &cobra.Command{
		Use:   "openapi FILE --service NAMESPACE/NAME:PORT",
		Short: "Print HTTPRoutes with a rule for each operation of an OpenAPI document",
		Long: `openapi reads an OpenAPI 3 document (JSON or YAML, "-" for standard input) and prints HTTPRoutes that lead every operation to the
service: a rule each, named as its operationId in kebab case (listPets: list-pets), else as its method and path. TrafficPolicies
attach to an operation by that name, and metrics tell operations apart by it.

A path without parameters is matched exactly, a parameter stands for one element of the path. Operations are grouped by their first
tag, at most 16 a route. What the document does not have goes to the service as before, by a rule "rest"; with --strict it is
answered 404.

Operations may say of themselves: x-comity-timeout: 2s bounds a request, x-comity-retryable: true has it tried again whatever its
method, false never.`,
		Example: `  comity import openapi petstore.yaml --service shop/pets:80 | comity apply -f -
  curl -s http://127.0.0.1:8080/openapi.json | comity import openapi - --service shop/pets:80 --base-path /v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			if o.Service, err = servicePort(service); err != nil {
				return err
			}
			doc, err := s.readDocuments(args, false)
			if err != nil {
				return err
			}
			resources, err := openapi.Resources(doc.text, o)
			if err != nil {
				return &fault.Error{Code: "IMPORT-OPENAPI", What: "no routes can be made of " + args[0], Err: err, Exit: fault.ExitUsage, Docs: "docs/policies/httproute.md#from-an-openapi-document"}
			}
			return s.writeResources(resources)
		},
	}
	cmd.Flags().StringVar(&service, "service", "", "service that has the operations, as NAMESPACE/NAME:PORT")
	cmd.Flags().StringVar(&o.BasePath, "base-path", "", "what is before every path (default: the path of the document's first server)")
	cmd.Flags().BoolVar(&o.Strict, "strict", false, "answer 404 to what the document does not have")
	must(cmd.MarkFlagRequired("service"))
	return cmd
}

// servicePort reads NAMESPACE/NAME:PORT.
func servicePort(s string) (policy.ServiceRef, error) {
	name, port, _ := strings.Cut(s, ":")
	namespace, name, _ := strings.Cut(name, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || mesh.CheckLabel(namespace) != nil || mesh.CheckLabel(name) != nil {
		return policy.ServiceRef{}, usage("--service %q is not NAMESPACE/NAME:PORT, as shop/pets:80", s)
	}
	return policy.ServiceRef{Namespace: namespace, Name: name, Port: uint16(n)}, nil
}

// writeResources prints resources as documents for apply: a list in JSON, else one after the other.
func (s *shell) writeResources(resources []mesh.Resource) error {
	var objects []client.Object
	for _, r := range resources {
		objects = append(objects, client.Object{APIVersion: r.APIVersion, Kind: r.Kind, Metadata: client.Metadata{Name: r.Name, Namespace: r.Namespace}, Spec: r.Spec})
	}
	if s.output == formatJSON {
		return s.writeDocument(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	}
	for _, o := range objects {
		if _, err := s.out.Write([]byte("---\n")); err != nil {
			return err
		}
		if err := s.writeDocument(o); err != nil {
			return err
		}
	}
	return nil
}
