package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/internal/fault"
)

// format is the value of -o.
type format string

const (
	formatTable format = "table"
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
	formatName  format = "name"
)

var formats = []string{"table", "wide", "json", "yaml", "name"}

// String, Set and Type make format a flag value that refuses what it does not know.
func (f *format) String() string { return string(*f) }

func (f *format) Set(s string) error {
	if slices.Contains(formats, s) {
		*f = format(s)
		return nil
	}
	return fmt.Errorf("must be one of %s", strings.Join(formats, ", "))
}

func (f *format) Type() string { return "format" }

// table is a listing whose last columns are only shown with -o wide.
type table struct {
	columns []string
	wide    int // how many of the columns, from the end, are for -o wide alone
	rows    [][]string
}

func (t table) write(w io.Writer, f format, headers bool) error {
	n := len(t.columns)
	if f != formatWide {
		n -= t.wide
	}
	tw := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	if headers {
		fmt.Fprintln(tw, strings.Join(t.columns[:n], "\t"))
	}
	for _, r := range t.rows {
		cells := make([]string, n)
		for i := range cells {
			cells[i] = clean(r[i])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// clean keeps what others wrote from speaking to the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

// short is the beginning of a text that would make a table too wide; -o wide and describe have all of it.
func short(s string) string {
	const limit = 48
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// writeValue prints v as JSON or YAML; it reports false for the other formats.
func writeValue(w io.Writer, f format, v any) (bool, error) {
	switch f {
	case formatJSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return true, enc.Encode(v)
	case formatYAML:
		out, err := yaml.Marshal(v)
		if err != nil {
			return true, err
		}
		_, err = w.Write(out)
		return true, err
	default:
		return false, nil
	}
}

// showDone says that something was done with a thing, or prints v where a program reads.
func (s *shell) showDone(ref, what string, v any) error {
	if done, err := writeValue(s.out, s.output, v); done {
		return err
	}
	if s.output != formatName {
		ref += " " + what
	}
	_, err := fmt.Fprintln(s.out, clean(ref))
	return err
}

// age is how long ago t was, as kubectl writes it.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// codeUsage is the code of whatever is wrong with a command line.
const codeUsage = "CLI-USAGE"

// usage is a complaint about the command line; main adds the help of the command.
func usage(format string, args ...any) error {
	return &fault.Error{Code: codeUsage, What: fmt.Sprintf(format, args...), Exit: fault.ExitUsage}
}
