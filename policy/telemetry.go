package policy

import (
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// TelemetryPolicy says what proxies tell of requests: access logs, traces and metrics. Of a Service, it is for those who serve it; of a
// namespace or the mesh, for those who serve there and for what the workloads there ask. Metrics between services need no policy; it
// makes them finer.
type TelemetryPolicy struct {
	Attachment
	// AccessLogs replace MeshConfig.accessLog; each gets every request that its filter matches. At most 4.
	AccessLogs []AccessLogTo `json:"accessLogs,omitempty"`
	// Tracing tells a collector of requests.
	Tracing *Tracing `json:"tracing,omitempty"`
	// Metrics of those who serve, and of who asks them.
	Metrics *Metrics `json:"metrics,omitempty"`
}

// AccessLogTo is one place where requests are logged. Exactly one of File and OTLP is set.
type AccessLogTo struct {
	File *AccessLog `json:"file,omitempty"`
	// OTLP is a collector of OpenTelemetry's logs over gRPC.
	OTLP *Collector `json:"otlp,omitempty"`
	// Filter chooses; nil: all.
	Filter *LogFilter `json:"filter,omitempty"`
}

// LogFilter chooses what is logged: what meets all that is set.
type LogFilter struct {
	// MinStatus is the lowest status, 100 to 599. Like PathPrefix it is never met by TCP connections.
	MinStatus uint32 `json:"minStatus,omitempty"`
	// MinDuration of the whole request.
	MinDuration gatewayv1.Duration `json:"minDuration,omitempty"`
	// Flags of Envoy, one of which the request must have ("UF").
	Flags []string `json:"flags,omitempty"`
	// PathPrefix of the request as it arrived.
	PathPrefix string `json:"pathPrefix,omitempty"`
	// SamplePercent of those that meet the rest, above 0 and at most 100. Default 100.
	SamplePercent *float64 `json:"samplePercent,omitempty"`
}

// Collector is who is told. Exactly one of Address and Service is set.
type Collector struct {
	// Address is host:port outside of the mesh.
	Address string `json:"address,omitempty"`
	// TLS to Address; nil: plaintext.
	TLS *CollectorTLS `json:"tls,omitempty"`
	// Service of the mesh, by mTLS. Its AuthorizationPolicies must allow those who tell.
	Service *ServiceAddress `json:"service,omitempty"`
}

// CollectorTLS verifies a collector outside of the mesh.
type CollectorTLS struct {
	// CA in PEM form. Default: the roots of the proxy's system.
	CA string `json:"ca,omitempty"`
	// ServerName in the certificate. Default: the host of the address.
	ServerName string `json:"serverName,omitempty"`
}

// Tracing tells of requests as spans: one where a request begins, one where it is served.
type Tracing struct {
	// Exactly one of OTLP and Zipkin. OTLP reads and writes W3C trace context, Zipkin B3 headers.
	OTLP   *Collector `json:"otlp,omitempty"`
	Zipkin *Collector `json:"zipkin,omitempty"`
	// Protocol of OTLP, GRPC or HTTP. Default GRPC.
	Protocol OTLPProtocol `json:"protocol,omitempty"`
	// W3C, with Zipkin, reads and writes W3C trace context beside B3.
	W3C bool `json:"w3c,omitempty"`
	// SamplePercent of the requests that belong to no trace yet, above 0 and at most 100; the others follow their trace. Default 1.
	SamplePercent *float64 `json:"samplePercent,omitempty"`
	// Tags are put on every span. At most 16.
	Tags []SpanTag `json:"tags,omitempty"`
}

// Metrics says what is told apart of requests.
type Metrics struct {
	// Callers has requests counted for each caller's identity, instead of for each zone that they come from. Default false: it costs
	// each request up to 1.5 us, and clients tell the same of themselves for nothing.
	Callers bool `json:"callers,omitempty"`
	// Methods has servers count requests for each method, too; of the methods that are not HTTP's own all are one. Default false:
	// two loggers look at each request for it, and one counts it.
	Methods bool `json:"methods,omitempty"`
	// Rules is what who asks tells of the named rules of the routes of what is asked. Default Counts.
	Rules RuleMetrics `json:"rules,omitempty"`
}

// RuleMetrics is how much is told of a rule with a name.
type RuleMetrics string

// None tells nothing, Counts answers by class and retries (six series), Durations how long they took as well (a histogram).
const (
	RuleMetricsNone      RuleMetrics = "None"
	RuleMetricsCounts    RuleMetrics = "Counts"
	RuleMetricsDurations RuleMetrics = "Durations"
)

// OfRules is Rules or its default, of no policy too.
func (m *Metrics) OfRules() RuleMetrics {
	if m == nil || m.Rules == "" {
		return RuleMetricsCounts
	}
	return m.Rules
}

// OTLPProtocol is how spans are sent.
type OTLPProtocol string

// The protocols.
const (
	OTLPGRPC OTLPProtocol = "GRPC"
	OTLPHTTP OTLPProtocol = "HTTP"
)

// SpanTag is a name with a literal, or with what the request's header says. Exactly one of Literal and Header is set.
type SpanTag struct {
	Name    string `json:"name"`
	Literal string `json:"literal,omitempty"`
	Header  string `json:"header,omitempty"`
	// Default for a request without the header; without it the tag is left out.
	Default string `json:"default,omitempty"`
}

// Bounds of a TelemetryPolicy.
const (
	maxAccessLogs = 4
	maxSpanTags   = 16
)

// DefaultTracePercent is the share of new traces: enough to see every busy path, and little to store.
const DefaultTracePercent = 1.0

// responseFlags are those of Envoy 1.40 by which it can filter.
var responseFlags = []string{
	"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR",
	"RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
}

// Share is SamplePercent or its default.
func (f LogFilter) Share() float64 { return percentOr(f.SamplePercent, 100) }

// Share is SamplePercent or its default.
func (t Tracing) Share() float64 { return percentOr(t.SamplePercent, DefaultTracePercent) }

// Collector is whoever is told, by whichever protocol.
func (t Tracing) Collector() Collector {
	if t.OTLP != nil {
		return *t.OTLP
	}
	return *t.Zipkin
}

// Collectors are all who are told.
func (t TelemetryPolicy) Collectors() []Collector {
	var out []Collector
	for _, l := range t.AccessLogs {
		if l.OTLP != nil {
			out = append(out, *l.OTLP)
		}
	}
	if t.Tracing != nil {
		out = append(out, t.Tracing.Collector())
	}
	return out
}

// Duration is MinDuration, 0 for none.
func (f LogFilter) Duration() time.Duration { return durationOr(f.MinDuration, 0) }

// HTTP2 reports whether the spans are sent over HTTP/2.
func (t Tracing) HTTP2() bool { return t.OTLP != nil && t.Protocol != OTLPHTTP }

// HostPort splits the address; it was validated.
func (c Collector) HostPort() (string, uint16) {
	host, port, _ := net.SplitHostPort(c.Address)
	n, _ := strconv.ParseUint(port, 10, 16) // validated
	return host, uint16(n)
}

func percentOr(p *float64, or float64) float64 {
	if p == nil {
		return or
	}
	return *p
}

func validateTelemetryPolicy(r *report, res mesh.Resource, t *TelemetryPolicy) {
	validateAttachment(r, res, t.Attachment, "Service")
	if t.AccessLogs == nil && t.Tracing == nil && t.Metrics == nil {
		r.add(FieldError{Pointer: "/spec", Code: CodeRequired, Message: "says nothing", Hint: "set accessLogs, tracing or metrics"})
	}
	r.atMost("/spec/accessLogs", len(t.AccessLogs), maxAccessLogs)
	for i, l := range t.AccessLogs {
		at := ptr("/spec/accessLogs", i)
		if (l.File == nil) == (l.OTLP == nil) {
			r.invalid(at, "must have exactly one of file and otlp")
		}
		if l.File != nil {
			r.checked(at+"/file/path", l.File.Path, checkLogPath)
		}
		if l.OTLP != nil {
			validateCollector(r, at+"/otlp", *l.OTLP)
		}
		if l.Filter != nil {
			validateLogFilter(r, at+"/filter", *l.Filter)
		}
	}
	if t.Tracing != nil {
		validateTracing(r, *t.Tracing)
	}
	if t.Metrics != nil {
		r.oneOf("/spec/metrics/rules", string(t.Metrics.Rules), "", string(RuleMetricsNone), string(RuleMetricsCounts), string(RuleMetricsDurations))
	}
}

func checkLogPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsRune(p, 0) {
		return fmt.Errorf("%q must be a clean absolute path", clip(p))
	}
	return nil
}

