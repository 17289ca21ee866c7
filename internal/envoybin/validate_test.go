package envoybin_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/envoybin"
)

// listening is a bootstrap with a listener that has a Lua script.
func listening(script string) []byte {
	return []byte(`{"static_resources": {"listeners": [{"name": "l", "address": {"pipe": {"path": "nowhere.sock"}}, "filter_chains": [{"filters": [{"name": "http", "typed_config": {
  "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "x",
  "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"]}]},
  "http_filters": [{"name": "lua", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": "` + script + `"}}},
   {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}]}}`)
}

// TestValidate has a real Envoy read configurations: good, bad, and hostile ones.
func TestValidate(t *testing.T) {
	bin, err := envoybin.Path()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bootstrap []byte
		within    time.Duration
		refusal   string // a part of it; empty for none
	}{
		"good":             {listening("function envoy_on_request(h) end"), time.Minute, ""},
		"no configuration": {[]byte(`{"static_resources": 7}`), time.Minute, "static_resources"},
		"refused":          {[]byte(`{"static_resources": {"clusters": [{"name": "c", "type": "STATIC", "lb_policy": "CLUSTER_PROVIDED"}]}}`), time.Minute, "cluster provided LB specified"},
		"without end":      {listening("while true do end"), 2 * time.Second, "did not come to an end"},
		"out of memory":    {listening("local t = {} while true do t[#t+1] = string.rep('x', 1000000) .. #t end"), time.Minute, "not enough memory"},
		"a flood of bytes": {listening("local f = io.open('full', 'w') while true do f:write(string.rep('x', 1000000)) end"), time.Minute, "signal 25"},
		"a flood of words": {listening("while true do io.stderr:write(string.rep('x', 100000)) end"), 2 * time.Second, "did not come to an end"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), c.within)
			defer cancel()
			refusal, err := envoybin.Validate(ctx, bin, dir, c.bootstrap)
			if err != nil || (refusal == "") != (c.refusal == "") || !strings.Contains(refusal, c.refusal) || len(refusal) > 1<<10 {
				t.Errorf("%q, %v", refusal, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestValidateWithoutEnvoy: what is wrong with the program is no reason against the configuration, but that it dies of it.
func TestValidateWithoutEnvoy(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "envoy")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // it is to be run
			t.Fatal(err)
		}
		return path
	}
	ask := func(ctx context.Context, program string) (string, error) {
		return envoybin.Validate(ctx, program, t.TempDir(), []byte("{}"))
	}
	if refusal, err := ask(t.Context(), filepath.Join(t.TempDir(), "envoy")); refusal != "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %q, %v", refusal, err)
	}
	if refusal, err := ask(t.Context(), script("echo no such option >&2; exit 2")); refusal != "" || err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("another program: %q, %v", refusal, err)
	}
	if refusal, err := ask(t.Context(), script("kill -SEGV $$")); err != nil || !strings.Contains(refusal, "crashes") {
		t.Errorf("a crash: %q, %v", refusal, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if refusal, err := ask(ctx, script("sleep 1000 & sleep 1000")); err != nil || !strings.Contains(refusal, "did not come to an end") {
		t.Errorf("hanging, with a child: %q, %v", refusal, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if refusal, err := ask(ctx, script("exit 0")); refusal != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %q, %v", refusal, err)
	}
}
