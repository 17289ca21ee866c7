package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/comity-mesh/comity"

// listed is what `go list` says about a package; production code only, no tests.
type listed struct {
	ImportPath string
	Name       string
	Dir        string
	Standard   bool
	GoFiles    []string
	// Tests of the package, inside and outside of it; only their syntax is looked at.
	TestGoFiles, XTestGoFiles []string
	Imports                   []string
	Deps                      []string
}

func (p *listed) ours() bool {
	return p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/")
}

// name is the path relative to the module, as the table has it.
func (p *listed) name() string { return relative(p.ImportPath) }

func relative(importPath string) string { return strings.TrimPrefix(importPath, module+"/") }

// house lists our packages and everything they are linked with, by import path.
var house = sync.OnceValues(func() (map[string]*listed, error) {
	root := filepath.Join("..", "..")
	if err := touch(root); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Name,Dir,Standard,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	all := map[string]*listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &listed{}
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
})

// touch reads every folder of the repository. The go command keeps a test's result until a file or
// folder changes that the test itself has read, and doesn't see what `go list` read.
func touch(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == root {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".") || name == "bin" || name == "node_modules" || name == "testdata" {
			return fs.SkipDir
		}
		return nil
	})
}

// ours are our own packages in order, with all packages beside them.
func ours(t *testing.T) ([]*listed, map[string]*listed) {
	t.Helper()
	all, err := house()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var out []*listed
	for _, p := range all {
		if p.ours() && len(p.GoFiles) > 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *listed) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	if len(out) == 0 {
		t.Fatal("go list found no package of this module")
	}
	return out, all
}

// fits reports whether a pattern of the table covers a name.
func fits(pattern, name string) bool {
	if pattern == "*" {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return under(base, name)
	}
	return pattern == name
}

func under(base, name string) bool { return name == base || strings.HasPrefix(name, base+"/") }

func anyFits(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
}

// roomOf finds the room of a package: the longest pattern that fits, an exact one before "/...".
func roomOf(name string) (room, bool) {
	best := -1
	for i, r := range rooms {
		if fits(r.path, name) && (best < 0 || len(strings.TrimSuffix(r.path, "/...")) > len(strings.TrimSuffix(rooms[best].path, "/...")) || r.path == name) {
			best = i
		}
	}
	if best < 0 {
		return room{}, false
	}
	return rooms[best], true
}

// TestEveryPackageHasARoom keeps the table whole: no package without a place and a reason.
func TestEveryPackageHasARoom(t *testing.T) {
	packages, _ := ours(t)
	for _, p := range packages {
		if _, ok := roomOf(p.name()); !ok {
			t.Errorf("%s is in no room of internal/archtest/table.go: decide what it may import and why, and enter it there", p.name())
		}
	}
}

