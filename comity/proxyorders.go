package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// proxyRef reads workload/NAME, ingress/NAME or egress/NAME. Where no namespace is said, a workload must be in one only.
func (r *remote) proxyRef(ctx context.Context, arg, namespace string) (mesh.ProxyID, error) {
	kind, name, ok := strings.Cut(arg, "/")
	id := mesh.ProxyID{Name: name}
	switch kind {
	case "workload", "workloads":
		id.Role, id.Namespace = mesh.RoleSidecar, namespace
	case "ingress", "ingresses":
		id.Role = mesh.RoleIngress
	case "egress", "egresses":
		id.Role = mesh.RoleEgress
	}
	if !ok || name == "" || id.Role == "" {
		return id, usage("%q is none of workload/NAME, ingress/NAME and egress/NAME", arg)
	}
	if id.Role != mesh.RoleSidecar || namespace != "" {
		return id, nil
	}
	list, err := r.Proxies(ctx, "")
	if err != nil {
		return id, err
	}
	var found []string
	for _, p := range list {
		if p.Proxy.Role == mesh.RoleSidecar && p.Proxy.Name == name {
			found = append(found, p.Proxy.Namespace)
		}
	}
	slices.Sort(found)
	switch found = slices.Compact(found); len(found) {
	case 0:
		return id, notFound("there is no workload %q in any namespace", name)
	case 1:
		id.Namespace = found[0]
		return id, nil
	}
	return id, usage("workload %q is in several namespaces: say -n with one of %s", name, strings.Join(found, ", "))
}

// orderRef is how what was ordered about is written.
func orderRef(p mesh.ProxyID) string {
	if p.Role != mesh.RoleSidecar {
		return string(p.Role) + "/" + p.Name
	}
	return "workload/" + p.Name
}

