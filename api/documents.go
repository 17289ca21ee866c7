package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Bounds of what a request may bring.
const (
	maxBody      = 8 << 20
	maxYAML      = 4 << 20 // a parsed node costs many times its text
	maxDocuments = 2000
	maxDocument  = policy.MaxSpecBytes + 128<<10
	maxYAMLNodes = 250_000
	// mostWrong bounds of how many fields it is said that they are wrong.
	mostWrong = 100
)

// document is one object of a request with the pointer of where it lies in it.
type document struct {
	at  string
	obj client.Object
}

// raw is a document before it is decoded.
type raw struct {
	at   string
	json json.RawMessage
}

// decodeOne reads a request of exactly one object.
func decodeOne(contentType string, body []byte) (client.Object, error) {
	docs, err := split(contentType, body)
	if err != nil {
		return client.Object{}, err
	}
	if len(docs) != 1 {
		return client.Object{}, fail(http.StatusBadRequest, CodeMalformed, "apply many objects with POST /api/v1/_apply", "%d documents where one belongs", len(docs))
	}
	docs[0].at = ""
	out, wrong, err := decodeAll(docs)
	if err != nil {
		return client.Object{}, err
	}
	if wrong != nil {
		return client.Object{}, invalid(wrong)
	}
	return out[0].obj, nil
}

// decodeMany reads objects from a JSON object, array or List, or from YAML documents of those. Those that are no objects are wrong, and not
// among the documents: what else is wrong is to be said together with them.
func decodeMany(contentType string, body []byte) (_ []document, wrong []client.ProblemField, err error) {
	docs, err := split(contentType, body)
	if err != nil {
		return nil, nil, err
	}
	var flat []raw
	for _, d := range docs {
		items, err := expand(d)
		if err != nil {
			return nil, nil, err
		}
		if flat = append(flat, items...); len(flat) > maxDocuments {
			return nil, nil, tooMany("objects")
		}
	}
	if len(flat) == 0 {
		return nil, nil, fail(http.StatusBadRequest, CodeMalformed, "", "the request holds no object")
	}
	return decodeAll(flat)
}

func decodeAll(docs []raw) (out []document, wrong []client.ProblemField, err error) {
	out = make([]document, 0, len(docs))
	for _, d := range docs {
		doc := document{at: d.at}
		err := policy.DecodeStrict("", d.json, maxDocument, &doc.obj)
		if bad, ok := errors.AsType[*policy.InvalidError](err); ok {
			for _, f := range bad.Fields {
				if f.Code == policy.CodeMalformed {
					return nil, nil, fail(http.StatusBadRequest, CodeMalformed, "", "%s", f.Message)
				}
			}
			if len(wrong) < mostWrong {
				wrong = append(wrong, fieldsAt(d.at, kindOf(d.json), append(bad.Fields, within(d.json)...))...)
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		out = append(out, doc)
	}
	return out, wrong, nil
}

// within is what is wrong with the rest of a document of which something around the spec is wrong.
func within(doc json.RawMessage) []policy.FieldError {
	var obj client.Object
	if json.Unmarshal(doc, &obj) != nil {
		return nil // nothing more can be said of it
	}
	return policy.Validate(fromObject(obj))
}

// kindOf is the kind that a document says, if it says any.
func kindOf(doc json.RawMessage) mesh.Kind {
	var said struct {
		Kind any `json:"kind"`
	}
	_ = json.Unmarshal(doc, &said) // what is wrong with it is said already
	kind, _ := said.Kind.(string)
	return mesh.Kind(kind)
}

// split turns a body into JSON documents by its content type.
func split(contentType string, body []byte) ([]raw, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind = contentType
	}
	switch kind {
	case "application/json":
		if !json.Valid(body) {
			var v any
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "not JSON: %v", json.Unmarshal(body, &v))
		}
		return []raw{{json: body}}, nil
	case "application/yaml", "application/x-yaml", "text/yaml":
		return splitYAML(body)
	}
	return nil, fail(http.StatusUnsupportedMediaType, CodeMediaType, "send Content-Type: application/json or application/yaml",
		"Content-Type %.80q is not understood", contentType)
}

// expand opens arrays and Lists, one level deep.
func expand(d raw) ([]raw, error) {
	text := bytes.TrimSpace(d.json)
	at, items := d.at, bounded(nil)
	switch {
	case bytes.HasPrefix(text, []byte("[")):
		if err := json.Unmarshal(text, &items); err != nil {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "not JSON: %v", err)
		}
	case bytes.HasPrefix(text, []byte("{")):
		var list struct {
			Kind  string  `json:"kind"`
			Items bounded `json:"items"`
		}
		// A document that isn't even shaped like this is reported with its pointer later.
		if err := json.Unmarshal(text, &list); err != nil || !strings.HasSuffix(list.Kind, "List") || list.Items == nil {
			return []raw{d}, nil //nolint:nilerr // see above
		}
		at, items = at+"/items", list.Items
	default:
		return []raw{d}, nil
	}
	if len(items) > maxDocuments {
		return nil, tooMany("objects")
	}
	out := make([]raw, 0, len(items))
	for i, it := range items {
		out = append(out, raw{at: at + "/" + strconv.Itoa(i), json: it})
	}
	return out, nil
}

