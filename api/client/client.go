package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/version"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// maxAnswer bounds what the client reads of one answer.
const maxAnswer = 64 << 20

// Config says where the API is and who we are there.
type Config struct {
	Server string // http(s)://host:port
	Token  string // bearer; empty for none
	CAFile string // PEM roots for https; empty: the system's
}

// Client is safe for concurrent use. Its errors are *fault.Error with the exit code that goes with them.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New checks the configuration; it does not connect.
func New(c Config) (*Client, error) {
	base, err := url.Parse(c.Server)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, &fault.Error{Code: "API-ADDRESS", What: fmt.Sprintf("%q is no address of a control plane", c.Server), Exit: fault.ExitUsage, Try: "write it as https://host:7400"}
	}
	if base.Scheme == "http" && c.Token != "" && !loopback(base.Hostname()) {
		return nil, &fault.Error{Code: "API-PLAINTEXT", What: "won't send a token over plain http to " + base.Host, Exit: fault.ExitUsage, Try: "use https, with --ca-file for a private CA"}
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, &fault.Error{Code: "API-CA", What: "can't read the CA file", Err: err, Exit: fault.ExitUsage}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &fault.Error{Code: "API-CA", What: c.CAFile + " holds no PEM certificate", Exit: fault.ExitUsage}
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &Client{base: base, token: c.Token, http: &http.Client{Transport: t}}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// path of a kind's collection, or of one resource if name is set.
func path(kind policy.KindInfo, namespace, name string) string {
	p := "/api/v1/"
	if namespace != "" {
		p += "namespaces/" + url.PathEscape(namespace) + "/"
	}
	p += kind.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// ListOptions selects objects; zero fields don't.
type ListOptions struct {
	Namespace string
	Origin    string
	Selector  string // label selector, as app=web,tier=front
	Contains  string // in the name
	Sort      string // name, changed, created; with "-" before it descending
	Limit     int    // of one page
	Continue  string
}

// List returns one page.
func (c *Client) List(ctx context.Context, kind policy.KindInfo, o ListOptions) (List, error) {
	q := url.Values{}
	for k, v := range map[string]string{"origin": o.Origin, "labelSelector": o.Selector, "contains": o.Contains, "sort": o.Sort, "continue": o.Continue} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	var out List
	err := c.do(ctx, request{method: http.MethodGet, path: path(kind, o.Namespace, ""), query: q}, &out)
	return out, err
}

// ListAll follows the pages to the end.
func (c *Client) ListAll(ctx context.Context, kind policy.KindInfo, o ListOptions) ([]Object, error) {
	var all []Object
	o.Limit = 1000
	for {
		page, err := c.List(ctx, kind, o)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Continue == "" {
			return all, nil
		}
		o.Continue = page.Continue
	}
}

// Get returns one object. An empty origin means the answering store's own, else the only one there is.
func (c *Client) Get(ctx context.Context, kind policy.KindInfo, namespace, name, origin string) (Object, error) {
	var out Object
	err := c.do(ctx, request{method: http.MethodGet, path: path(kind, namespace, name), query: originQuery(origin)}, &out)
	return out, err
}

// Delete removes one object of the answering store's own origin, and returns the revision that did.
func (c *Client) Delete(ctx context.Context, kind policy.KindInfo, namespace, name string) (mesh.Revision, error) {
	res, err := c.send(ctx, request{method: http.MethodDelete, path: path(kind, namespace, name)})
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	revision, err := strconv.ParseUint(res.Header.Get("Comity-Revision"), 10, 63)
	if err != nil {
		return 0, &fault.Error{Code: "API-ANSWER", What: "the answer of " + c.base.Host + " is not what this program expects", Err: err,
			Try: "compare comity version with the server's"}
	}
	return mesh.Revision(revision), nil
}

func originQuery(origin string) url.Values {
	if origin == "" {
		return nil
	}
	return url.Values{"origin": {origin}}
}

// ApplyOptions goes with Apply.
type ApplyOptions struct {
	DryRun bool
	Reason string // for the history
	// IdempotencyKey makes a repeated Apply answer the first result; empty: a fresh one.
	IdempotencyKey string
}

// Apply sends YAML or JSON documents as one revision: all of them, or none.
func (c *Client) Apply(ctx context.Context, docs []byte, o ApplyOptions) (ApplyResult, error) {
	q := url.Values{}
	if o.DryRun {
		q.Set("dryRun", "All")
	}
	if o.IdempotencyKey == "" {
		o.IdempotencyKey = rand.Text()
	}
	var out ApplyResult
	err := c.do(ctx, request{method: http.MethodPost, path: "/api/v1/_apply", query: q, body: docs, contentType: "application/yaml",
		header: map[string]string{"Idempotency-Key": o.IdempotencyKey, "Comity-Reason": url.PathEscape(o.Reason)}}, &out)
	return out, err
}

// Proxies lists the proxies of a zone, or of all zones that the answering control plane knows.
func (c *Client) Proxies(ctx context.Context, zone string) ([]mesh.ProxyStatus, error) {
	q := url.Values{}
	if zone != "" {
		q.Set("zone", zone)
	}
	var out ProxyList
	err := c.do(ctx, request{method: http.MethodGet, path: "/api/v1/proxies", query: q}, &out)
	return out.Items, err
}

// Inspect answers what a proxy runs now: what is "config", "stats" or "clusters", the answer Envoy's own words.
func (c *Client) Inspect(ctx context.Context, zone string, proxy mesh.ProxyID, what string) ([]byte, error) {
	q := url.Values{}
	if zone != "" {
		q.Set("zone", zone)
	}
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/api/v1/proxies/" + url.PathEscape(proxy.String()) + "/" + what, query: q})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(err)
	}
	return out, nil
}

// Failover says where the traffic of services goes.
func (c *Client) Failover(ctx context.Context, q FailoverQuery) ([]mesh.FailoverStatus, error) {
	var out FailoverList
	err := c.do(ctx, request{method: http.MethodGet, path: "/api/v1/failover", query: q.values()}, &out)
	return out.Items, err
}

// Plaintext returns who speaks plaintext to permissive ports of the services.
func (c *Client) Plaintext(ctx context.Context, q FailoverQuery) ([]mesh.PlaintextStatus, error) {
	var out PlaintextList
	err := c.do(ctx, request{method: http.MethodGet, path: "/api/v1/plaintext", query: q.values()}, &out)
	return out.Items, err
}

func (q FailoverQuery) values() url.Values {
	values := url.Values{}
	for name, v := range map[string]string{"namespace": q.Namespace, "service": q.Service, "zone": q.Zone} {
		if v != "" {
			values.Set(name, v)
		}
	}
	return values
}

// Post sends v as JSON to a path under /api/v1 and decodes the answer into out, which may be nil.
func (c *Client) Post(ctx context.Context, path string, v, out any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.do(ctx, request{method: http.MethodPost, path: "/api/v1" + path, body: body, contentType: "application/json"}, out)
}

// Fetch decodes the answer to a GET of a path under /api/v1 into out.
func (c *Client) Fetch(ctx context.Context, path string, out any) error {
	return c.do(ctx, request{method: http.MethodGet, path: "/api/v1" + path}, out)
}

// Follow calls each with every step of a revision's way to the proxies until each says true, the
// revision is done everywhere, or ctx ends.
func (c *Client) Follow(ctx context.Context, revision mesh.Revision, each func(Progress) (stop bool)) error {
	q := url.Values{"revision": {strconv.FormatUint(uint64(revision), 10)}}
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/api/v1/_status", query: q, header: map[string]string{"Accept": "text/event-stream"}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data:")
		if !ok {
			continue
		}
		var p Progress
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return fmt.Errorf("progress of revision %d: %w", revision, err)
		}
		if each(p) || p.Done {
			return nil
		}
	}
	if err := in.Err(); err != nil {
		return c.unreachable(err)
	}
	return c.unreachable(io.ErrUnexpectedEOF)
}

