package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/internal/fault"
)

// terminal is what a command knows of the process it runs in; tests give their own.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
}

// cliConfig is the file that says which control planes there are: the shape of a kubeconfig with what
// Comity needs of it.
type cliConfig struct {
	CurrentContext string       `json:"current-context,omitempty"`
	Contexts       []cliContext `json:"contexts,omitempty"`
}

// cliContext is one control plane, global or a zone, and who we are there.
type cliContext struct {
	Name   string `json:"name"`
	Server string `json:"server"` // http(s)://host:port
	// CAFile verifies an https server; empty means the system's roots.
	CAFile string `json:"ca-file,omitempty"`
	// TokenFile holds the bearer token; relative paths are relative to the configuration file.
	TokenFile string `json:"token-file,omitempty"`
}

// connection flags, on every command.
type target struct {
	configFile, context, server, tokenFile, caFile string
}

// configPath is COMITY_CONFIG, else $XDG_CONFIG_HOME/comity/config.yaml, else ~/.config/comity/config.yaml.
func configPath(getenv func(string) string) string {
	if p := getenv("COMITY_CONFIG"); p != "" {
		return p
	}
	dir := getenv("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(getenv("HOME"), ".config")
	}
	return filepath.Join(dir, "comity", "config.yaml")
}

// endpoint is a resolved target. It holds the token, so it must never be printed.
type endpoint struct {
	server, token, caFile string
}

// resolve finds the server and the token: flags before environment before the context. A context's token and CA are for
// its own server: one that a flag or the environment names gets them only from a context of that very server.
func (t target) resolve(term terminal) (endpoint, error) {
	path := t.configFile
	if path == "" {
		path = configPath(term.getenv)
	}
	var ctx cliContext
	cfg, err := readCLIConfig(path)
	switch {
	case err == nil:
		if ctx, err = cfg.pick(firstOf(t.context, term.getenv("COMITY_CONTEXT")), path); err != nil {
			return endpoint{}, err
		}
	case !errors.Is(err, fs.ErrNotExist) || t.context != "" || t.configFile != "":
		return endpoint{}, &fault.Error{Code: "CLI-CONFIG", What: "can't read the configuration file " + path, Err: err, Exit: fault.ExitUsage,
			Try: "write it, or name a control plane with --server and --token-file", Docs: "comity help contexts"}
	}
	if named := firstOf(t.server, term.getenv("COMITY_SERVER")); named != "" && named != ctx.Server {
		ctx = cfg.of(named)
	}
	e := endpoint{
		server: firstOf(t.server, term.getenv("COMITY_SERVER"), ctx.Server),
		caFile: firstOf(t.caFile, term.getenv("COMITY_CA_FILE"), ctx.CAFile),
		token:  term.getenv("COMITY_TOKEN"),
	}
	if e.server == "" {
		return endpoint{}, &fault.Error{Code: "CLI-NO-SERVER", What: "no control plane is named", Exit: fault.ExitUsage,
			Cause: "there is no --server, no COMITY_SERVER and no context in " + path,
			Try:   "with a demo running: eval \"$(bin/comity demo env)\"; otherwise comity --server http://127.0.0.1:7400 --token-file FILE ...", Docs: "comity help contexts"}
	}
	if file := firstOf(t.tokenFile, term.getenv("COMITY_TOKEN_FILE"), ctx.TokenFile); file != "" && (e.token == "" || t.tokenFile != "") {
		text, err := readSmall(file)
		if err != nil {
			return endpoint{}, &fault.Error{Code: "CLI-TOKEN", What: "can't read the token file", Err: err, Exit: fault.ExitUsage}
		}
		e.token = strings.TrimSpace(string(text))
	}
	return e, nil
}

// readSmall reads a file that a person wrote, at most 1 MiB of it.
func readSmall(path string) ([]byte, error) {
	const limit = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(text) > limit {
		err = errors.New(path + " is larger than 1 MiB")
	}
	return text, err
}

func readCLIConfig(path string) (cliConfig, error) {
	var cfg cliConfig
	text, err := readSmall(path)
	if err != nil {
		return cfg, err
	}
	if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
		return cfg, err
	}
	for i := range cfg.Contexts {
		c := &cfg.Contexts[i]
		for _, f := range []*string{&c.TokenFile, &c.CAFile} {
			if *f != "" && !filepath.IsAbs(*f) {
				*f = filepath.Join(filepath.Dir(path), *f)
			}
		}
	}
	return cfg, nil
}

func (c cliConfig) pick(name, path string) (cliContext, error) {
	if name == "" {
		name = c.CurrentContext
	}
	if name == "" {
		return cliContext{}, nil
	}
	var names []string
	for _, ctx := range c.Contexts {
		if ctx.Name == name {
			return ctx, nil
		}
		names = append(names, ctx.Name)
	}
	return cliContext{}, &fault.Error{Code: "CLI-CONTEXT", What: fmt.Sprintf("there is no context %q", name), Exit: fault.ExitUsage,
		Cause: path + " has: " + strings.Join(names, ", "), Docs: "comity help contexts"}
}

// of is the first context of exactly that server; one without token and CA if there is none.
func (c cliConfig) of(server string) cliContext {
	for _, ctx := range c.Contexts {
		if ctx.Server == server {
			return ctx
		}
	}
	return cliContext{Server: server}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
