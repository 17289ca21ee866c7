// Package program is what the programs sidecar and ingress have in common around dataplane.Run: their
// commands, where their token comes from, and how errors reach a person.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/dataplane"
	"github.com/comity-mesh/comity/internal/config"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/internal/version"
)

// TokenEnv is the environment variable that may hold the enrolment token. It is removed from the
// program's environment as soon as it is read. There is no flag: what is in argv, everybody can read.
const TokenEnv = "COMITY_ENROL_TOKEN"

const maxToken = 16 << 10

// Envoy is the section `envoy` of both programs' configuration.
type Envoy struct {
	Path           string `json:"path" usage:"Envoy's program; default: COMITY_ENVOY, then the repository's tools, then PATH"`
	Concurrency    int    `json:"concurrency" usage:"worker threads of Envoy; 0 means 1 for a sidecar, 2 for an ingress"`
	LogLevel       string `json:"logLevel" usage:"least level of Envoy's own log: trace, debug, info, warning, error, critical or off"`
	MaxConnections int    `json:"maxConnections" usage:"connections that Envoy accepts in all; 0 means 10000 for a sidecar, 50000 for an ingress"`
}

// Metrics is the section `metrics` of both programs' configuration.
type Metrics struct {
	Address string `json:"address" usage:"host:port of /metrics, /healthz and /readyz, on loopback; empty: none; port 0: any"`
	Public  bool   `json:"public" usage:"allow a metrics address that is not loopback"`
	// Application is of sidecars.
	Application string `json:"application" usage:"http URL of the application's own metrics, which /metrics then has too; empty: none"`
}

// Locality is the section `locality` of both programs' configuration: a mesh.Locality with what people are told of it.
type Locality struct {
	Cloud  string `json:"cloud,omitempty" usage:"cloud or site where this machine is, as aws; default: the zone's"`
	Region string `json:"region,omitempty" usage:"region of the cloud, as us-east-1; default: the zone's"`
	Zone   string `json:"zone,omitempty" usage:"availability zone of the region, as us-east-1a; it is no zone of the mesh, which the token says"`
}

// Common is a program's configuration in the form that both share.
type Common struct {
	TokenFile string
	Log       telemetry.LogConfig
	Envoy     Envoy
	Metrics   Metrics
	// Proxy is everything else. The fields above are filled in by this package.
	Proxy dataplane.Config
}

// Program is one of the two.
type Program[T any] struct {
	Name, Short, Long string
	Defaults          T
	// Common turns the configuration into what runs.
	Common func(T) Common
}

// Main runs the program with the process's arguments, environment and signals, and returns its exit code.
func (p Program[T]) Main() int {
	ctx, stop := lifecycle.WithSignals(context.Background())
	defer stop()
	return fault.Print(os.Stderr, p.command().ExecuteContext(ctx))
}

func (p Program[T]) command() *cobra.Command {
	root := &cobra.Command{
		Use: p.Name, Short: p.Short, Long: p.Long, SilenceErrors: true, SilenceUsage: true, Version: version.String(),
		Args: cobra.NoArgs,
	}
	root.SetFlagErrorFunc(usageFault(p.Name))
	run := p.configured("run", "Run the proxy until SIGINT or SIGTERM", func(cmd *cobra.Command, l config.Loaded[T]) error {
		return p.run(cmd.Context(), cmd.InOrStdin(), p.Common(l.Value))
	})
	check := p.configured("check-config", "Check the configuration and show where each setting comes from", func(cmd *cobra.Command, l config.Loaded[T]) error {
		d := p.Common(l.Value).proxy()
		if err := d.Check(); err != nil {
			return invalid(err)
		}
		for _, s := range l.Settings {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-24s %-32s %s\n", s.Key, s.Value, s.Source); err != nil {
				return err
			}
		}
		return nil
	})
	show := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), p.Name, version.String())
		return err
	}}
	root.AddCommand(run, check, show)
	return root
}

// configured is a command that reads the configuration first.
func (p Program[T]) configured(use, short string, do func(*cobra.Command, config.Loaded[T]) error) *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		l, err := config.Load(p.Defaults, config.Options{Program: p.Name, File: file, Environ: os.Environ(), Flags: cmd.Flags()})
		if err != nil {
			return err
		}
		return do(cmd, l)
	}}
	cmd.Flags().StringVarP(&file, "config", "c", "", "YAML file with the settings")
	config.AddFlags(cmd.Flags(), p.Defaults)
	return cmd
}

func usageFault(name string) func(*cobra.Command, error) error {
	return func(_ *cobra.Command, err error) error {
		return &fault.Error{Code: "USAGE", What: "the command line can't be read", Err: err, Try: name + " --help", Exit: fault.ExitUsage}
	}
}

func invalid(err error) error {
	return &fault.Error{
		Code: "CONFIG-INVALID", What: "the configuration of this proxy is not valid", Err: err,
		Try: "correct what the cause names", Docs: "docs/configuration.md", Exit: fault.ExitUsage,
	}
}

// proxy is the whole configuration of the proxy but its token.
func (c Common) proxy() dataplane.Config {
	d := c.Proxy
	d.MetricsAddress, d.MetricsPublic, d.AppMetrics = c.Metrics.Address, c.Metrics.Public, c.Metrics.Application
	d.Envoy = dataplane.Envoy{Path: c.Envoy.Path, Concurrency: c.Envoy.Concurrency, LogLevel: c.Envoy.LogLevel, MaxConnections: c.Envoy.MaxConnections}
	return d
}

func (p Program[T]) run(ctx context.Context, stdin io.Reader, c Common) error {
	d := c.proxy()
	if err := d.Check(); err != nil {
		return invalid(err)
	}
	log, err := telemetry.NewLogger(os.Stderr, c.Log, slog.String("program", p.Name))
	if err != nil {
		return invalid(err)
	}
	if d.Token, err = readToken(c.TokenFile, stdin); err != nil {
		return err
	}
	if d.Envoy.Path == "" && !d.Proxyless() {
		if d.Envoy.Path, err = envoybin.Path(); err != nil {
			return err
		}
	}
	if d.DataDir == "" {
		log.Warn("without dataDir the instance key is in memory only: a restart needs an enrolment token again")
	}
	began := time.Now()
	err = dataplane.Run(ctx, d, log)
	log.Info("ended", "after", time.Since(began).Round(time.Millisecond))
	return err
}

// readToken reads the enrolment token from a file ("-" for stdin) or else from the environment; empty
// if there is none.
func readToken(path string, stdin io.Reader) (string, error) {
	fromEnv := os.Getenv(TokenEnv)
	if err := os.Unsetenv(TokenEnv); err != nil {
		return "", fmt.Errorf("environment: %w", err)
	}
	if path == "" {
		return strings.TrimSpace(fromEnv), nil
	}
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", tokenFault(err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxToken+1))
	if err == nil && len(raw) > maxToken {
		err = errors.New("it is too long for a token")
	}
	if err != nil {
		return "", tokenFault(err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func tokenFault(err error) error {
	return &fault.Error{
		Code: "TOKEN-FILE", What: "the file of the enrolment token can't be read", Err: err,
		Try: "check tokenFile; - reads standard input, and " + TokenEnv + " may hold the token instead", Docs: "docs/configuration.md", Exit: fault.ExitUsage,
	}
}