func validateLogFilter(r *report, at string, f LogFilter) {
	if f.MinStatus != 0 {
		r.number(at+"/minStatus", &f.MinStatus, 100, 599)
	}
	r.duration(at+"/minDuration", f.MinDuration, time.Millisecond, time.Hour)
	for i, flag := range f.Flags {
		r.oneOf(ptr(at+"/flags", i), flag, responseFlags...)
	}
	r.atMost(at+"/flags", len(f.Flags), len(responseFlags))
	if f.PathPrefix != "" {
		validatePathValue(r, at+"/pathPrefix", f.PathPrefix)
	}
	r.percent(at+"/samplePercent", f.Share())
}

func validateCollector(r *report, at string, c Collector) {
	if (c.Address == "") == (c.Service == nil) {
		r.invalid(at, "must have exactly one of address and service")
	}
	if c.Address != "" {
		r.checked(at+"/address", c.Address, checkHostPort)
	}
	if s := c.Service; s != nil {
		r.checked(at+"/service/name", s.Name, mesh.CheckLabel)
		if s.Namespace != "" {
			r.checked(at+"/service/namespace", s.Namespace, mesh.CheckLabel)
		}
		r.port(at+"/service/port", s.Port)
	}
	if t := c.TLS; t != nil {
		if c.Address == "" {
			r.invalid(at+"/tls", "is for an address; services of the mesh are reached by mTLS")
		}
		if t.ServerName != "" {
			r.checked(at+"/tls/serverName", t.ServerName, mesh.CheckSubdomain)
		}
		if t.CA != "" {
			if err := checkCertificates(t.CA); err != nil {
				r.invalid(at+"/tls/ca", "%s", err)
			}
		}
	}
}

