package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/comity-mesh/comity/internal/fault"
)

// The demo's processes are its own: only it can start them again. So it takes orders over a Unix socket in its
// folder, as HTTP: GET /broken answers a list; POST /break?what= and /fix?what= answer a line of JSON for each thing
// done (update), the last of which is a report or an error.

const controlSocket = "control.sock"

// update is one line of an answer; one field is set.
type update struct {
	Note   string       `json:"note,omitempty"`
	Report *FaultReport `json:"report,omitempty"`
	Error  *refusal     `json:"error,omitempty"`
}

// refusal is a fault.Error on its way.
type refusal struct {
	Code  string `json:"code"`
	What  string `json:"what"`
	Cause string `json:"cause,omitempty"`
	Try   string `json:"try,omitempty"`
	Exit  int    `json:"exit,omitempty"`
}

// ServeControl takes orders until ctx ends or the returned function is called, which waits for the one under way.
func (d *Demo) ServeControl(ctx context.Context) (stop func(), err error) {
	dir, err := os.Open(d.opts.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socketPath(dir))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// The folder is its owner's alone already.
	if err := os.Chmod(d.path(controlSocket), 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /broken", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(d.Broken()) // who asked has gone
	})
	mux.HandleFunc("POST /break", d.order(ctx, d.Break))
	mux.HandleFunc("POST /fix", d.order(ctx, d.Fix))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }() // it returns when it is closed
	return func() {
		cancel()
		_ = srv.Close()
		<-served
		d.faults.busy.Lock() // the order under way
		defer d.faults.busy.Unlock()
		_ = os.Remove(d.path(controlSocket)) // the next demo empties the folder anyway
	}, nil
}

// order carries out a break or a fix and tells how it goes. One that was begun is finished unless ctx ends: the Ctrl-C
// of who asked must not leave half a zone.
func (d *Demo) order(ctx context.Context, do func(ctx context.Context, what string, say func(string)) (FaultReport, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tell := func(u update) {
			_ = json.NewEncoder(w).Encode(u) // who asked has gone: the order is carried out all the same
			_ = http.NewResponseController(w).Flush()
		}
		report, err := do(ctx, r.FormValue("what"), func(note string) { tell(update{Note: note}) })
		if err == nil {
			tell(update{Report: &report})
			return
		}
		e := refusal{Code: "DEMO-FAULT", What: err.Error(), Exit: fault.ExitCode(err)}
		if f, ok := errors.AsType[*fault.Error](err); ok {
			e = refusal{Code: f.Code, What: f.What, Cause: f.Cause, Try: f.Try, Exit: f.Exit}
			if f.Cause == "" && f.Err != nil {
				e.Cause = f.Err.Error()
			}
		}
		tell(update{Error: &e})
	}
}

// socketPath reaches the socket through its open folder: the path of a socket is at most 107 bytes.
func socketPath(dir *os.File) string {
	if p := filepath.Join(dir.Name(), controlSocket); len(p) <= 107 {
		return p
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlSocket)
}

// Ask asks the demo that runs in the folder to "break" or "fix" something, and says how it goes.
func Ask(ctx context.Context, dir, verb, what string, say func(string)) (FaultReport, error) {
	if s, err := ReadState(dir); err != nil || !s.alive() {
		return FaultReport{}, &fault.Error{Code: "DEMO-NOT-RUNNING", What: "no demo runs in " + dir, Try: "make demo", Exit: fault.ExitNotFound}
	}
	res, err := send(ctx, dir, http.MethodPost, "/"+verb+"?what="+url.QueryEscape(what))
	if errors.Is(err, fs.ErrNotExist) {
		return FaultReport{}, &fault.Error{Code: "DEMO-BUSY", What: "this demo takes no orders", Cause: "it plays its story (--check), or is about to end", Try: "make demo", Exit: fault.ExitConflict}
	}
	if err != nil {
		return FaultReport{}, &fault.Error{Code: "DEMO-CONTROL", What: "the demo does not answer on its control socket", Err: err, Exit: fault.ExitUnreachable}
	}
	defer res.Body.Close()
	lines := json.NewDecoder(io.LimitReader(res.Body, 1<<20))
	for {
		var u update
		if err := lines.Decode(&u); err != nil {
			return FaultReport{}, &fault.Error{Code: "DEMO-CONTROL", What: "the demo ended before it had answered", Err: err, Try: "comity demo" + DirFlag(dir) + " status", Exit: fault.ExitUnreachable}
		}
		switch {
		case u.Report != nil:
			return *u.Report, nil
		case u.Error != nil:
			return FaultReport{}, &fault.Error{Code: u.Error.Code, What: u.Error.What, Cause: u.Error.Cause, Try: u.Error.Try, Exit: u.Error.Exit}
		default:
			say(u.Note)
		}
	}
}

// fetchBroken asks a running demo what is broken; one that takes no orders has nothing broken by order.
func fetchBroken(ctx context.Context, dir string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := send(ctx, dir, http.MethodGet, "/broken")
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var out []string
	return out, json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&out)
}

func send(ctx context.Context, dir, method, path string) (*http.Response, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socketPath(folder))
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://demo"+path, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}
