// Package fault is the error that people see: what happened, why, what to try and where it is
// documented, under a code that never changes. Programs make one where they know the cause and print
// it once, in main; everything in between wraps it like any error.
package fault

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Error is an error in four parts. What and Code are always there; a part that is not known is left
// out rather than filled with noise. No part may hold a secret.
type Error struct {
	Code  string // stable, upper case, as in "ENVOY-MISSING"; scripts and documentation refer to it
	What  string // what failed, one line, no full stop
	Cause string // why, one line; empty means that Err says it
	Try   string // what the reader can do now, one line or a command
	Docs  string // where it is documented, a path in the repository or a URL
	Exit  int    // exit code of a program that ends with this error; 0 means ExitFailure

	Err error // the underlying error, for errors.Is and errors.As; may be nil
}

// Exit codes of every program. They are part of the interface: scripts depend on them.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitConflict    = 4 // conflict or failed precondition
	ExitDenied      = 5 // not authenticated, or not allowed
	ExitUnreachable = 6 // unreachable, or timed out
	ExitCheckFailed = 7 // a check that ran found something wrong
)

// Error is the error in one line, for logs and for wrapping.
func (e *Error) Error() string {
	s := e.What
	if c := e.cause(); c != "" {
		s += ": " + c
	}
	return s
}

// Unwrap gives the underlying error.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) cause() string {
	if e.Cause == "" && e.Err != nil {
		return e.Err.Error()
	}
	return e.Cause
}

// Render writes the error for a person:
//
//	error[CODE]: what
//	  cause: ...
//	  try:   ...
//	  docs:  ...
//
// Parts of several lines are indented.
func (e *Error) Render(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "error[%s]: %s\n", e.Code, e.What)
	for _, p := range [...]struct{ name, text string }{
		{"cause: ", e.cause()}, {"try:   ", e.Try}, {"docs:  ", e.Docs},
	} {
		if p.text != "" {
			fmt.Fprintf(&b, "  %s%s\n", p.name, strings.ReplaceAll(p.text, "\n", "\n         "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Print writes any error for a person: an *Error in its chain in four parts, another as one line
// ("error: ..."). Where an *Error was wrapped, its cause begins with what the wrapping said. It returns
// the exit code that goes with the error, ExitOK for nil.
func Print(w io.Writer, err error) int {
	if err == nil {
		return ExitOK
	}
	var f *Error
	if !errors.As(err, &f) {
		// The program ends with this: an unwritable stderr leaves nothing to do about it.
		_, _ = fmt.Fprintf(w, "error: %v\n", err)
		return ExitFailure
	}
	shown := *f
	if context, ok := strings.CutSuffix(err.Error(), f.Error()); ok && context != "" {
		shown.Cause = context + f.cause()
	}
	_ = shown.Render(w)
	return ExitCode(err)
}

// ExitCode is the exit code that goes with the error: ExitOK for nil, the first *Error's own, else ExitFailure.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var f *Error
	if errors.As(err, &f) && f.Exit != 0 {
		return f.Exit
	}
	return ExitFailure
}
