// Package telemetry is how a program lets itself be observed: its log, its metrics and its health. The
// parts of a program get their *slog.Logger and their prometheus.Registerer as arguments; there are no
// globals.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// LogConfig says how a program logs.
type LogConfig struct {
	Level  string `json:"level" usage:"least level that is logged: debug, info, warn or error"`
	Format string `json:"format" usage:"form of a log line: text or json"`
}

// Keys that mean the same in every line of every program. Each part logs under its own component.
const (
	KeyComponent = "component"
	KeyZone      = "zone"
	KeyProxy     = "proxy" // mesh.ProxyID.String
	KeyRevision  = "revision"
	KeyError     = "error"
)

// NewLogger returns a logger that writes lines with the keys time (UTC, milliseconds), level and msg, then
// the attributes given here, then those of the call. An empty level means info, an empty format text.
func NewLogger(w io.Writer, c LogConfig, attrs ...slog.Attr) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log level %q is none of debug, info, warn and error", c.Level)
		}
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: shortTime}
	var h slog.Handler
	switch c.Format {
	case "", "text":
		h = slog.NewTextHandler(w, options)
	case "json":
		h = slog.NewJSONHandler(w, options)
	default:
		return nil, fmt.Errorf("log format %q is neither text nor json", c.Format)
	}
	return slog.New(h.WithAttrs(attrs)), nil
}

func shortTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	return a
}

// Since is the attribute for how long something took, in milliseconds with three decimals.
func Since(start time.Time) slog.Attr {
	return slog.Float64("ms", float64(time.Since(start).Microseconds())/1000)
}
