package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Bounds of what an application may tell.
const (
	appTime  = 2 * time.Second
	appBytes = 8 << 20
)

// application is where the application beside a sidecar tells its own metrics.
type application struct {
	url  string
	http *http.Client
}

func newApplication(url string) *application {
	if url == "" {
		return nil
	}
	return &application{url: url, http: &http.Client{
		Timeout: appTime,
		// It says itself where its metrics are; nobody is led elsewhere by it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects") },
		Transport:     &http.Transport{MaxConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10},
	}}
}

// read asks for the metrics in Prometheus' text form, and gives all or none. Those whose names begin like the proxy's own are left out:
// nobody else may tell of the mesh.
func (a *application) read(ctx context.Context) ([]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	res, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // read to its end or given up
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	body := &bounded{r: res.Body, left: appBytes}
	got, err := parse(body)
	if err != nil {
		return nil, err
	}
	var out []*dto.MetricFamily
	for name, f := range got {
		if !strings.HasPrefix(name, ownPrefix) && !strings.HasPrefix(name, envoyPrefix) {
			out = append(out, f)
		}
	}
	return out, nil
}

// parse reads Prometheus' text form.
func parse(r io.Reader) (families, error) {
	p := expfmt.NewTextParser(model.LegacyValidation)
	return p.TextToMetricFamilies(r)
}

// bounded fails instead of ending early, so that half an answer is not taken for the whole.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the answer is too long")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
