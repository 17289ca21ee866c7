// Package lua checks scripts before any Envoy sees them.
package lua

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/yuin/gopher-lua/ast"
	"github.com/yuin/gopher-lua/parse"
)

// ErrNothingRuns is the error of a script that defines none of the functions that Envoy calls.
var ErrNothingRuns = errors.New("defines neither envoy_on_request nor envoy_on_response, so nothing would run")

// Check reports why Envoy's Lua filter could not use a script: it is no Lua 5.1, or ErrNothingRuns.
func Check(script string) error {
	chunk, err := parse.Parse(strings.NewReader(script), "script")
	if err != nil {
		return fmt.Errorf("is no Lua: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if !slices.ContainsFunc(chunk, handles) {
		return ErrNothingRuns
	}
	return nil
}

// handles reports whether a statement defines one of the functions that Envoy calls.
func handles(s ast.Stmt) bool {
	called := func(e ast.Expr) bool {
		id, ok := e.(*ast.IdentExpr)
		return ok && (id.Value == "envoy_on_request" || id.Value == "envoy_on_response")
	}
	switch s := s.(type) {
	case *ast.FuncDefStmt:
		return s.Name.Receiver == nil && called(s.Name.Func)
	case *ast.AssignStmt:
		return slices.ContainsFunc(s.Lhs, called)
	}
	return false
}
