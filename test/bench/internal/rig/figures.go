package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Report prints figures as they are found, and remembers which limits were not kept.
type Report struct {
	out    io.Writer
	broken []error
}

// NewReport begins with the conditions: the machine, its load, and what the bench says of itself.
func NewReport(out io.Writer, bench, conditions string) *Report {
	fmt.Fprintf(out, "%s: %d cores, load average %s, %s; %s\n", bench, runtime.NumCPU(), Load(), runtime.Version(), conditions)
	return &Report{out: out}
}

// Figure prints one: a line for people and one of JSON.
func (r *Report) Figure(name, text string, value float64, unit string) {
	r.print(name, text, value, unit, nil)
}

// Limit is Figure for a value that must be at most max.
func (r *Report) Limit(name, text string, value float64, unit string, most float64) {
	r.print(name, text, value, unit, &most)
	if value > most {
		r.broken = append(r.broken, fmt.Errorf("%s: %.4g %s, the limit is %.4g", text, value, unit, most))
	}
}

func (r *Report) print(name, text string, value float64, unit string, most *float64) {
	doc := map[string]any{"bench": name, "value": value, "unit": unit}
	verdict := ""
	if most != nil {
		doc["limit"] = *most
		verdict = fmt.Sprintf("   limit %.4g: kept", *most)
		if value > *most {
			verdict = fmt.Sprintf("   limit %.4g: NOT KEPT", *most)
		}
	}
	fmt.Fprintf(r.out, "  %-64s %10.2f %s%s\n", text, value, unit, verdict)
	if line, err := json.Marshal(doc); err == nil {
		fmt.Fprintf(r.out, "%s\n", line)
	}
}

// Note prints a line for people.
func (r *Report) Note(format string, a ...any) { fmt.Fprintf(r.out, "  "+format+"\n", a...) }

// Err names the limits that were not kept, nil for none.
func (r *Report) Err() error { return errors.Join(r.broken...) }

// Load is the load average of the machine.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// At is a percentile of values in any order, 0 for none.
func At(values []float64, percentile int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, len(sorted)*percentile/100)]
}
