package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

const maxDocuments = 8 << 20 // what the API takes in one request

// documentFlags are those of every command that reads documents.
func documentFlags(cmd *cobra.Command, files *[]string, recursive *bool) {
	cmd.Flags().StringArrayVarP(files, "filename", "f", nil, "file or folder with YAML or JSON, \"-\" for standard input; may be repeated")
	cmd.Flags().BoolVarP(recursive, "recursive", "R", false, "folders with their subfolders")
	must(cmd.MarkFlagFilename("filename", "yaml", "yml", "json"))
}

// documents are what the files of a command say, as one stream of YAML documents, and where each of them stands.
type documents struct {
	text  []byte
	files []source
}

// source is a file in the stream: its first line there, from 1, and its bytes.
type source struct {
	name       string
	line       int
	begin, end int
}

const betweenFiles = "\n---\n"

// readDocuments reads all files into one stream of YAML documents.
func (s *shell) readDocuments(files []string, recursive bool) (*documents, error) {
	d := &documents{}
	add := func(name string, in io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(in, maxDocuments+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if len(d.text)+len(text) > maxDocuments {
			return &fault.Error{Code: "APPLY-SIZE", What: "the documents are larger than 8 MiB together", Exit: fault.ExitUsage, Try: "apply them in several calls"}
		}
		if len(d.text) > 0 {
			d.text = append(d.text, betweenFiles...)
		}
		d.files = append(d.files, source{name, 1 + bytes.Count(d.text, []byte("\n")), len(d.text), len(d.text) + len(text)})
		d.text = append(d.text, text...)
		return nil
	}
	for _, f := range files {
		if f == "-" {
			if err := add("standard input", s.in); err != nil {
				return nil, err
			}
			continue
		}
		names, err := expand(f, recursive)
		if err != nil {
			return nil, &fault.Error{Code: "APPLY-FILE", What: "can't read " + f, Err: err, Exit: fault.ExitUsage}
		}
		for _, name := range names {
			file, err := os.Open(name)
			if err != nil {
				return nil, &fault.Error{Code: "APPLY-FILE", What: "can't read " + name, Err: err, Exit: fault.ExitUsage}
			}
			err = add(name, file)
			_ = file.Close()
			if err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// expand lists a folder's YAML and JSON files in order of name, or returns the file itself.
func expand(path string, recursive bool) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	var out []string
	err = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != path && !recursive {
				return filepath.SkipDir
			}
			return nil
		}
		switch filepath.Ext(p) {
		case ".yaml", ".yml", ".json":
			out = append(out, p)
		}
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("the folder has no .yaml, .yml or .json file")
	}
	return out, err
}

// manifests are documents whose resources are named, for commands that send them or take them apart. A file that is no YAML is named with the
// line; of several such files all are.
func (s *shell) manifests(files []string, recursive bool) (*documents, error) {
	d, err := s.readDocuments(files, recursive)
	if err != nil {
		return nil, err
	}
	var wrong []string
	for _, f := range d.files {
		if err := readable(d.text[f.begin:f.end]); err != nil {
			wrong = append(wrong, f.name+": "+err.Error())
		}
	}
	if wrong != nil {
		return nil, &fault.Error{Code: "CLI-YAML", What: "what is no YAML can't be read; nothing was changed", Cause: strings.Join(wrong, "\n"), Exit: fault.ExitUsage,
			Try: "correct the lines; lists and maps are told by how far they are indented"}
	}
	return d, nil
}

// readable says why a text is no YAML.
func readable(text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		switch err := dec.Decode(&n); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
	}
}

// nodes are the documents of the stream, counted as the control plane counts them.
func (d *documents) nodes() []*yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(d.text))
	var out []*yaml.Node
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil { // io.EOF: manifests has read them all before
			return out
		}
		out = append(out, n.Content[0])
	}
}

// manifest is one resource of the documents.
type manifest struct {
	at   string // pointer of it in the stream, as in the control plane's answers: "/2", or "/2/items/0" within a list
	node *yaml.Node
	client.Object
}

// resources are those of all documents, of lists their items. What is no resource is an error that names all such places.
func (d *documents) resources() ([]manifest, error) {
	var out []manifest
	var wrong []client.ProblemField
	for i, n := range d.nodes() {
		at := "/" + strconv.Itoa(i)
		var all []manifest
		switch items := child(n, "items"); {
		case n.Kind == yaml.SequenceNode:
			for j, item := range n.Content {
				all = append(all, manifest{at: at + "/" + strconv.Itoa(j), node: item})
			}
		case items != nil && items.Kind == yaml.SequenceNode:
			for j, item := range items.Content {
				all = append(all, manifest{at: at + "/items/" + strconv.Itoa(j), node: item})
			}
		case n.ShortTag() != "!!null":
			all = append(all, manifest{at: at, node: n})
		}
		for _, m := range all {
			if fields := m.decode(); fields != nil {
				wrong = append(wrong, fields...)
				continue
			}
			out = append(out, m)
		}
	}
	if wrong != nil {
		return nil, d.invalid("CLI-YAML", wrong)
	}
	return out, nil
}

