// Program rig serves the API and the console over a store of its own, as a global control plane does, and writes into
// it what it is told on standard input: the console's tests make a mesh of it whose zones say what a test needs.
//
// It prints one line, {"url", "token"}, and then reads lines {"bucket", "key", "value"}: a record to be written, or
// deleted where there is no value; or {"flows"} or {"tap"}, what a zone tells whoever watches it now (mesh.Flows, and a mesh.TapEvent
// with its "zone"). It answers each with a line, {"tops", "taps"}: how many watch zones; and ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/console"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

func main() {
	dir := flag.String("dir", "", "folder of the store")
	flag.Parse()
	if err := run(context.Background(), *dir); err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) (err error) {
	st, err := sqlitestore.Open(ctx, filepath.Join(dir, "rig.db"), sqlitestore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	tokens := api.NewTokens(st, nil)
	token := ""
	if err := tokens.EnsureBootstrapAdmin(ctx, func(made string) error { token = made; return nil }); err != nil {
		return err
	}
	tops, taps := newWatchers[mesh.Flows](), newWatchers[mesh.TapEvent]()
	rest, err := api.New(api.Config{
		Store: st, Mode: api.ModeGlobal, Tokens: tokens, Version: "of the rig",
		Top: func(ctx context.Context, zone string, _ mesh.Top, emit func(mesh.Flows) error) error {
			return tops.watch(ctx, zone, emit)
		},
		Tap: func(ctx context.Context, zone string, _ mesh.Tap, emit func(mesh.TapEvent) error) error {
			return taps.watch(ctx, zone, emit)
		},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	pages := console.Handler()
	mux.Handle("GET /{$}", pages)
	mux.Handle("GET /ui/", pages)
	mux.Handle("/", rest)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer server.Close()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"url": "http://" + l.Addr().String(), "token": token}); err != nil {
		return err
	}
	if err := obey(ctx, st, tops, taps); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// obey does what the lines of standard input say.
func obey(ctx context.Context, st store.Records, tops *watchers[mesh.Flows], taps *watchers[mesh.TapEvent]) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r struct {
			Bucket, Key, Zone string
			Value             json.RawMessage
			Flows             *mesh.Flows
			Tap               *mesh.TapEvent
		}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return err
		}
		switch {
		case r.Flows != nil:
			tops.tell(r.Flows.Zone, *r.Flows)
		case r.Tap != nil:
			taps.tell(r.Zone, *r.Tap)
		case r.Bucket != "":
			if _, err := st.PutRecords(ctx, r.Bucket, store.RecordWrite{Key: r.Key, Value: r.Value, Delete: len(r.Value) == 0}); err != nil {
				return err
			}
		}
		if err := json.NewEncoder(os.Stdout).Encode(map[string]int{"tops": tops.count(), "taps": taps.count()}); err != nil {
			return err
		}
	}
	return in.Err()
}
