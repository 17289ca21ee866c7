package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

func (s *shell) proxyLookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Look into a running proxy: its configuration, counters and endpoints",
		Long: `proxy asks the Envoy of a sidecar or ingress what it runs at this moment, through its zone, from global or at the zone
itself. comity compile shows what it should run; comity describe proxy, which revision it has acknowledged.

NAME is that of a workload or ingress, as in the column PROXY of comity get proxies. It takes an admin's token.`,
	}
	for _, sub := range []struct{ what, short, long string }{
		{"config", "Print the whole configuration of a proxy", "config prints Envoy's config_dump with endpoints, as YAML or with -o json. Private keys are not in it: Envoy leaves them out."},
		{"stats", "Print the counters of a proxy", "stats prints the counters, gauges and histograms that were ever touched, one a line; --filter leaves those whose name contains a word."},
		{"clusters", "Print the endpoints of a proxy, and how each does", "clusters prints Envoy's view of every endpoint: health, weight, priority, connections, requests, failures. -o json gives all of it."},
	} {
		cmd.AddCommand(s.inspectCommand(sub.what, sub.short, sub.long))
	}
	return cmd
}

func (s *shell) inspectCommand(what, short, long string) *cobra.Command {
	var zone, filter string
	cmd := &cobra.Command{
		Use: what + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeProxy,
		Example: "  comity proxy " + what + " shop/web-1\n  comity proxy " + what + " ingress/gate --zone east",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			list, err := r.Proxies(cmd.Context(), zone)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(args[0], "proxy/")
			known := knownProxies(list)
			list = filterProxies(list, []string{name}, "")
			switch {
			case len(list) == 0:
				return missing("proxy", name, known, "comity get proxies")
			case len(list) > 1:
				return severalProxies(name, list)
			}
			data, err := r.Inspect(cmd.Context(), list[0].Zone, list[0].Proxy, what)
			if err != nil {
				return err
			}
			return s.showInspected(what, filter, data)
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "zone of the proxy")
	must(cmd.RegisterFlagCompletionFunc("zone", s.completeZones))
	if what == "stats" {
		cmd.Flags().StringVar(&filter, "filter", "", "only counters whose name contains this")
	}
	return cmd
}

// severalProxies is the complaint about a name that is not enough.
func severalProxies(name string, list []mesh.ProxyStatus) error {
	var where []string
	for _, p := range list {
		where = append(where, p.Zone+": "+proxyName(p.Proxy))
	}
	return usage("several proxies are called %q (%s): say --zone, or NAMESPACE/NAME", name, strings.Join(where, ", "))
}

func (s *shell) showInspected(what, filter string, data []byte) error {
	switch {
	case what == "stats":
		return s.showStats(filter, data)
	case what == "clusters" && s.output != formatJSON && s.output != formatYAML:
		return s.showClusters(data)
	case s.output == formatJSON:
		var out bytes.Buffer
		if err := json.Indent(&out, data, "", "  "); err != nil {
			return unreadable(what, err)
		}
		_, err := fmt.Fprintln(s.out, out.String())
		return err
	}
	out, err := yaml.JSONToYAML(data)
	if err != nil {
		return unreadable(what, err)
	}
	_, err = s.out.Write(out)
	return err
}

func unreadable(what string, err error) error {
	return &fault.Error{Code: "PROXY-ANSWER", What: "the proxy's " + what + " can't be read", Err: err, Try: "compare comity version with the Envoy that runs"}
}

func (s *shell) showStats(filter string, data []byte) error {
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || !strings.Contains(name, filter) {
			continue
		}
		values[name] = value
		if s.output != formatJSON && s.output != formatYAML {
			fmt.Fprintln(s.out, clean(strings.TrimSpace(line)))
		}
	}
	_, err := writeValue(s.out, s.output, values)
	return err
}

// envoyClusters is what is shown of Envoy's /clusters (envoy.admin.v3.Clusters).
type envoyClusters struct {
	Clusters []struct {
		Name  string `json:"name"`
		Hosts []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
				Pipe struct {
					Path string `json:"path"`
				} `json:"pipe"`
			} `json:"address"`
			Stats []struct {
				Name  string      `json:"name"`
				Value json.Number `json:"value"`
			} `json:"stats"`
			Health struct {
				EDS     string `json:"eds_health_status"`
				Outlier bool   `json:"failed_outlier_check"`
				Active  bool   `json:"failed_active_health_check"`
			} `json:"health_status"`
			Weight   uint32 `json:"weight"`
			Priority uint32 `json:"priority"`
			Locality struct {
				Zone string `json:"zone"`
			} `json:"locality"`
		} `json:"host_statuses"`
	} `json:"cluster_statuses"`
}

func (s *shell) showClusters(data []byte) error {
	var all envoyClusters
	if err := json.Unmarshal(data, &all); err != nil {
		return unreadable("clusters", err)
	}
	t := table{columns: []string{"CLUSTER", "ENDPOINT", "ZONE", "PRIORITY", "WEIGHT", "STATE", "CONNECTIONS", "REQUESTS", "FAILED"}}
	for _, c := range all.Clusters {
		for _, h := range c.Hosts {
			stat := map[string]string{}
			for _, st := range h.Stats {
				stat[st.Name] = string(st.Value)
			}
			at := h.Address.Pipe.Path
			if at == "" {
				at = fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)
			}
			state := strings.ToLower(h.Health.EDS)
			switch {
			case h.Health.Outlier:
				state = "ejected"
			case h.Health.Active:
				state = "unhealthy"
			}
			t.rows = append(t.rows, []string{
				c.Name, at, h.Locality.Zone, fmt.Sprint(h.Priority), fmt.Sprint(h.Weight), state,
				zero(stat["cx_active"]), zero(stat["rq_total"]), zero(stat["rq_error"]),
			})
		}
	}
	slices.SortFunc(t.rows, slices.Compare[[]string])
	return t.write(s.out, s.output, true)
}

// zero is what Envoy leaves out.
func zero(n string) string {
	if n == "" {
		return "0"
	}
	return n
}
