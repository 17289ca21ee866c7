// Package config reads a program's configuration into one typed value, from four layers, each over the
// one before: the defaults, a YAML file, the environment, and flags. It knows where every value came
// from, and refuses a key it doesn't know.
//
// The type is a plain struct with `json` tags; nested structs become nested keys. A tag `usage` explains
// a key in the program's help, `secret:"true"` hides its value from everything that shows settings. (A
// key should rather name a file that holds the secret.)
//
//	type Config struct {
//		Zone   string        `json:"zone" usage:"name of this zone"`
//		Listen struct {
//			API string       `json:"api" usage:"host:port of the REST API"`
//		} `json:"listen"`
//		LeaseTime time.Duration `json:"leaseTime"`
//	}
//
// For the program zone-cp, the key listen.api is then, in each layer:
//
//	file     listen: {api: "127.0.0.1:5681"}
//	env      COMITY_ZONE_CP_LISTEN__API=127.0.0.1:5681     ("__" nests, "_" parts words)
//	flag     --listen-api 127.0.0.1:5681
//
// Lists and maps are written in the environment and in flags as YAML: '[a, b]', '{k: v}'; a list of
// strings or numbers also as a,b. Durations are written as in 12h30m.
//
// Whether values make sense is for the type to say: if it has a method Validate() error, that decides.
//
//	defaults := Config{LeaseTime: 30 * time.Second}
//	config.AddFlags(flags, defaults)
//	loaded, err := config.Load(defaults, config.Options{Program: "zone-cp", File: path, Flags: flags})
package config

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/nearest"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

const docs = "docs/configuration.md"

// Options say where Load looks.
type Options struct {
	// Program names the program: zone-cp reads the variables COMITY_ZONE_CP_*.
	Program string
	// File is the path of a YAML file; empty means none.
	File string
	// Environ is as os.Environ returns it.
	Environ []string
	// Flags are parsed flags, the ones of AddFlags among them; nil means none.
	Flags *pflag.FlagSet
}

// Loaded is a configuration and where it came from.
type Loaded[T any] struct {
	Value    T
	Settings []Setting // in the order of T's fields
}

// Setting is one key's value and its source.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // "(hidden)" for secrets
	Source string `json:"source"` // "default", "file <path>", "env <variable>" or "flag --<name>"
}

// Load reads all layers over the defaults. Every error is a *fault.Error that names the key and its source.
func Load[T any](defaults T, o Options) (Loaded[T], error) {
	l := &loader{
		options: o, fields: fieldsOf(reflect.TypeFor[T]()),
		values: koanf.New("."), sources: map[string]string{},
	}
	for _, layer := range []func() error{l.file, l.environment, l.flags} {
		if err := layer(); err != nil {
			return Loaded[T]{}, err
		}
	}
	out := Loaded[T]{Value: defaults}
	if err := l.decode(&out.Value); err != nil {
		return Loaded[T]{}, err
	}
	if v, ok := any(&out.Value).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return Loaded[T]{}, l.invalid(err)
		}
	}
	for _, f := range l.fields {
		s := Setting{Key: f.key, Source: "default", Value: "(hidden)"}
		if from, ok := l.sources[f.key]; ok {
			s.Source = from
		}
		if !f.secret {
			s.Value = fmt.Sprint(reflect.ValueOf(out.Value).FieldByIndex(f.index).Interface())
		}
		out.Settings = append(out.Settings, s)
	}
	return out, nil
}

type loader struct {
	options Options
	fields  []field
	values  *koanf.Koanf
	sources map[string]string // field key -> source
}

func (l *loader) file() error {
	path := l.options.File
	if path == "" {
		return nil
	}
	raw, err := readBounded(path)
	if err != nil {
		return &fault.Error{
			Code: "CONFIG-FILE", What: "the configuration file can't be read", Err: err,
			Try: "check the path, or leave the file out: every key can be set by flags and environment", Docs: docs, Exit: fault.ExitUsage,
		}
	}
	tree, err := yaml.Parser().Unmarshal(raw)
	if err != nil {
		return &fault.Error{
			Code: "CONFIG-YAML", What: path + " is not YAML", Err: err,
			Try: "correct the line that the cause names", Docs: docs, Exit: fault.ExitUsage,
		}
	}
	source := "file " + path
	for _, key := range leaves(tree) {
		i := slices.IndexFunc(l.fields, func(f field) bool { return key == f.key || strings.HasPrefix(key, f.key+".") })
		switch {
		case i >= 0:
			l.sources[l.fields[i].key] = source
		case !slices.ContainsFunc(l.fields, func(f field) bool { return strings.HasPrefix(f.key, key+".") }):
			return l.unknown(key, source, l.keys())
		} // else a section without content
	}
	return l.values.Load(confmap.Provider(tree, ""), nil)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return raw, nil
}

