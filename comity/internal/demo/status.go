package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// State is what a running demo leaves in its folder for `comity demo status` and `down`.
type State struct {
	PID      int               `json:"pid"`
	Started  string            `json:"started"` // the process's start time as the kernel has it, so that a reused PID is not mistaken
	Global   string            `json:"global"`
	Zones    map[string]string `json:"zones"`    // REST address of each
	Shoppers map[string]string `json:"shoppers"` // address of each one's figures
}

// DefaultDir is the folder of a demo for which none is said.
const DefaultDir = ".demo"

// DirFlag is what a hint to type another command of the demo says of the folder: nothing if it is the default one of the
// working folder.
func DirFlag(dir string) string {
	here, err := filepath.Abs(DefaultDir)
	there, failed := filepath.Abs(dir)
	if err == nil && failed == nil && here == there {
		return ""
	}
	return " --dir " + dir
}

func stateFile(dir string) string { return filepath.Join(dir, "demo.json") }

// ReadState reads what a demo left.
func ReadState(dir string) (State, error) {
	var s State
	text, err := os.ReadFile(stateFile(dir))
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(text, &s)
	return s, err
}

// startTime is field 22 of /proc/PID/stat.
func startTime(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

func (s State) alive() bool { return s.PID != 0 && s.Started != "" && startTime(s.PID) == s.Started }

// Save writes the state of this process's demo.
func (d *Demo) Save() error {
	s := State{PID: os.Getpid(), Started: startTime(os.Getpid()), Global: "http://" + addr(globalHost(d.net), portAPI), Zones: map[string]string{}, Shoppers: map[string]string{}}
	for _, z := range d.zones {
		s.Zones[z.name] = d.zoneAPI(z.name)
	}
	for _, w := range d.shoppers() {
		s.Shoppers[w.name] = "http://" + addr(w.host, portApp)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(stateFile(d.opts.Dir), text, 0o600)
}

// Stop ends the demo that runs in the folder and waits until it is gone.
func Stop(ctx context.Context, dir string) (bool, error) {
	s, err := ReadState(dir)
	if err != nil || !s.alive() {
		return false, nil
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return false, err
	}
	return true, poll(ctx, 40*time.Second, func() (bool, error) { return !s.alive(), nil })
}

// Hop is one handler of an order.
type Hop struct {
	Service  string `json:"service"`
	Workload string `json:"workload"`
	Zone     string `json:"zone"`
	Caller   string `json:"caller"`
}

// Order is the shop's answer.
type Order struct {
	Order   string `json:"order"`
	Receipt string `json:"receipt,omitempty"`
	Journal string `json:"journal,omitempty"` // the ledger that entered it over TCP
	Trail   []Hop  `json:"trail"`
	Error   string `json:"error,omitempty"`
}

// Shopper is what one shopper has seen.
type Shopper struct {
	Sent      uint64  `json:"sent"`
	OK        uint64  `json:"ok"`
	Failed    uint64  `json:"failed"`
	CrossZone uint64  `json:"crossZone"`
	LongestMS float64 `json:"longestMs"`
	Last      *Order  `json:"last,omitempty"`
	LastError string  `json:"lastError,omitempty"`
}

func (d *Demo) shoppers() []workloadPlan {
	var out []workloadPlan
	for _, z := range d.zones {
		for _, w := range z.workloads {
			if w.app == "shopper" {
				out = append(out, w)
			}
		}
	}
	return out
}

func (d *Demo) shopper(ctx context.Context, w workloadPlan) (Shopper, error) {
	return fetchShopper(ctx, "http://"+addr(w.host, portApp))
}

func fetchShopper(ctx context.Context, url string) (Shopper, error) {
	var s Shopper
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return s, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	err = json.NewDecoder(res.Body).Decode(&s)
	return s, err
}

// Status is the answer of `comity demo status`.
type Status struct {
	Running          bool               `json:"running"`
	Zones            []ZoneLine         `json:"zones"`
	Proxies          int                `json:"proxies"`
	ProxiesConnected int                `json:"proxiesConnected"`
	Shoppers         map[string]Shopper `json:"shoppers"`
	// Broken is what `comity demo break` broke and nobody has fixed yet.
	Broken []string `json:"broken"`
	zones  []string // of the running demo, whether global answers or not
	Error  string   `json:"error,omitempty"`
}

// Breakable lists what can be broken in the running demo and is not.
func (st Status) Breakable() []string {
	if !st.Running {
		return nil
	}
	return slices.DeleteFunc(breakable(st.zones), func(name string) bool { return slices.Contains(st.Broken, name) })
}

// ZoneLine is one zone of a Status.
type ZoneLine struct {
	Zone      string        `json:"zone"`
	Connected bool          `json:"connected"`
	Wanted    mesh.Revision `json:"wanted"`
	Acked     mesh.Revision `json:"acked"`
	Proxies   int           `json:"proxies"`
}

// Look asks a running demo's global and shoppers how it goes.
func Look(ctx context.Context, dir string) (Status, error) {
	s, err := ReadState(dir)
	if err != nil || !s.alive() {
		return Status{}, nil
	}
	st := Status{Running: true, Shoppers: map[string]Shopper{}, zones: slices.Sorted(maps.Keys(s.Zones))}
	for name, url := range s.Shoppers {
		if sh, err := fetchShopper(ctx, url); err == nil {
			st.Shoppers[name] = sh
		}
	}
	if st.Broken, err = fetchBroken(ctx, dir); err != nil {
		return st, err
	}
	token, err := os.ReadFile(filepath.Join(dir, "tokens", "global.token"))
	if err != nil {
		return st, err
	}
	c, err := client.New(client.Config{Server: s.Global, Token: strings.TrimSpace(string(token))})
	if err != nil {
		return st, err
	}
	// Global being away is a state of the demo, not a failure of asking.
	if err := st.ask(ctx, c); err != nil {
		st.Error = err.Error()
	}
	return st, nil
}

func (st *Status) ask(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	kind, _ := policy.Lookup("zones")
	zones, err := c.ListAll(ctx, kind, client.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range zones {
		var z client.ZoneObjectStatus
		if err := json.Unmarshal(o.Status, &z); err != nil {
			return err
		}
		st.Proxies += z.Proxies
		if z.Unheard != nil {
			z.ProxiesConnected = 0 // nobody knows
		}
		st.Zones = append(st.Zones, ZoneLine{Zone: o.Metadata.Name, Connected: z.Connected, Wanted: z.Wanted, Acked: z.Acked, Proxies: z.ProxiesConnected})
		st.ProxiesConnected += z.ProxiesConnected
	}
	slices.SortFunc(st.Zones, func(a, b ZoneLine) int { return strings.Compare(a.Zone, b.Zone) })
	return nil
}

// Line is the status in one line; rate is the orders a second since the line before.
func (st Status) Line(before Status, since time.Duration) string {
	var connected int
	for _, z := range st.Zones {
		if z.Connected {
			connected++
		}
	}
	now, then := st.sum(), before.sum()
	rate := float64(now.Sent-min(then.Sent, now.Sent)) / max(since.Seconds(), 0.001)
	line := fmt.Sprintf("live   zones %d/%d   proxies %d/%d   %.0f orders/s   failed %d of %d   across zones %d%%   longest %.0f ms",
		connected, len(st.Zones), st.ProxiesConnected, st.Proxies, rate, now.Failed, now.Sent, percent(now.CrossZone, now.OK), now.LongestMS)
	if st.Error != "" {
		line = "live   global is away   " + strings.SplitN(line, "   ", 4)[3]
	}
	if len(st.Broken) > 0 {
		line += "   broken: " + listing(st.Broken)
	}
	return line
}

func (st Status) sum() Shopper {
	var sum Shopper
	for _, s := range st.Shoppers {
		sum.Sent += s.Sent
		sum.OK += s.OK
		sum.Failed += s.Failed
		sum.CrossZone += s.CrossZone
		sum.LongestMS = max(sum.LongestMS, s.LongestMS)
	}
	return sum
}

func percent(part, whole uint64) uint64 {
	if whole == 0 {
		return 0
	}
	return part * 100 / whole
}