// proxyCommand is a command that orders something about workloads, ingresses and egresses, one after the other.
func (s *shell) proxyCommand(cmd *cobra.Command, do func(ctx context.Context, r *remote, p mesh.ProxyID) error) *cobra.Command {
	var namespace string
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.ValidArgsFunction = s.completeProxies
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := s.zoneSide(cmd.Context())
		if err != nil {
			return err
		}
		for i, arg := range args {
			if i > 0 && s.output == formatYAML {
				fmt.Fprintln(s.out, "---") // each is a document, as in JSON each is a value
			}
			p, err := r.proxyRef(cmd.Context(), arg, namespace)
			if err == nil {
				err = do(cmd.Context(), r, p)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of workloads (default: the one that has the name)")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	return cmd
}

// completeProxies completes workload/NAME, ingress/NAME and egress/NAME.
func (s *shell) completeProxies(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []candidate
	s.ask(cmd, func(ctx context.Context, r *remote) error {
		list, err := r.Proxies(ctx, "")
		for _, p := range filterProxies(list, nil, flagOf(cmd, "namespace")) {
			out = append(out, candidate{orderRef(p.Proxy), p.Proxy.Namespace})
		}
		return err
	})
	return offer(typed, without(out, args))
}

func (s *shell) drainCommand() *cobra.Command {
	var req client.ProxyDrainRequest
	var f drainFlags
	cmd := s.proxyCommand(&cobra.Command{
		Use:   "drain workload/NAME... | ingress/NAME... | egress/NAME...",
		Short: "Take workloads, ingresses or egresses out of use, at their zone",
		Long: `drain has everybody send a workload no new requests, the other zones leave an ingress, or the zone's sidecars an egress. Requests and connections
under way go on. It holds, also over restarts, until undrain or until the proxy leaves.

With --wait it ends when every connected proxy of the zone, its ingresses included, has acknowledged endpoints without the
workload. Of an ingress the zone can't see that: others use it.

A workload is drained only if what is left of each of its services, here and in zones that can be reached, has the threshold's
part (FailoverPolicy, 70 % unless said) of the whole ready; the last ingress of a zone never is, nor its last egress. A whole zone is drained
at global: comity zone drain.`,
		Example: "  comity --context west drain workload/pay-1 -n shop\n  comity --context west drain ingress/main\n  comity --context west undrain workload/pay-1",
	}, func(ctx context.Context, r *remote, p mesh.ProxyID) error {
		if f.wait && p.Role != mesh.RoleSidecar {
			return usage("--wait is for workloads: it does not know when others have left %s", orderRef(p))
		}
		d, err := r.DrainProxy(ctx, p, req)
		if err == nil && f.wait {
			services := d.Services
			d, err = s.awaitProxyDrain(ctx, r, p, f.timeout)
			d.Services = services
		}
		if err != nil {
			return err
		}
		return s.showProxyDrain(d)
	})
	f.addWait(cmd, "every proxy of the zone has let go of a workload")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the log")
	cmd.Flags().BoolVar(&req.Force, "force", false, "a workload even if the others lack capacity")
	return cmd
}

// awaitProxyDrain follows the drain of a workload until nobody is waited for, and says each change.
func (s *shell) awaitProxyDrain(ctx context.Context, r *remote, p mesh.ProxyID, timeout time.Duration) (client.ProxyDrain, error) {
	var d client.ProxyDrain
	said := ""
	err := s.poll(ctx, timeout, func(ctx context.Context) (done bool, err error) {
		if d, err = r.ProxyDrain(ctx, p); err != nil {
			return false, err
		}
		if line := fmt.Sprintf("%s: %d of %d proxies have acknowledged", orderRef(p), d.Acked, d.Total); line != said {
			said = line
			s.say("%s", clean(line))
		}
		return d.Done || !d.Draining, nil
	})
	if errors.Is(err, errWaited) {
		return d, &fault.Error{Code: "DRAIN-UNFINISHED", What: orderRef(p) + " is draining, and that goes on without this command", Cause: said,
			Try: "comity get proxies shows who is behind", Docs: "docs/operations.md", Exit: fault.ExitUnreachable}
	}
	return d, err
}

func (s *shell) undrainCommand() *cobra.Command {
	return s.proxyCommand(&cobra.Command{
		Use: "undrain workload/NAME... | ingress/NAME... | egress/NAME...", Short: "Take workloads, ingresses or egresses back into use, at their zone",
	}, func(ctx context.Context, r *remote, p mesh.ProxyID) error {
		d, err := r.UndrainProxy(ctx, p)
		if err != nil {
			return err
		}
		return s.showProxyDrain(d)
	})
}

func (s *shell) showProxyDrain(d client.ProxyDrain) error {
	if done, err := writeValue(s.out, s.output, d); done {
		return err
	}
	line := orderRef(d.Proxy)
	switch {
	case s.output == formatName:
	case !d.Draining:
		line += " is in use"
	case d.Proxy.Role == mesh.RoleIngress:
		line += " draining: other zones leave it as they hear of it"
	case d.Proxy.Role == mesh.RoleEgress:
		line += " draining: sidecars leave it as they hear of it"
	case d.Done:
		line += fmt.Sprintf(" drained: %d of %d proxies have acknowledged", d.Acked, d.Total)
	default:
		line += " draining: proxies send it no new requests as they hear of it"
	}
	if d.Draining && s.output != formatName && len(d.Services) > 0 {
		s.say("it served %s", clean(strings.Join(d.Services, ", ")))
	}
	_, err := fmt.Fprintln(s.out, clean(line))
	return err
}

func (s *shell) revokeCommand() *cobra.Command {
	var yes bool
	cmd := s.proxyCommand(&cobra.Command{
		Use:   "revoke workload/NAME... | ingress/NAME... | egress/NAME...",
		Short: "End the registration of a workload's sidecar, of an ingress or of an egress, at its zone",
		Long: `revoke is for a proxy whose key is in wrong hands. It leaves the endpoints at once, its streams to the zone end, and neither
its certificate nor the token with which it came lets it in again; a new token does.

Certificates are not looked up on the way of a request: others take its last one for what it is until that ends, which is
said. To end what its identity may do at once, deny it with an AuthorizationPolicy.`,
		Example: "  comity --context west revoke workload/pay-1 -n shop",
	}, func(ctx context.Context, r *remote, p mesh.ProxyID) error {
		if !yes {
			if err := s.confirm(orderRef(p)+" is not let in any more until somebody makes a new token for it.", p.Name); err != nil {
				return err
			}
		}
		v, err := r.RevokeProxy(ctx, p)
		if err != nil {
			return err
		}
		if done, err := writeValue(s.out, s.output, v); done {
			return err
		}
		if s.output == formatName {
			_, err := fmt.Fprintln(s.out, clean(orderRef(p)))
			return err
		}
		if v.Token != "" {
			s.say("enrolment token %s is revoked too", clean(v.Token))
		}
		if !v.CertificateUntil.IsZero() {
			s.say("its certificate as %s is taken for what it is until %s", clean(v.Identity), v.CertificateUntil.UTC().Format(time.RFC3339))
		}
		_, err = fmt.Fprintln(s.out, clean(orderRef(p)+" revoked"))
		return err
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}
