package dataplane

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestEnvoyLog(t *testing.T) {
	out := &output{}
	l := newEnvoyLog(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	now := time.Unix(0, 0)
	l.clock = func() time.Time { return now }
	write := func(s string) { must(l.Write([]byte(s)))(t) }

	write("error|config|bro")
	write("ken\nnot Envoy's logger\n" + strings.Repeat("x", 3*maxLogLine) + "\n")
	for range 100 {
		write("warning|config|DeltaAggregatedResources gRPC config stream to zone_cp closed: 14, again\n")
	}
	now = now.Add(quietPeriod)
	write("warning|config|DeltaAggregatedResources gRPC config stream to zone_cp closed: 14, still\n")

	got := out.String()
	for _, want := range []string{"level=ERROR msg=broken logger=config", `text="not Envoy's logger"`, "still\" logger=config omitted=99"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%.2000s", want, got)
		}
	}
	if n := strings.Count(got, "zone_cp closed"); n != 2 {
		t.Errorf("a repeated complaint is logged %d times", n)
	}
	if len(got) > 2*maxLogLine {
		t.Errorf("a long line is not cut: %d bytes", len(got))
	}
}
