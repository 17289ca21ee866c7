package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/comity-mesh/comity/comity/internal/demo"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
)

// envDemoDir is the folder of the demo to which comity demo env points a shell.
const envDemoDir = "COMITY_DEMO_DIR"

func (s *shell) demoCommand() *cobra.Command {
	var check bool
	o := demo.Options{Out: s.out}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a mesh of three zones on this machine, with real Envoys and a shop in them",
		Long: `demo runs global, three zones that join it, their ingresses, and a small shop with a real Envoy beside each
of its workloads, all on loopback addresses, without root. Ctrl-C ends everything; nothing is left but its folder (.demo).

With --check it plays a story instead: requests across zones, refusals, a change of permission; then, under 200 GETs a second of
which none may fail: a zone killed, global killed, a zone's control plane killed meanwhile, a zone drained, a zone
revoked. It prints each step with its figures and ends with 0 only if every step held; it takes about
40 seconds on two cores.`,
		Example: `  comity demo
  eval "$(bin/comity demo env)"; comity get zones      # in another terminal
  comity demo break onprem; comity demo fix
  comity demo status -o json
  comity demo down`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.runDemo(cmd.Context(), o, check) },
	}
	p := cmd.PersistentFlags()
	p.StringVar(&o.Dir, "dir", firstOf(s.getenv(envDemoDir), demo.DefaultDir), "folder of the demo, emptied at the start ("+envDemoDir+")")
	must(cmd.MarkPersistentFlagDirname("dir"))
	f := cmd.Flags()
	f.StringVar(&o.Bin, "bin", "", "folder with the other programs (default: where comity is)")
	f.Float64Var(&o.Rate, "rate", 10, "orders a second of each of the two shoppers")
	f.BoolVar(&o.Postgres, "postgres", false, "keep global's store in a real Postgres (make tools) instead of a file")
	f.BoolVar(&check, "check", false, "play the story without a person, then end")
	cmd.AddCommand(s.demoBreak(&o), s.demoFix(&o), s.demoStatus(&o), s.demoDown(&o), s.demoEnv(&o))
	return cmd
}

func (s *shell) runDemo(ctx context.Context, o demo.Options, check bool) error {
	if o.Bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		o.Bin = filepath.Dir(exe)
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return err
	}
	if o.Rate <= 0 || o.Rate > 1000 {
		return usage("--rate must be above 0 and at most 1000 orders a second")
	}
	if _, err := envoybin.Path(); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "comity demo: everything runs on loopback addresses of this machine; Ctrl-C ends it all")
	d, err := demo.Up(ctx, o)
	if err != nil {
		return err
	}
	defer d.Down(ctx)
	fmt.Fprintf(s.out, "✓ %-34s %5.1fs   from the first process on\n", "mesh is up", d.Age().Seconds())
	if err := d.Save(); err != nil {
		return err
	}
	if check {
		return d.Check(ctx)
	}
	stopOrders, err := d.ServeControl(ctx)
	if err != nil {
		return err
	}
	defer stopOrders()
	console, tokenFile := d.Console()
	caller, host := d.Example()
	fmt.Fprintf(s.out, `
  Console  %s   sign in with the token in %s

  In another terminal, in this folder:
    eval "$(%s demo%s env)"          # puts comity into PATH and points it at this demo's global
    comity get zones; comity get proxies; comity get authorizationpolicies
    comity describe authorizationpolicy/cart-to-pay -n shop
    comity --context onprem get workloads  # a zone answers for itself
    curl -H 'Host: %s' http://%s/balance   # as an application of gcp-west
    comity tap ledger -n shop              # requests as they happen
    comity demo break onprem               # kill -9 of a whole zone; then: comity demo fix
    comity demo status -o json; comity demo down

`, console, tokenFile, os.Args[0], demo.DirFlag(o.Dir), host, caller)
	return s.liveLine(ctx, o.Dir)
}