// TestImports reads every import against the table.
func TestImports(t *testing.T) {
	packages, all := ours(t)
	for _, p := range packages {
		r, ok := roomOf(p.name())
		if !ok {
			continue // TestEveryPackageHasARoom says so
		}
		for _, path := range p.Imports {
			if path == "C" || path == "unsafe" || all[path] != nil && all[path].Standard {
				continue
			}
			if name := relative(path); name != path {
				if name != p.name() && !anyFits(r.may, name) {
					t.Errorf("%s imports %s, but the room %s may import only %s.\n\tReason: %s.\n\tMove the code to where it may be, or hand over what it needs as an argument; the table is internal/archtest/table.go",
						p.name(), name, r.path, orNothing(r.may), r.why)
				}
				continue
			}
			if !slices.ContainsFunc(r.libs, func(lib string) bool { return lib == "*" || under(lib, path) }) {
				t.Errorf("%s imports %s, but of other modules the room %s may import only %s.\n\tReason: %s",
					p.name(), path, r.path, orNothing(r.libs), r.why)
			}
		}
	}
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// TestOneDoor keeps every heavy library behind its door.
func TestOneDoor(t *testing.T) {
	packages, _ := ours(t)
	for _, p := range packages {
		if anyFits(notShipped, p.name()) {
			continue
		}
		for _, path := range p.Imports {
			if d, ok := doorOf(path); ok && !anyFits(d.rooms, p.name()) {
				t.Errorf("%s imports %s, which only %s may.\n\tReason: %s", p.name(), path, orNothing(d.rooms), d.why)
			}
		}
	}
}

// doorOf finds the door of a library: the longest that fits.
func doorOf(path string) (door, bool) {
	best := -1
	for i, d := range doors {
		if under(d.lib, path) && (best < 0 || len(d.lib) > len(doors[best].lib)) {
			best = i
		}
	}
	if best < 0 {
		return door{}, false
	}
	return doors[best], true
}

// TestLinks looks at whole programs: what they are linked with, however far away.
func TestLinks(t *testing.T) {
	_, all := ours(t)
	for _, l := range links {
		for _, program := range l.programs {
			p := all[module+"/"+program]
			if p == nil {
				continue
			}
			for _, path := range p.Deps {
				if under(l.never, relative(path)) {
					t.Errorf("the program %s is linked with %s, but must never be with %s.\n\tReason: %s.\n\t`go mod why -m` and `go list -deps ./%s` show the way",
						program, relative(path), l.never, l.why, program)
				}
			}
		}
	}
}

// TestNames keeps package names meaningful, and folders and packages of one name.
func TestNames(t *testing.T) {
	packages, _ := ours(t)
	meaningless := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "lib"}
	for _, p := range packages {
		folder := p.name()[strings.LastIndex(p.name(), "/")+1:]
		switch {
		case slices.Contains(meaningless, p.Name) || slices.Contains(meaningless, folder):
			t.Errorf("%s: the name %s says nothing about what is in there: name it after what it does", p.name(), folder)
		case p.Name != "main" && p.Name != folder:
			t.Errorf("%s: package %s is not named after its folder; readers look for it by either", p.name(), p.Name)
		case p.Name != "main" && strings.Contains(folder, "-"):
			t.Errorf("%s: only a program's folder has a hyphen", p.name())
		}
	}
}

// TestSource reads the syntax of every file that ships.
func TestSource(t *testing.T) {
	packages, _ := ours(t)
	panics := map[string]bool{}
	for _, p := range packages {
		docs, written := 0, false
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Errorf("%s/%s: %v", p.name(), file, err)
				continue
			}
			if f.Doc != nil {
				docs++
			}
			if ast.IsGenerated(f) {
				continue
			}
			written = true
			c := checker{fset: fset, file: p.name() + "/" + file, main: p.Name == "main", panics: panics, report: func(s string) { t.Error(s) }}
			c.check(f)
		}
		if docs != 1 && (written || docs > 1) {
			t.Errorf("%s has %d package comments, not one: say in one place (doc.go, or the file named like the package) what it is for", p.name(), docs)
		}
	}
	for place, why := range mayPanic {
		if !panics[place] {
			t.Errorf("mayPanic lists %s (%s), but there is no panic: remove the entry", place, why)
		}
	}
}