func tooMany(what string) error {
	return fail(http.StatusRequestEntityTooLarge, CodeTooLarge, "apply them in parts", "more than %d %s", maxDocuments, what)
}

// bounded is an array of which no more is taken apart than one element beyond the limit: 8 MiB of "{}," would
// cost a hundred times that otherwise.
type bounded []json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (b *bounded) UnmarshalJSON(data []byte) error {
	*b = nil
	if string(data) == "null" {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return errors.Join(errors.New("not an array"), err)
	}
	*b = bounded{}
	for dec.More() && len(*b) <= maxDocuments {
		var item json.RawMessage
		if err := dec.Decode(&item); err != nil {
			return err
		}
		*b = append(*b, item)
	}
	return nil
}

// splitYAML reads YAML documents. Aliases are refused rather than expanded: a few lines of them can
// stand for terabytes, and manifests don't need them.
func splitYAML(body []byte) ([]raw, error) {
	if len(body) > maxYAML {
		return nil, fail(http.StatusRequestEntityTooLarge, CodeTooLarge, "send JSON, or apply in parts", "more than %d bytes of YAML", maxYAML)
	}
	if marks(body) > maxYAMLNodes {
		return nil, fail(http.StatusRequestEntityTooLarge, CodeTooLarge, "send JSON, or apply in parts", "YAML of more than %d values", maxYAMLNodes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var out []raw
	for i := 0; ; i++ {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if i > maxDocuments {
			return nil, tooMany("documents")
		}
		b := yamlToJSON{}
		if err := b.node(&node, 0); err != nil {
			return nil, fail(http.StatusBadRequest, CodeMalformed, "", "document %d: %v", i, err)
		}
		// A document of comments, or an empty one between two lines of dashes, is nothing.
		if text := b.out.String(); text != "null" && text != "" {
			out = append(out, raw{at: "/" + strconv.Itoa(i), json: json.RawMessage(text)})
		}
	}
}

// marks counts the bytes before which, or after which, a YAML value can begin or end: there are hardly more values than
// marks, so that what is too much is refused before anything is built of it. Marks within a text count too.
func marks(body []byte) int {
	n := 0
	for i, c := range body {
		switch c {
		case ',', '[', '{', ':':
			n++
		case '-', '?':
			// An entry of a block sequence; within a word, or in a line of dashes, it is not.
			if i+1 == len(body) || body[i+1] == ' ' || body[i+1] == '\n' || body[i+1] == '\r' || body[i+1] == '\t' {
				n++
			}
		}
	}
	return n
}

// yamlToJSON writes a node as JSON without building values in between.
type yamlToJSON struct {
	out   bytes.Buffer
	nodes int
}

func (b *yamlToJSON) node(n *yaml.Node, depth int) error {
	if b.nodes++; b.nodes > maxYAMLNodes {
		return fmt.Errorf("line %d: more than %d values", n.Line, maxYAMLNodes)
	}
	if depth > 2*policy.MaxSpecDepth {
		return fmt.Errorf("line %d: nested too deep", n.Line)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return b.node(n.Content[0], depth)
	case yaml.AliasNode:
		return fmt.Errorf("line %d: aliases (*%.40s) are not supported: write the value out", n.Line, n.Value)
	case yaml.SequenceNode:
		b.out.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				b.out.WriteByte(',')
			}
			if err := b.node(c, depth+1); err != nil {
				return err
			}
		}
		b.out.WriteByte(']')
		return nil
	case yaml.MappingNode:
		return b.mapping(n, depth)
	case yaml.ScalarNode:
		return b.scalar(n)
	}
	return nil
}

func (b *yamlToJSON) mapping(n *yaml.Node, depth int) error {
	b.out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" {
			return fmt.Errorf("line %d: a key must be plain text", k.Line)
		}
		if i > 0 {
			b.out.WriteByte(',')
		}
		if err := b.json(k.Value); err != nil {
			return err
		}
		b.out.WriteByte(':')
		// A key given twice is found where the JSON is read.
		if err := b.node(n.Content[i+1], depth+1); err != nil {
			return err
		}
	}
	b.out.WriteByte('}')
	return nil
}

func (b *yamlToJSON) scalar(n *yaml.Node) error {
	var v any = n.Value
	switch n.ShortTag() {
	case "!!null":
		v = nil
	case "!!bool", "!!int", "!!float":
		if err := n.Decode(&v); err != nil {
			return fmt.Errorf("line %d: %.40q is no %s", n.Line, n.Value, n.ShortTag()[2:])
		}
		if f, ok := v.(float64); ok && (math.IsInf(f, 0) || math.IsNaN(f)) {
			return fmt.Errorf("line %d: %s is no number here", n.Line, n.Value)
		}
	}
	return b.json(v)
}

func (b *yamlToJSON) json(v any) error {
	text, err := json.Marshal(v)
	b.out.Write(text)
	return err
}
