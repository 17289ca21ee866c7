package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// completionLimit is how long a person who pressed TAB waits for a control plane.
const completionLimit = time.Second

func (s *shell) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completion of a shell",
		Long: `completion prints a script that makes a shell complete commands, flags, kinds, namespaces, and the names of what
there is at the control plane that the command line names so far.

  bash, now:    source <(comity completion bash)       (bash needs the package bash-completion)
  bash, always: comity completion bash > ~/.local/share/bash-completion/completions/comity
  zsh, now:     source <(comity completion zsh)        (after: autoload -U compinit; compinit)
  zsh, always:  comity completion zsh > "${fpath[1]}/_comity"
  fish, now:    comity completion fish | source
  fish, always: comity completion fish > ~/.config/fish/completions/comity.fish`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "zsh":
				return root.GenZshCompletion(s.out)
			case "fish":
				return root.GenFishCompletion(s.out, true)
			default:
				return root.GenBashCompletionV2(s.out, true)
			}
		},
	}
}

// completeNothing keeps shells from offering files where none belong.
func completeNothing(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, c := range cmd.Commands() {
		completeNothing(c)
	}
}

// candidate is one thing that a word may become.
type candidate struct{ value, description string }

// offer gives those that begin with what is typed, each once.
func offer(typed string, list []candidate) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, c := range list {
		if strings.HasPrefix(c.value, typed) {
			out = append(out, cobra.CompletionWithDesc(clean(c.value), clean(c.description)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}

// completeRefs completes "TYPE NAME..." and "TYPE/NAME...".
func (s *shell) completeRefs(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	word, _, slash := strings.Cut(typed, "/")
	switch {
	case len(args) == 0 && !slash:
		return offer(typed, kindCandidates(cmd))
	case len(args) == 0 || strings.Contains(args[0], "/"):
		if !slash {
			var out []candidate
			for _, k := range kindCandidates(cmd) {
				out = append(out, candidate{k.value + "/", k.description})
			}
			list, directive := offer(typed, out)
			return list, directive | cobra.ShellCompDirectiveNoSpace
		}
		var out []candidate
		for _, c := range s.names(cmd, word) {
			out = append(out, candidate{word + "/" + c.value, c.description})
		}
		return offer(typed, without(out, args))
	default:
		return offer(typed, without(s.names(cmd, args[0]), args[1:]))
	}
}

// without leaves out what is on the command line already.
func without(list []candidate, given []string) []candidate {
	return slices.DeleteFunc(list, func(c candidate) bool { return slices.Contains(given, c.value) })
}

// kindCandidates are the kinds that a command takes: all but delete read proxies too, and what discovery makes
// nobody deletes.
func kindCandidates(cmd *cobra.Command) []candidate {
	reads := cmd.Name() != "delete"
	var out []candidate
	if reads {
		out = append(out, candidate{proxiesWord, "Envoys, as their zones see them."})
	}
	for _, k := range policy.Kinds() {
		if reads || k.MadeAt != policy.MadeDiscovery {
			out = append(out, candidate{k.Plural, k.Summary})
		}
	}
	return out
}

// names are those of a kind at the control plane, in the namespace of the command line; none if it can't be asked.
func (s *shell) names(cmd *cobra.Command, word string) []candidate {
	var out []candidate
	if isProxies(word) {
		s.ask(cmd, func(ctx context.Context, r *remote) error {
			list, err := r.Proxies(ctx, flagOf(cmd, "origin"))
			for _, p := range filterProxies(list, nil, flagOf(cmd, "namespace")) {
				out = append(out, candidate{p.Proxy.Name, strings.TrimSpace(p.Zone + " " + p.Proxy.Namespace)})
			}
			return err
		})
		return out
	}
	for _, o := range s.objects(cmd, word, flagOf(cmd, "namespace")) {
		out = append(out, candidate{o.Metadata.Name, o.Metadata.Namespace})
	}
	return out
}

// objects are those of a kind; none if the control plane can't be asked.
func (s *shell) objects(cmd *cobra.Command, word, namespace string) (list []client.Object) {
	kind, ok := policy.Lookup(word)
	if !ok {
		return nil
	}
	if !kind.Namespaced {
		namespace = ""
	}
	s.ask(cmd, func(ctx context.Context, r *remote) (err error) {
		list, err = r.ListAll(ctx, kind, client.ListOptions{Namespace: namespace, Origin: flagOf(cmd, "origin")})
		return err
	})
	return list
}

// ask asks the control plane for a completion. That it does not answer is no error: then there is none.
func (s *shell) ask(cmd *cobra.Command, question func(context.Context, *remote) error) {
	r, err := s.remote()
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	if err := question(ctx, r); err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
}

// flagOf is the value of a flag as typed so far, empty if the command has none of the name.
func flagOf(cmd *cobra.Command, name string) string {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// completeZone completes a command's only argument, the name of a zone.
func (s *shell) completeZone(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return offer(typed, s.names(cmd, "zones"))
}

// completeZones completes a flag that takes zones.
func (s *shell) completeZones(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return offer(typed, s.names(cmd, "zones"))
}

// completeService completes a command's only argument, or a flag, that takes a service's name: also one that only other zones have.
func (s *shell) completeService(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return offer(typed, s.serviceNames(cmd))
}

// completeServiceFlag completes a flag that takes a service's name.
func (s *shell) completeServiceFlag(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return s.completeService(cmd, nil, typed)
}

func (s *shell) serviceNames(cmd *cobra.Command) []candidate {
	var out []candidate
	namespace := flagOf(cmd, "namespace")
	s.ask(cmd, func(ctx context.Context, r *remote) error {
		list, err := r.services(ctx)
		for _, svc := range list {
			if namespace == "" || svc.Namespace == namespace {
				out = append(out, candidate{svc.Name, svc.Namespace})
			}
		}
		return err
	})
	return out
}

// completeProxy completes a command's only argument, the name of a proxy as the column PROXY shows it.
func (s *shell) completeProxy(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []candidate
	s.ask(cmd, func(ctx context.Context, r *remote) error {
		list, err := r.Proxies(ctx, flagOf(cmd, "zone"))
		for _, p := range list {
			out = append(out, candidate{proxyName(p.Proxy), p.Zone})
		}
		return err
	})
	return offer(typed, out)
}

// completeEnds completes the ends of requests in the filters of a tap: [NAMESPACE/]NAME[@ZONE]. Ends to which requests go are services,
// others also workloads, and the service accounts that servers see.
func (s *shell) completeEnds(callers bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if name, zone, ok := strings.Cut(typed, "@"); ok {
			var out []candidate
			for _, z := range s.names(cmd, "zones") {
				out = append(out, candidate{name + "@" + z.value, z.description})
			}
			return offer(name+"@"+zone, out)
		}
		if !callers {
			return offer(typed, s.serviceNames(cmd))
		}
		var out []candidate
		for _, o := range s.objects(cmd, "workloads", "") {
			out = append(out, candidate{o.Metadata.Name, "workload in " + string(o.Metadata.Origin)})
			if account := decodeInto[mesh.Workload](o.Spec).ServiceAccount; account != "" {
				out = append(out, candidate{account, "service account of " + o.Metadata.Namespace})
			}
		}
		return offer(typed, out)
	}
}

// completeNamespace completes a namespace of what there is: of the kind on the command line, else of services.
func (s *shell) completeNamespace(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	word := "services"
	if len(args) > 0 {
		word, _, _ = strings.Cut(args[0], "/")
	}
	if k, ok := policy.Lookup(word); !ok || !k.Namespaced {
		word = "services"
	}
	var out []candidate
	for _, o := range s.objects(cmd, word, "") {
		out = append(out, candidate{value: o.Metadata.Namespace})
	}
	return offer(typed, out)
}

// completeOrigin completes who made a resource.
func (s *shell) completeOrigin(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return offer(typed, append(s.names(cmd, "zones"), candidate{string(mesh.OriginGlobal), "made at global"}))
}

// completeContext completes the contexts of the configuration file.
func (s *shell) completeContext(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	cfg, err := readCLIConfig(firstOf(s.target.configFile, configPath(s.getenv)))
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []candidate
	for _, c := range cfg.Contexts {
		out = append(out, candidate{c.Name, c.Server})
	}
	return offer(typed, out)
}