// TestTestsWaitForFacts looks for sleeps in tests. In a synctest bubble a sleep moves the fake clock and
// waits for nothing; anywhere else it is a guess.
func TestTestsWaitForFacts(t *testing.T) {
	packages, _ := ours(t)
	for _, p := range packages {
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Errorf("%s/%s: %v", p.name(), file, err)
				continue
			}
			if slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` }) {
				continue
			}
			for _, call := range callsOf(f, "time", "Sleep") {
				t.Errorf("%s/%s:%d: time.Sleep in a test: wait for the fact (a channel, or a poll of it with a deadline and a ticker), or run in testing/synctest",
					p.name(), file, fset.Position(call.Pos()).Line)
			}
		}
	}
}

// callsOf finds the calls of a package's function, where the package goes by its own name.
func callsOf(f *ast.File, pkg, function string) []*ast.CallExpr {
	var out []*ast.CallExpr
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if fun, ok := call.Fun.(*ast.SelectorExpr); ok && fun.Sel.Name == function {
				if x, ok := fun.X.(*ast.Ident); ok && x.Name == pkg {
					out = append(out, call)
				}
			}
		}
		return true
	})
	return out
}

type checker struct {
	fset   *token.FileSet
	file   string          // relative to the module
	main   bool            // of package main
	panics map[string]bool // places that panic, filled
	report func(string)
}

func (c checker) fail(n ast.Node, message string) {
	c.report(c.file + ":" + strconv.Itoa(c.fset.Position(n.Pos()).Line) + ": " + message)
}

func (c checker) check(f *ast.File) {
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			c.fail(i, err.Error())
			continue
		}
		// Generated packages have long names and look-alike types; an alias ending in pb is their custom.
		if i.Name != nil && i.Name.Name != "_" && relative(path) != path && !strings.HasSuffix(path, "pb") {
			c.fail(i, "import "+relative(path)+" under its own name: an alias makes readers look things up twice. If two names clash, one of the packages is badly named")
		}
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			c.inspect(d, "")
			continue
		}
		if fn.Recv == nil && fn.Name.Name == "init" {
			c.fail(fn, "no init(): what a package does at start is done by the program, in sight, in order")
		}
		c.inspect(fn, fn.Name.Name)
	}
}

func (c checker) inspect(n ast.Node, function string) {
	ast.Inspect(n, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		place := c.file + ":" + function
		switch fun := call.Fun.(type) {
		case *ast.Ident:
			if fun.Name == "panic" {
				c.panics[place] = true
				if mayPanic[place] == "" {
					c.fail(call, "panic: return an error. If no input can ever reach it, list "+place+" in mayPanic with the reason")
				}
			}
		case *ast.SelectorExpr:
			if x, ok := fun.X.(*ast.Ident); ok && x.Name == "context" && !c.main && mayBackground[place] == "" &&
				(fun.Sel.Name == "Background" || fun.Sel.Name == "TODO") {
				c.fail(call, "context."+fun.Sel.Name+": take the context from the caller, so that stopping the program stops this (context.WithoutCancel where work must outlive a request)")
			}
		}
		return true
	})
}

// TestTheTableItself keeps the rules checkable: no room twice, no reason missing, nothing that names nobody.
func TestTheTableItself(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rooms {
		if seen[r.path] {
			t.Errorf("the room %s is listed twice", r.path)
		}
		seen[r.path] = true
		if r.why == "" {
			t.Errorf("the room %s has no reason", r.path)
		}
		for _, m := range r.may {
			if _, ok := roomOf(strings.TrimSuffix(m, "/...")); !ok && m != "*" && m != "xds/..." {
				t.Errorf("the room %s may import %s, which is no room", r.path, m)
			}
		}
	}
	for _, d := range doors {
		if d.why == "" {
			t.Errorf("the door of %s has no reason", d.lib)
		}
	}
	for _, l := range links {
		if l.why == "" {
			t.Errorf("the link rule about %s has no reason", l.never)
		}
	}
}

// TestTheCheckersBite plants what the rules forbid, so that a rule that stopped looking is seen.
func TestTheCheckersBite(t *testing.T) {
	const planted = `package p

import (
	"context"
	other "github.com/comity-mesh/comity/mesh"
	fpb "github.com/comity-mesh/comity/federation/federationpb"
)

func init() {}

func work() { panic(context.TODO()) }

var always = context.Background()
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", planted, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	checker{fset: fset, file: "p.go", panics: map[string]bool{}, report: func(s string) { got = append(got, s) }}.check(f)
	for i, want := range []string{"p.go:5: import mesh", "p.go:9: no init", "p.go:11: panic", "p.go:11: context.TODO", "p.go:13: context.Background"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("finding %d does not begin with %q in\n%s", i, want, strings.Join(got, "\n"))
		}
	}
	if len(got) != 5 {
		t.Errorf("%d findings, want 5", len(got))
	}

	for name, want := range map[string]string{
		"zone-cp/internal/ads": "zone-cp/...", "dataplane/enrolpb": "dataplane/enrolpb", "dataplane/sds": "dataplane/...",
		"federation": "federation", "federation/fedtest": "federation/...", "storefront": "",
	} {
		if r, _ := roomOf(name); r.path != want {
			t.Errorf("the room of %s is %q, want %q", name, r.path, want)
		}
	}
	if d, _ := doorOf("google.golang.org/grpc/mem"); d.lib != "google.golang.org/grpc/mem" {
		t.Errorf("the door of grpc/mem is %q", d.lib)
	}
}
