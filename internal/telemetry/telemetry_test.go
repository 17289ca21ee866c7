package telemetry_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/comity-mesh/comity/internal/telemetry"
)

func TestLogLines(t *testing.T) {
	for format, want := range map[string]string{
		"text": `^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=WARN msg="zone left" component=sessions zone=west revision=7\n$`,
		"json": `^\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":"WARN","msg":"zone left","component":"sessions","zone":"west","revision":7\}\n$`,
	} {
		var out strings.Builder
		log, err := telemetry.NewLogger(&out, telemetry.LogConfig{Level: "warn", Format: format},
			slog.String(telemetry.KeyComponent, "sessions"), slog.String(telemetry.KeyZone, "west"))
		if err != nil {
			t.Fatal(err)
		}
		log.Info("too quiet")
		log.Warn("zone left", telemetry.KeyRevision, 7)
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%s: %q", format, out.String())
		}
	}
	for _, bad := range []telemetry.LogConfig{{Level: "loud"}, {Format: "xml"}} {
		if _, err := telemetry.NewLogger(&strings.Builder{}, bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestHealthFollowsItsChecks(t *testing.T) {
	var h telemetry.Health
	var store atomic.Value
	store.Store(errors.New("opening"))
	h.Require("store", func(context.Context) error {
		if err, ok := store.Load().(error); ok && err.Error() != "" {
			return err
		}
		return nil
	})
	h.Require("ads", func(context.Context) error { return nil })
	server := httptest.NewServer(telemetry.Handler(&h, telemetry.NewRegistry("zone-cp")))
	t.Cleanup(server.Close)

	get := func(path string) (int, string) {
		t.Helper()
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var b strings.Builder
		buffer := make([]byte, 4096)
		for {
			n, err := response.Body.Read(buffer)
			b.Write(buffer[:n])
			if err != nil {
				return response.StatusCode, b.String()
			}
		}
	}

	if code, body := get("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	code, body := get("/readyz")
	var r telemetry.Readiness
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || r.Ready || len(r.Checks) != 2 || r.Checks[1].Error != "opening" || !r.Checks[0].OK {
		t.Errorf("readyz: %d %s", code, body)
	}
	store.Store(errors.New(""))
	if code, body := get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
	code, body = get("/metrics")
	if code != http.StatusOK {
		t.Errorf("metrics: %d", code)
	}
	for _, want := range []string{`comity_build_info{`, `program="zone-cp"`, "process_cpu_seconds_total", "go_goroutines"} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
}

func TestAStuckCheckIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h telemetry.Health
		h.Require("stuck", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if r := h.Ready(t.Context()); r.Ready {
			t.Error("ready all the same")
		}
	})
}
