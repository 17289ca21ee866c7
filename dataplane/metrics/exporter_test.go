package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
)

// TestExporter: the agent's process has its own names, both text forms are answered, Envoy's words come when they are asked for, and an
// Envoy that is gone takes nothing else away.
func TestExporter(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 5\n")
	}))
	t.Cleanup(app.Close)
	envoy := func(_ context.Context, _ string, w io.Writer) error {
		_, err := io.WriteString(w, `# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 7
# TYPE envoy_http_downstream_rq_xx counter
envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="inbound/pay.shop_80/west"} 3
`)
		return err
	}
	ask := func(c Config, path, accept string) string {
		t.Helper()
		c.Own, c.Log = telemetry.NewRegistry("sidecar"), slog.New(slog.DiscardHandler)
		c.Self = func() Self { return Self{Role: mesh.RoleSidecar, Zone: "east"} }
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		NewExporter(c).ServeHTTP(w, r)
		return w.Header().Get("Content-Type") + "\n" + w.Body.String()
	}
	for _, c := range []struct {
		name, path, accept string
		config             Config
		has, not           []string
	}{
		{
			"text", "/metrics", "", Config{Envoy: envoy, Application: app.URL},
			[]string{
				"text/plain", "\nprocess_start_time_seconds 5", "\ncomity_agent_process_start_time_seconds ", "comity_build_info{", "comity_app_scrape_up 1", "comity_proxy_uptime_seconds 7",
				`comity_requests_total{code_class="2xx",destination="pay",destination_namespace="shop",destination_zone="east",protocol="http",reporter="server",source="unknown",source_namespace="unknown",source_zone="west"} 3`,
			},
			[]string{"envoy_server_uptime", "# EOF"},
		},
		{
			"OpenMetrics", "/metrics", "application/openmetrics-text;version=1.0.0", Config{Envoy: envoy},
			[]string{"application/openmetrics-text", "# TYPE comity_requests counter\n", "# EOF"}, []string{"comity_app_scrape_up"},
		},
		{"Envoy's words", "/metrics?include=envoy", "", Config{Envoy: envoy}, []string{"envoy_server_uptime 7", "comity_requests_total"}, nil},
		{
			"no Envoy", "/metrics", "", Config{Envoy: func(context.Context, string, io.Writer) error { return errors.New("gone") }, Application: app.URL},
			[]string{"comity_build_info{", "comity_app_scrape_up 1"}, []string{"comity_proxy_", "comity_requests_total"},
		},
		{"proxyless", "/metrics", "", Config{}, []string{"comity_build_info{"}, []string{"comity_proxy_"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(c.config, c.path, c.accept)
			for _, part := range c.has {
				if !strings.Contains(got, part) {
					t.Errorf("%q is not in\n%s", part, got)
				}
			}
			for _, part := range c.not {
				if strings.Contains(got, part) {
					t.Errorf("%q is in\n%s", part, got)
				}
			}
		})
	}
}
