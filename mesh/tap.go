package mesh

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a Tap.
const (
	TapMaxRate     = 1000 // requests that are shown in a second
	TapDefaultRate = 100
	TapMaxTime     = 10 * time.Minute
	TapDefaultTime = time.Minute
	tapMaxFilter   = 512 // bytes of one value
	tapMaxValues   = 16
)

// Tap says which live requests and connections somebody wants to see.
type Tap struct {
	// Those of a Service in a namespace, as its servers see them or, with TapClient, as those see them who call it; or those
	// that a Proxy takes and sends. One of Service and Proxy is set.
	Namespace string    `json:"namespace,omitempty"`
	Service   string    `json:"service,omitempty"`
	Side      TapSide   `json:"side,omitempty"`
	Proxy     string    `json:"proxy,omitempty"` // ProxyID
	Filter    TapFilter `json:"filter"`
	Rate      int       `json:"rate,omitempty"`    // most that is shown in a second; 0 is TapDefaultRate
	Seconds   int       `json:"seconds,omitempty"` // after which it ends; 0 is TapDefaultTime
	By        string    `json:"by,omitempty"`      // who asks, for logs
}

// TapSide is who tells of a request.
type TapSide string

// The sides. A gateway has clients that are not of the mesh.
const (
	TapServer  TapSide = "server"
	TapClient  TapSide = "client"
	TapGateway TapSide = "gateway"
)

// TapFilter is met by requests that meet all that is set, and in each list one.
type TapFilter struct {
	Methods []string `json:"methods,omitempty"`
	Path    string   `json:"path,omitempty"`   // what the path begins with
	Status  []string `json:"status,omitempty"` // "404", "5xx"
	From    string   `json:"from,omitempty"`   // [NAMESPACE/]NAME[@ZONE]
	To      string   `json:"to,omitempty"`
	// Headers by name, in lower case, of TapHeaders and what is known without them. None is ever shown.
	Headers map[string]string `json:"headers,omitempty"`
}

// TapHeaders are those of a request that Envoy tells its agent besides what it always does; knownHeaders are those.
func TapHeaders() []string {
	return []string{
		"accept", "accept-language", "content-type", "origin", "x-canary", "x-env", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
		"x-tenant", "x-user", "x-version",
	}
}

func knownHeaders() []string { return []string{"referer", "traceparent", "user-agent", "x-request-id"} }

// TapEvent is one thing that a tap tells; one field is set.
type TapEvent struct {
	Request  *TapRequest  `json:"request,omitempty"`
	Left     *TapLeft     `json:"left,omitempty"`
	Watching *TapWatching `json:"watching,omitempty"`
	End      *TapEnd      `json:"end,omitempty"`
}

// TapRequest is a request that has ended or, without a Method, a connection that has begun (Open) or ended. It has no header, no body
// and no query.
type TapRequest struct {
	Time        time.Time `json:"time"` // of its begin
	DurationMS  float64   `json:"durationMs"`
	Zone        string    `json:"zone"`  // of who tells
	Proxy       string    `json:"proxy"` // that tells, as ProxyID
	Side        TapSide   `json:"side"`
	Source      TapEnds   `json:"source"`
	Destination TapEnds   `json:"destination"`
	Protocol    string    `json:"protocol"` // "HTTP/1.1", "HTTP/2", "TCP"
	Open        bool      `json:"open,omitempty"`
	Method      string    `json:"method,omitempty"`
	Host        string    `json:"host,omitempty"`
	Path        string    `json:"path,omitempty"`
	Status      uint32    `json:"status,omitempty"`
	Flags       string    `json:"flags,omitempty"`   // Envoy's response flags: "UF,URX"
	Details     string    `json:"details,omitempty"` // why, in Envoy's words
	Route       string    `json:"route,omitempty"`
	Policy      string    `json:"policy,omitempty"` // that decided
	// Denied: it refused a connection. Of a request Status says so.
	Denied    bool   `json:"denied,omitempty"`
	Attempts  uint32 `json:"attempts,omitempty"`
	BytesIn   uint64 `json:"bytesIn"`
	BytesOut  uint64 `json:"bytesOut"`
	TraceID   string `json:"traceId,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

// TapEnds is one end of a request, as far as it is known: a workload, a service account or a service.
type TapEnds struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Zone      string `json:"zone,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	Identity  string `json:"identity,omitempty"` // SPIFFE ID that it proved
	Address   string `json:"address,omitempty"`
}