// liveLine prints how it goes: one line rewritten on a terminal, else a line every ten seconds.
func (s *shell) liveLine(ctx context.Context, dir string) error {
	tty := false
	if f, ok := s.out.(*os.File); ok {
		tty = term.IsTerminal(int(f.Fd()))
	}
	interval := 10 * time.Second
	if tty {
		interval = time.Second
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	before, _ := demo.Look(ctx, dir)
	at := time.Now()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(s.out, "\nstopping")
			return nil
		case <-tick.C:
		}
		now, err := demo.Look(ctx, dir)
		if err != nil {
			continue
		}
		line := now.Line(before, time.Since(at))
		if tty {
			fmt.Fprintf(s.out, "\r\x1b[K%s", line)
		} else {
			fmt.Fprintln(s.out, line)
		}
		before, at = now, time.Now()
	}
}

func (s *shell) demoStatus(o *demo.Options) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say how the demo in this folder goes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := demo.Look(cmd.Context(), o.Dir)
			if err != nil {
				return err
			}
			if done, err := writeValue(s.out, s.output, st); done {
				return err
			}
			if !st.Running {
				return &fault.Error{Code: "DEMO-NOT-RUNNING", What: "no demo runs in " + o.Dir, Try: "make demo", Exit: fault.ExitNotFound}
			}
			zones := table{columns: []string{"ZONE", "CONNECTED", "REVISION", "PROXIES"}}
			for _, z := range st.Zones {
				zones.rows = append(zones.rows, []string{z.Zone, yesNo(z.Connected), fmt.Sprintf("%d/%d", z.Acked, z.Wanted), fmt.Sprint(z.Proxies)})
			}
			if err := zones.write(s.out, s.output, true); err != nil {
				return err
			}
			shoppers := table{columns: []string{"SHOPPER", "ORDERS", "FAILED", "ACROSS ZONES", "LONGEST", "LAST ERROR"}}
			var names []string
			for name := range st.Shoppers {
				names = append(names, name)
			}
			sort.Strings(names)
			for _, name := range names {
				sh := st.Shoppers[name]
				shoppers.rows = append(shoppers.rows, []string{name, fmt.Sprint(sh.Sent), fmt.Sprint(sh.Failed), fmt.Sprint(sh.CrossZone), fmt.Sprintf("%.0f ms", sh.LongestMS), short(sh.LastError)})
			}
			fmt.Fprintln(s.out)
			if len(st.Broken) > 0 {
				fmt.Fprintln(s.out, "broken: "+strings.Join(st.Broken, ", ")+"; comity demo"+demo.DirFlag(o.Dir)+" fix mends it\n")
			}
			if st.Error != "" {
				fmt.Fprintln(s.err, "global does not answer: "+clean(st.Error))
			}
			return shoppers.write(s.out, s.output, true)
		},
	}
}

func (s *shell) demoDown(o *demo.Options) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the demo that runs in this folder", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			was, err := demo.Stop(cmd.Context(), o.Dir)
			if err != nil {
				return err
			}
			if done, err := writeValue(s.out, s.output, map[string]any{"dir": o.Dir, "ended": was}); done {
				return err
			}
			if !was {
				fmt.Fprintln(s.out, "no demo runs in "+o.Dir)
				return nil
			}
			fmt.Fprintln(s.out, "the demo has ended")
			return nil
		},
	}
}

func (s *shell) demoEnv(o *demo.Options) *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: "Print the environment in which comity speaks with the demo, for eval", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := filepath.Abs(o.Dir)
			if err != nil {
				return err
			}
			if _, err := demo.ReadState(dir); err != nil {
				return &fault.Error{Code: "DEMO-NOT-RUNNING", What: "no demo runs in " + o.Dir, Try: "make demo", Exit: fault.ExitNotFound}
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			fmt.Fprintln(s.out, "unset COMITY_SERVER COMITY_TOKEN COMITY_TOKEN_FILE COMITY_CA_FILE COMITY_CONTEXT")
			fmt.Fprintf(s.out, "export COMITY_CONFIG=%q\nexport "+envDemoDir+"=%q\nexport PATH=%q:\"$PATH\"\n", demo.ConfigFile(dir), dir, filepath.Dir(exe))
			return nil
		},
	}
}