type request struct {
	method, path, contentType string
	query                     url.Values
	header                    map[string]string
	body                      []byte
}

func (c *Client) do(ctx context.Context, r request, out any) error {
	res, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return c.unreachable(err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return &fault.Error{Code: "API-ANSWER", What: "the answer of " + c.base.Host + " is not what this program expects", Err: err,
			Try: "compare comity version with the server's"}
	}
	return nil
}

// send returns the response of a request that succeeded; its body is the caller's to close.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + r.path
	if unescaped, err := url.PathUnescape(u.Path); err == nil {
		u.RawPath, u.Path = u.Path, unescaped
	}
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "comity/"+version.Version)
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range r.header {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, c.problem(res)
	}
	return res, nil
}

func (c *Client) unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return &fault.Error{Code: "API-UNREACHABLE", What: "can't reach " + c.base.String(), Err: err, Exit: fault.ExitUnreachable, Docs: "comity help contexts",
		Try: "see that it runs and that the address is right"}
}

// problem turns an error answer into four parts.
func (c *Client) problem(res *http.Response) error {
	var p Problem
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if json.Unmarshal(text, &p) != nil || p.Title == "" {
		p = Problem{Title: http.StatusText(res.StatusCode), Detail: strings.TrimSpace(string(text[:min(len(text), 300)]))}
	}
	return fromProblem(p, res.StatusCode)
}

// fromProblem is the fault that a problem describes.
func fromProblem(p Problem, status int) *fault.Error {
	f := &fault.Error{Code: firstOf(p.Code, fmt.Sprintf("API-%d", status)), What: firstOf(p.Detail, p.Title), Try: p.Try, Exit: exitCode(status)}
	cause := &ProblemError{p}
	f.Err, f.Docs = cause, cause.Pages()
	if status == http.StatusUnauthorized {
		// The server speaks of headers; its answer is for every client.
		f.Try, f.Docs = "give the token of this server with --token-file, COMITY_TOKEN or COMITY_TOKEN_FILE, or with a context that names exactly this server", "comity help contexts"
	}
	return f
}

func exitCode(status int) int {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return fault.ExitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired:
		return fault.ExitConflict
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.ExitDenied
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fault.ExitUnreachable
	default:
		return fault.ExitFailure
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