// decode reads the resource as strictly as the control plane does.
func (m *manifest) decode() []client.ProblemField {
	var v any
	asWritten(m.node)
	err := m.node.Decode(&v)
	var raw []byte
	if err == nil {
		raw, err = json.Marshal(v)
	}
	if err == nil {
		err = policy.DecodeStrict("", raw, maxDocuments, &m.Object)
	}
	if bad, ok := errors.AsType[*policy.InvalidError](err); ok {
		return problemFields(m.at, mesh.Kind(textOf(child(m.node, "kind"))), bad.Fields)
	}
	if err != nil {
		return []client.ProblemField{{Pointer: m.at, Message: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	return nil
}

// asWritten has dates stay the text that they are, as the control plane reads them.
func asWritten(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, c := range n.Content {
		asWritten(c)
	}
}

// problemFields puts what is wrong with a resource where it stands in the documents.
func problemFields(at string, kind mesh.Kind, fields []policy.FieldError) []client.ProblemField {
	out := make([]client.ProblemField, 0, len(fields))
	for _, f := range fields {
		out = append(out, client.ProblemField{Pointer: at + f.Pointer, Code: f.Code, Message: f.Message, Hint: f.Hint, Choices: f.Choices, Docs: policy.Page(kind, f.Pointer)})
	}
	return out
}

// invalid is the error of fields that are wrong, before any control plane was asked.
func (d *documents) invalid(code string, fields []client.ProblemField) error {
	what := "1 field is wrong"
	if len(fields) > 1 {
		what = fmt.Sprintf("%d fields are wrong", len(fields))
	}
	p := &client.ProblemError{Problem: client.Problem{Errors: fields}}
	return d.explain(&fault.Error{Code: code, What: what, Exit: fault.ExitUsage, Docs: p.Pages(), Err: p})
}

// lineOf is how YAML's reader names a place in what it was given.
var lineOf = regexp.MustCompile(`\bline ([0-9]+)`)

// explain has an answer of the control plane say of which file, line and resource each of its fields is. Other errors are as they were.
func (d *documents) explain(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	f.What = lineOf.ReplaceAllStringFunc(f.What, func(s string) string {
		n, err := strconv.Atoi(strings.TrimPrefix(s, "line "))
		if err != nil {
			return s
		}
		return d.place(n)
	})
	p, ok := errors.AsType[*client.ProblemError](err)
	if !ok || len(p.Errors) == 0 {
		return err
	}
	nodes := d.nodes()
	// In the order of the documents, whichever check found it.
	slices.SortStableFunc(p.Errors, func(a, b client.ProblemField) int { return cmp.Compare(document(a.Pointer), document(b.Pointer)) })
	var lines []string
	for _, e := range p.Errors {
		lines = append(lines, d.where(nodes, e.Pointer)+e.Words())
	}
	f.Cause = strings.Join(lines, "\n")
	return err
}

// document is the number of the document that a pointer is in, from 0; -1 of one that is in none.
func document(pointer string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	n, err := strconv.Atoi(first)
	if err != nil {
		return -1
	}
	return n
}

// place is a line of the stream in the file that it is of.
func (d *documents) place(line int) string {
	i := max(0, len(d.files)-1)
	for i > 0 && d.files[i].line > line {
		i--
	}
	return fmt.Sprintf("%s:%d", d.files[i].name, line-d.files[i].line+1)
}

// where is what a pointer points at: file and line, the resource, and the pointer within it.
func (d *documents) where(nodes []*yaml.Node, pointer string) string {
	tokens := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	i := document(pointer)
	if i < 0 || i >= len(nodes) {
		return pointer + ": "
	}
	resource, rest := nodes[i], tokens[1:]
	number := strconv.Itoa(d.number(nodes, i))
	if items := child(resource, "items"); items != nil && len(rest) > 1 && rest[0] == "items" {
		if j, err := strconv.Atoi(rest[1]); err == nil && j < len(items.Content) {
			number += ", item " + strconv.Itoa(j+1)
			resource, rest = items.Content[j], rest[2:]
		}
	} else if resource.Kind == yaml.SequenceNode && len(rest) > 0 {
		if j, err := strconv.Atoi(rest[0]); err == nil && j < len(resource.Content) {
			number += ", item " + strconv.Itoa(j+1)
			resource, rest = resource.Content[j], rest[1:]
		}
	}
	at := resource
	for _, token := range rest { // as far as the document goes: of a field that is missing the line of what lacks it
		next := child(at, strings.NewReplacer("~1", "/", "~0", "~").Replace(token))
		if next == nil {
			break
		}
		at = next
	}
	return fmt.Sprintf("%s: %s (document %s): %s: ", d.place(at.Line), nameIn(resource), number, "/"+strings.Join(rest, "/"))
}

// number counts the documents of a file from 1, those that say nothing left out.
func (d *documents) number(nodes []*yaml.Node, i int) int {
	file := func(n *yaml.Node) string {
		place := d.place(n.Line)
		return place[:strings.LastIndex(place, ":")]
	}
	n := 0
	for _, other := range nodes[:i+1] {
		if other.ShortTag() != "!!null" && file(other) == file(nodes[i]) {
			n++
		}
	}
	return n
}

// nameIn names the resource that a node is.
func nameIn(n *yaml.Node) string {
	meta := child(n, "metadata")
	name := refName(mesh.Kind(firstOf(textOf(child(n, "kind")), "?")), firstOf(textOf(child(meta, "name")), "?"))
	if namespace := textOf(child(meta, "namespace")); namespace != "" {
		name += " -n " + namespace
	}
	return name
}

// textOf is what a scalar says; empty for none.
func textOf(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// child is the value of a key, or the item of an index; nil if there is none.
func child(n *yaml.Node, token string) *yaml.Node {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == token {
				return n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

// refsOf are the resources that the documents name, last first, so that what others refer to goes last.
func refsOf(all []manifest) ([]ref, error) {
	var out []ref
	for _, m := range slices.Backward(all) {
		k, ok := policy.Lookup(string(m.Kind))
		if !ok {
			return nil, usage("there is no kind %q", m.Kind)
		}
		out = append(out, ref{kind: k, namespace: m.Metadata.Namespace, name: m.Metadata.Name})
	}
	return out, nil
}