// TapLeft says what was not shown, since it was said before.
type TapLeft struct {
	Zone  string `json:"zone"`
	Count uint64 `json:"count"`
	// Share of all requests that is looked at where there are too many; else 0, which means all. Then Count is an estimate.
	Share float64 `json:"share,omitempty"`
}

// TapWatching says who is watched in a zone, and who can't be; it replaces what was said of the zone before.
type TapWatching struct {
	Zone     string       `json:"zone"`
	Proxies  []string     `json:"proxies,omitempty"` // ProxyIDs
	Problems []TapProblem `json:"problems,omitempty"`
}

// TapProblem is why a proxy, or without one the zone, is not watched.
type TapProblem struct {
	Proxy  string `json:"proxy,omitempty"`
	Reason string `json:"reason"`
}

// TapEnd says why no more comes.
type TapEnd struct {
	Reason string `json:"reason"`
}

// Limits are the most that is shown in a second, and how long the tap lasts.
func (t Tap) Limits() (rate int, length time.Duration) {
	rate, length = t.Rate, time.Duration(t.Seconds)*time.Second
	if rate == 0 {
		rate = TapDefaultRate
	}
	if length == 0 {
		length = TapDefaultTime
	}
	return rate, length
}

// Check says what is wrong with a tap that others wrote.
func (t Tap) Check() error {
	switch {
	case (t.Service == "") == (t.Proxy == ""):
		return fmt.Errorf("a tap is of a service or of a proxy")
	case t.Service != "" && (CheckLabel(t.Service) != nil || CheckLabel(t.Namespace) != nil):
		return fmt.Errorf("%.80q in %.80q is no service", t.Service, t.Namespace)
	case t.Side != "" && (t.Service == "" || t.Side != TapServer && t.Side != TapClient):
		return fmt.Errorf("a service is tapped at its servers or at its clients, a proxy as it is")
	case t.Rate < 0 || t.Rate > TapMaxRate:
		return fmt.Errorf("the rate must be from 1 to %d a second", TapMaxRate)
	case t.Seconds < 0 || time.Duration(t.Seconds)*time.Second > TapMaxTime:
		return fmt.Errorf("a tap lasts at most %s", TapMaxTime)
	}
	if t.Proxy != "" {
		if _, err := ParseProxyID(t.Proxy); err != nil {
			return err
		}
	}
	return t.Filter.check()
}

func (f TapFilter) check() error {
	values := slices.Concat(f.Methods, f.Status, []string{f.Path, f.From, f.To})
	choices := append(TapHeaders(), knownHeaders()...)
	for k, v := range f.Headers {
		if !slices.Contains(choices, k) {
			return fmt.Errorf("the header %.80q is not known to a tap; these are: %s", k, strings.Join(choices, ", "))
		}
		values = append(values, v)
	}
	if len(f.Methods) > tapMaxValues || len(f.Status) > tapMaxValues || len(f.Headers) > tapMaxValues {
		return fmt.Errorf("at most %d values of one kind", tapMaxValues)
	}
	for _, v := range values {
		if len(v) > tapMaxFilter {
			return fmt.Errorf("a value has at most %d bytes", tapMaxFilter)
		}
	}
	for _, s := range f.Status {
		if !statusPattern(s) {
			return fmt.Errorf("%.20q is no status: write 404 or 5xx", s)
		}
	}
	return nil
}

func statusPattern(s string) bool {
	if len(s) != 3 || s[0] < '1' || s[0] > '5' {
		return false
	}
	return s[1:] == "xx" || strings.Trim(s[1:], "0123456789") == ""
}
