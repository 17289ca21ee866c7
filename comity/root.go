package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/version"
)

// shell is what every command shares: the terminal and the flags that all of them take.
type shell struct {
	terminal
	target target
	output format
	quiet  bool
}

func newRoot(term terminal) *cobra.Command {
	s := &shell{terminal: term, output: formatTable}
	root := &cobra.Command{
		Use:   "comity",
		Short: "Speak with a Comity mesh: its global control plane and its zones",
		Long: `comity speaks with the REST API of global and of each zone.

Data goes to standard output, talk to standard error. Exit codes: 0 fine, 1 failure, 2 usage, 3 not found,
4 conflict, 5 not authenticated or not allowed, 6 unreachable or timed out, 7 a check failed.

Completion of commands, kinds and names: source <(comity completion bash), or see comity completion --help.`,
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(term.in)
	root.SetOut(term.out)
	root.SetErr(term.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &fault.Error{Code: codeUsage, What: err.Error(), Exit: fault.ExitUsage, Try: cmd.CommandPath() + " --help"}
	})
	f := root.PersistentFlags()
	f.StringVar(&s.target.configFile, "config", "", "configuration file (COMITY_CONFIG)")
	f.StringVar(&s.target.context, "context", "", "context of the configuration file (COMITY_CONTEXT)")
	f.StringVar(&s.target.server, "server", "", "address of a control plane, as http://127.0.0.1:7400 (COMITY_SERVER)")
	f.StringVar(&s.target.tokenFile, "token-file", "", "file with the bearer token (COMITY_TOKEN_FILE; the token itself in COMITY_TOKEN)")
	f.StringVar(&s.target.caFile, "ca-file", "", "PEM roots that an https server must chain to (COMITY_CA_FILE)")
	f.VarP(&s.output, "output", "o", "one of "+strings.Join(formats, ", "))
	f.BoolVarP(&s.quiet, "quiet", "q", false, "no talk on standard error")
	must(root.RegisterFlagCompletionFunc("context", s.completeContext))
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))

	root.AddCommand(
		s.getCommand(), s.describeCommand(), s.diffCommand(), s.compileCommand(), s.importCommand(), s.proxyLookCommand(), s.tapCommand(), s.topCommand(), s.applyCommand(), s.deleteCommand(), s.drainCommand(), s.undrainCommand(), s.revokeCommand(),
		s.zoneCommand(), s.tokenCommand(), s.checkCommand(), s.plaintextCommand(), s.demoCommand(), s.completionCommand(), s.versionCommand(),
		contextsHelp(),
	)
	root.CompletionOptions.DisableDefaultCmd = true // ours has no more than what is tested
	completeNothing(root)
	refuseUnknown(root)
	return root
}

// must is for what only a mistake in this program can break.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// asFault gives cobra's own complaints their four parts, and every complaint about usage the help of the command that was run.
func asFault(cmd *cobra.Command, err error) error {
	help := cmd.CommandPath() + " --help"
	if f, ok := errors.AsType[*fault.Error](err); ok {
		f.Docs = firstOf(f.Docs, docsOf(cmd))
		if f.Code == codeUsage {
			f.Try = firstOf(f.Try, help)
		}
		return err
	}
	text := err.Error()
	if strings.HasPrefix(text, "unknown command") { // cobra's word for an argument where none belongs
		text = cmd.CommandPath() + " takes no arguments"
	}
	for _, usageError := range []string{cmd.CommandPath() + " takes", "accepts ", "requires ", "required flag", "unknown flag", "invalid argument"} {
		if strings.HasPrefix(text, usageError) {
			return &fault.Error{Code: codeUsage, What: text, Cause: "it is used as: " + cmd.UseLine(), Exit: fault.ExitUsage, Try: help, Docs: docsOf(cmd)}
		}
	}
	return err
}

// docsOf is where a command is documented: by a heading of its own if it has one.
func docsOf(cmd *cobra.Command) string {
	const page = "docs/cli.md"
	for cmd.HasParent() && cmd.Parent().HasParent() {
		cmd = cmd.Parent()
	}
	switch name := cmd.Name(); name {
	case "apply", "check", "compile", "describe", "diff", "get", "import", "plaintext", "proxy", "tap", "top":
		return page + "#" + name
	case "zone", "drain", "undrain", "revoke":
		return page + "#drain-leave-revoke"
	}
	return page + "#errors"
}

func (s *shell) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version.Version, "commit": version.Commit}
			if done, err := writeValue(s.out, s.output, v); done {
				return err
			}
			_, err := s.out.Write([]byte("comity " + version.String() + "\n"))
			return err
		},
	}
}

func contextsHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "contexts",
		Short: "How comity finds a control plane",
		Long: `comity takes the address of a control plane and a token from, first to last:

  1. --server, --token-file, --ca-file
  2. COMITY_SERVER, COMITY_TOKEN or COMITY_TOKEN_FILE, COMITY_CA_FILE
  3. a context of the configuration file: the one that --context or COMITY_CONTEXT names,
     else its current-context

A token goes nowhere but to the server that it is for. With --server or COMITY_SERVER, the token and CA of a context are
used only if the context names exactly that server; otherwise give --token-file, COMITY_TOKEN or COMITY_TOKEN_FILE.

The configuration file is --config, else COMITY_CONFIG, else $XDG_CONFIG_HOME/comity/config.yaml:

  current-context: global
  contexts:
  - name: global
    server: https://comity.example:7400
    ca-file: ca.pem
    token-file: admin.token

A context may be a zone: a zone answers the same requests as global, for its own resources.`,
	}
}