func (l *loader) environment() error {
	prefix := envPrefix(l.options.Program)
	byName := map[string]field{}
	for _, f := range l.fields {
		byName[prefix+f.envName()] = f
	}
	for _, v := range l.options.Environ {
		name, text, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		f, ok := byName[name]
		if !ok {
			return l.unknown(name, "the environment", names(byName))
		}
		if err := l.setText(f, text, "env "+name); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) flags() error {
	if l.options.Flags == nil {
		return nil
	}
	for _, f := range l.fields {
		flag := l.options.Flags.Lookup(f.flagName())
		if flag == nil || !flag.Changed {
			continue
		}
		if err := l.setText(f, flag.Value.String(), "flag --"+flag.Name); err != nil {
			return err
		}
	}
	return nil
}

// setText sets a field from a variable or a flag.
func (l *loader) setText(f field, text, source string) error {
	var value any = text
	if f.composite() {
		// Parsed under a key, because the parser wants a map at the top.
		tree, err := yaml.Parser().Unmarshal([]byte("value: " + text))
		if err != nil {
			return l.bad(f.key, source, err)
		}
		value = tree["value"]
		if s, ok := value.(string); ok && f.scalarList() {
			value = strings.Split(s, ",")
		}
	}
	l.sources[f.key] = source
	l.values.Delete(f.key) // a map is replaced, not merged
	return l.values.Load(confmap.Provider(map[string]any{f.key: value}, "."), nil)
}

func (l *loader) decode(into any) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, TagName: "json", ErrorUnused: true, WeaklyTypedInput: true,
		ZeroFields: true, // a list given replaces the default's, it doesn't overwrite its head
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(),
			mapstructure.TextUnmarshallerHookFunc(),
		),
	})
	if err != nil {
		return err
	}
	if err := d.Decode(l.values.Raw()); err != nil {
		// The decoder's words name the keys; which layer they came from is ours to add.
		for _, f := range l.fields {
			if source, ok := l.sources[f.key]; ok && strings.Contains(err.Error(), "'"+f.key) {
				return l.bad(f.key, source, err)
			}
		}
		return l.bad("a value", "the configuration", err)
	}
	return nil
}

func (l *loader) unknown(key, source string, known []string) error {
	f := &fault.Error{
		Code: "CONFIG-UNKNOWN", What: fmt.Sprintf("%s has no setting %s", l.options.Program, key),
		Cause: "it is set in " + source, Try: "remove it; " + l.options.Program + " --help lists the settings",
		Docs: docs, Exit: fault.ExitUsage,
	}
	if question := nearest.Question(key, known); question != "" {
		f.Try = question
	}
	return f
}

func (l *loader) bad(key, source string, err error) error {
	return &fault.Error{
		Code: "CONFIG-VALUE", What: fmt.Sprintf("%s, from %s, can't be read", key, source), Err: err,
		Try: "correct the value", Docs: docs, Exit: fault.ExitUsage,
	}
}

func (l *loader) invalid(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return &fault.Error{
		Code: "CONFIG-INVALID", What: "the configuration of " + l.options.Program + " is not valid", Err: err,
		Try: "correct what the cause names", Docs: docs, Exit: fault.ExitUsage,
	}
}

func (l *loader) keys() []string {
	keys := make([]string, len(l.fields))
	for i, f := range l.fields {
		keys[i] = f.key
	}
	return keys
}

// AddFlags adds one flag for every key of T, with the defaults' values.
func AddFlags[T any](flags *pflag.FlagSet, defaults T) {
	for _, f := range fieldsOf(reflect.TypeFor[T]()) {
		value := reflect.ValueOf(defaults).FieldByIndex(f.index).Interface()
		text := ""
		if !reflect.ValueOf(value).IsZero() {
			text = fmt.Sprint(value)
		}
		flag := flags.VarPF(&textFlag{text: text, kind: f.kindName()}, f.flagName(), "", f.usage)
		if f.typ.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
}

// textFlag keeps what was given; Load reads it with the field's type at hand.
type textFlag struct{ text, kind string }

func (t *textFlag) String() string     { return t.text }
func (t *textFlag) Set(s string) error { t.text = s; return nil }
func (t *textFlag) Type() string       { return t.kind }

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)
