package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/comity-mesh/comity/internal/config"
	"github.com/comity-mesh/comity/internal/fault"
)

type ingress struct {
	ID    string   `json:"id"`
	Ports []uint16 `json:"ports"`
}

type settings struct {
	Zone   string `json:"zone" usage:"name of the zone"`
	Listen struct {
		RESTAddress string         `json:"restAddress"`
		Metrics     netip.AddrPort `json:"metrics"`
	} `json:"listen"`
	Lease     time.Duration     `json:"lease"`
	Proxies   int               `json:"proxies"`
	Insecure  bool              `json:"insecure"`
	Names     []string          `json:"names"`
	Labels    map[string]string `json:"labels"`
	Ingresses []ingress         `json:"ingresses"`
	Token     string            `json:"token" secret:"true"`
}

func (s *settings) Validate() error {
	if s.Proxies < 0 {
		return errors.New("proxies must not be negative")
	}
	return nil
}

func defaults() settings {
	s := settings{Zone: "east", Lease: time.Minute, Names: []string{"x", "y", "z"}}
	s.Listen.RESTAddress = "127.0.0.1:0"
	return s
}

func load(t *testing.T, yaml string, environ, args []string) (config.Loaded[settings], error) {
	t.Helper()
	o := config.Options{Program: "zone-cp", Environ: environ}
	if yaml != "" {
		o.File = filepath.Join(t.TempDir(), "zone.yaml")
		if err := os.WriteFile(o.File, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.Flags = pflag.NewFlagSet("zone-cp", pflag.ContinueOnError)
	config.AddFlags(o.Flags, defaults())
	if err := o.Flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(defaults(), o)
}

func TestLaterLayersWinAndSourcesAreKnown(t *testing.T) {
	got, err := load(t, `
zone: west
listen: {restAddress: "127.0.0.1:1", metrics: "127.0.0.1:2"}
lease: 90s
names: [a]
labels: {app.example/name: shop, tier: front}
ingresses:
- {id: one, ports: [1, 2]}
token: hunter2
`,
		[]string{"COMITY_ZONE_CP_LISTEN__REST_ADDRESS=127.0.0.1:3", "COMITY_ZONE_CP_PROXIES=7", "COMITY_ZONE_CP_INSECURE=true",
			"COMITY_ZONE_CP_LABELS={tier: back}", "COMITY_ENVOY=/bin/true", "HOME=/"},
		[]string{"--listen-metrics=[::1]:4", "--names=b,c", "--proxies", "8"})
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		Zone: "west", Lease: 90 * time.Second, Proxies: 8, Insecure: true, Names: []string{"b", "c"},
		Labels: map[string]string{"tier": "back"}, Ingresses: []ingress{{"one", []uint16{1, 2}}}, Token: "hunter2",
	}
	want.Listen.RESTAddress, want.Listen.Metrics = "127.0.0.1:3", netip.MustParseAddrPort("[::1]:4")
	if d := cmp.Diff(want, got.Value, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	sources := map[string]string{}
	for _, s := range got.Settings {
		sources[s.Key] = strings.Fields(s.Source)[0]
		if strings.Contains(s.Value, "hunter2") {
			t.Error("a secret is shown")
		}
	}
	wantSources := map[string]string{
		"zone": "file", "listen.restAddress": "env", "listen.metrics": "flag", "lease": "file", "proxies": "flag",
		"insecure": "env", "names": "flag", "labels": "env", "ingresses": "file", "token": "file",
	}
	if d := cmp.Diff(wantSources, sources); d != "" {
		t.Error(d)
	}
}

func TestDefaultsAlone(t *testing.T) {
	got, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Value.Lease != time.Minute || len(got.Value.Names) != 3 || got.Settings[0] != (config.Setting{Key: "zone", Value: "east", Source: "default"}) {
		t.Errorf("got %+v", got)
	}
}

func TestAListOfTheFileReplacesTheDefault(t *testing.T) {
	got, err := load(t, "names: [a]\nlisten:\n", nil, nil)
	if err != nil || !cmp.Equal(got.Value.Names, []string{"a"}) {
		t.Errorf("got %v, %v", got.Value.Names, err)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		yaml       string
		env        string
		args       []string
		code, says string
	}{
		"unknown key":         {yaml: "listen: {restAdress: x}", code: "CONFIG-UNKNOWN", says: "did you mean listen.restAddress?"},
		"unknown section":     {yaml: "nothing: {}", code: "CONFIG-UNKNOWN", says: "nothing"},
		"unknown in list":     {yaml: "ingresses: [{id: a, prots: [1]}]", code: "CONFIG-VALUE", says: "prots"},
		"unknown variable":    {env: "COMITY_ZONE_CP_ZONES=a", code: "CONFIG-UNKNOWN", says: "COMITY_ZONE_CP_ZONE?"},
		"wrong type":          {yaml: "proxies: many", code: "CONFIG-VALUE", says: "file "},
		"wrong type in flag":  {args: []string{"--lease=soon"}, code: "CONFIG-VALUE", says: "flag --lease"},
		"wrong address":       {env: "COMITY_ZONE_CP_LISTEN__METRICS=here", code: "CONFIG-VALUE", says: "COMITY_ZONE_CP_LISTEN__METRICS"},
		"section is no value": {yaml: "listen: 7", code: "CONFIG-VALUE", says: "listen"},
		"not YAML":            {yaml: "a: [", code: "CONFIG-YAML"},
		"key twice":           {yaml: "zone: a\nzone: b", code: "CONFIG-YAML", says: "already defined"},
		"too large":           {yaml: "zone: " + strings.Repeat("a", 1<<20), code: "CONFIG-FILE", says: "larger"},
		"not valid":           {yaml: "proxies: -1", code: "CONFIG-INVALID", says: "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			var env []string
			if c.env != "" {
				env = []string{c.env}
			}
			_, err := load(t, c.yaml, env, c.args)
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Code != c.code {
				t.Fatalf("got %v, want code %s", err, c.code)
			}
			var shown strings.Builder
			if err := f.Render(&shown); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(shown.String(), c.says) {
				t.Errorf("%q is not in\n%s", c.says, shown.String())
			}
		})
	}
}

func TestAMissingFileIsAnError(t *testing.T) {
	_, err := config.Load(defaults(), config.Options{Program: "zone-cp", File: filepath.Join(t.TempDir(), "none.yaml")})
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "CONFIG-FILE" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestFlagsShowDefaultsAndUsage(t *testing.T) {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	config.AddFlags(flags, defaults())
	help := flags.FlagUsages()
	for _, want := range []string{"--zone string", "name of the zone", "(default 1m0s)", "--listen-rest-address", "--insecure"} {
		if !strings.Contains(help, want) {
			t.Errorf("%q is not in\n%s", want, help)
		}
	}
}

func TestListsOfNumbersWithoutBrackets(t *testing.T) {
	type lanes struct {
		Lanes []uint16 `json:"lanes"`
	}
	for text, want := range map[string][]uint16{"15443": {15443}, "15443,15444": {15443, 15444}, "[15443, 15444]": {15443, 15444}} {
		flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
		config.AddFlags(flags, lanes{})
		if err := flags.Parse([]string{"--lanes", text}); err != nil {
			t.Fatal(err)
		}
		got, err := config.Load(lanes{}, config.Options{Program: "x", Flags: flags})
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got.Value.Lanes); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