func checkHostPort(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%q is not host:port", clip(a))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port from 1 to 65535", clip(a))
	}
	if net.ParseIP(host) != nil {
		return nil
	}
	return mesh.CheckSubdomain(host)
}

func validateTracing(r *report, t Tracing) {
	const at = "/spec/tracing"
	if (t.OTLP == nil) == (t.Zipkin == nil) {
		r.invalid(at, "must have exactly one of otlp and zipkin")
	}
	if t.OTLP != nil {
		validateCollector(r, at+"/otlp", *t.OTLP)
	}
	if t.Zipkin != nil {
		validateCollector(r, at+"/zipkin", *t.Zipkin)
		if t.Protocol != "" {
			r.invalid(at+"/protocol", "is for otlp")
		}
	}
	if t.W3C && t.Zipkin == nil {
		r.invalid(at+"/w3c", "is for zipkin: otlp has W3C trace context anyway")
	}
	r.oneOf(at+"/protocol", string(t.Protocol), "", string(OTLPGRPC), string(OTLPHTTP))
	r.percent(at+"/samplePercent", t.Share())
	r.atMost(at+"/tags", len(t.Tags), maxSpanTags)
	for i, tag := range t.Tags {
		here := ptr(at+"/tags", i)
		if tag.Name == "" {
			r.required(here + "/name")
		}
		r.text(here+"/name", tag.Name)
		r.text(here+"/literal", tag.Literal)
		r.text(here+"/default", tag.Default)
		if (tag.Literal == "") == (tag.Header == "") {
			r.invalid(here, "must have exactly one of literal and header")
		}
		if tag.Header != "" && !headerName.MatchString(tag.Header) {
			r.invalid(here+"/header", "%q is no header name", clip(tag.Header))
		}
		if tag.Default != "" && tag.Header == "" {
			r.invalid(here+"/default", "is for a header")
		}
	}
}
