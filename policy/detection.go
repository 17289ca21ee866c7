package policy

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Detection is how proxies find out that somebody does not answer, and what they do then. What came of
// the defaults when things died is in docs/faults.md.
type Detection struct {
	// ConnectTimeout bounds a connection within the zone, its TLS handshake included. Default 250ms: a dead
	// neighbour must not hold a request longer.
	ConnectTimeout gatewayv1.Duration `json:"connectTimeout,omitempty"`
	// RemoteConnectTimeout bounds one to another zone. Default 1s: a handshake takes several round trips, and
	// those between clouds take up to 250 ms.
	RemoteConnectTimeout gatewayv1.Duration `json:"remoteConnectTimeout,omitempty"`
	// Retry is for requests that failed.
	Retry *RetryDetection `json:"retry,omitempty"`
	// Outlier takes endpoints that fail out of use.
	Outlier *OutlierDetection `json:"outlier,omitempty"`
	// KeepAlive finds HTTP/2 connections on which packets vanish.
	KeepAlive *KeepAlive `json:"keepalive,omitempty"`
	// PanicPercent of the endpoints must look alive, or all of them are tried. Default 5: at 0 nothing is
	// tried when all look dead, at Envoy's own 50 dead ones are tried while others live.
	PanicPercent *uint32 `json:"panicPercent,omitempty"`
	// Probe is how the ingresses of one zone watch those of the others.
	Probe *Probe `json:"probe,omitempty"`
}

// RetryDetection is how failed requests are tried again, each time on another endpoint. Requests that no application
// can have seen are always tried again; those that it may have seen only if they are idempotent (RFC 9110, 9.2.2).
type RetryDetection struct {
	// Attempts beyond the first. Default 3: the third goes to another priority, which another zone serves.
	Attempts *uint32 `json:"attempts,omitempty"`
	// BackOff between tries grows from Base to Max. Defaults 5ms and 50ms: the next try goes elsewhere, so
	// there is nothing to wait for but to spread the tries of many.
	BackOff *BackOff `json:"backOff,omitempty"`
	// PerTryTimeout gives one try up, and only if the request is idempotent. Default none: what is right only the
	// application knows.
	PerTryTimeout gatewayv1.Duration `json:"perTryTimeout,omitempty"`
	// Hedge starts the next try at PerTryTimeout without giving up the first; whichever answers first counts.
	// Default false: it multiplies load when a service is slow, so PerTryTimeout must be well above the
	// service's own latency.
	Hedge bool `json:"hedge,omitempty"`
}

// BackOff is how long to wait between tries.
type BackOff struct {
	Base gatewayv1.Duration `json:"base,omitempty"`
	Max  gatewayv1.Duration `json:"max,omitempty"`
}

// OutlierDetection is when an endpoint is taken out of use by what requests to it meet.
type OutlierDetection struct {
	// LocalFailures in a row: connections refused, reset or timed out. Default 2: one may be an accident.
	LocalFailures *uint32 `json:"localFailures,omitempty"`
	// GatewayFailures in a row: answers of an endpoint's sidecar that its application refuses or breaks connections. Default
	// 5: an application that starts anew breaks some. Whatever an application itself answers is none: a 503 may be
	// passed on from deeper in the call graph, by one that is well.
	GatewayFailures *uint32 `json:"gatewayFailures,omitempty"`
	// Interval at which endpoints may come back. Default 5s: ejections do not wait for it.
	Interval gatewayv1.Duration `json:"interval,omitempty"`
	// Ejection is how long an endpoint stays out for the first time. Default 30s: a short one sends traffic back
	// into the hole. One that was dead and lives again is told by the zone and comes back at once.
	Ejection gatewayv1.Duration `json:"ejection,omitempty"`
	// MaxEjectionPercent of a service's endpoints. Default 100: a whole zone can be dead.
	MaxEjectionPercent *uint32 `json:"maxEjectionPercent,omitempty"`
}

// KeepAlive sends HTTP/2 pings on connections that wait for an answer or are open.
type KeepAlive struct {
	// Interval between pings. Default 1s: idle connections are closed, so an idle mesh sends none.
	Interval gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout after which a connection without an answer is closed. Default 1s.
	Timeout gatewayv1.Duration `json:"timeout,omitempty"`
}

// Probe is how the ingresses of one zone watch those of the others.
type Probe struct {
	// Interval between pings on the one connection. Default 250ms.
	Interval gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout of an answer, and of the fresh handshake that is tried before an ingress is given up. Default 250ms.
	Timeout gatewayv1.Duration `json:"timeout,omitempty"`
	// Failures in a row before the fresh handshake. Default 2: one packet may be lost. With the defaults an
	// ingress in a black hole is given up after about 750 ms.
	Failures *uint32 `json:"failures,omitempty"`
}

// Trust is how long zones believe each other when global is away.
type Trust struct {
	// Lease is how long after global was last heard of the other zones' identities are believed. Default 24h: a day to
	// repair global, and no longer is a revocation unknown.
	Lease gatewayv1.Duration `json:"lease,omitempty"`
	// AfterLease says what then happens. Default Distrust.
	AfterLease AfterLease `json:"afterLease,omitempty"`
}

// AfterLease is what happens when a trust lease ends.
type AfterLease string

// The values of AfterLease.
const (
	Distrust AfterLease = "Distrust" // the other zones' identities are refused
	Keep     AfterLease = "Keep"     // they are believed for as long as their bundles hold
)

// DetectionSettings is Detection with every default filled in.
type DetectionSettings struct {
	ConnectTimeout       time.Duration
	RemoteConnectTimeout time.Duration
	Retry                RetrySettings
	Outlier              OutlierSettings
	KeepAlive            KeepAliveSettings
	PanicPercent         uint32
	Probe                ProbeSettings
}

// OutlierSettings is OutlierDetection with every default filled in.
type OutlierSettings struct {
	LocalFailures, GatewayFailures uint32
	Interval, Ejection             time.Duration
	MaxEjectionPercent             uint32
}

// KeepAliveSettings is KeepAlive with every default filled in.
type KeepAliveSettings struct{ Interval, Timeout time.Duration }

// ProbeSettings is Probe with every default filled in.
type ProbeSettings struct {
	Interval, Timeout time.Duration
	Failures          uint32
}

// TrustSettings is Trust with every default filled in.
type TrustSettings struct {
	Lease time.Duration
	Keep  bool
}

// DetectionSettings fills in the defaults, whose reasons are at the fields of Detection.
func (c MeshConfig) DetectionSettings() DetectionSettings {
	d := orZero(c.Detection)
	r, o, k, p := orZero(d.Retry), orZero(d.Outlier), orZero(d.KeepAlive), orZero(d.Probe)
	b := orZero(r.BackOff)
	return DetectionSettings{
		ConnectTimeout:       durationOr(d.ConnectTimeout, 250*time.Millisecond),
		RemoteConnectTimeout: durationOr(d.RemoteConnectTimeout, time.Second),
		Retry: RetrySettings{
			Attempts: numberOr(r.Attempts, 3), Reasons: []RetryReason{"reset", "503", "504"}, OtherHost: true, OtherZoneAfter: 2,
			BackOff: durationOr(b.Base, 5*time.Millisecond), MaxBackOff: durationOr(b.Max, 50*time.Millisecond),
			PerTryTimeout: durationOr(r.PerTryTimeout, 0), Hedge: r.Hedge,
		},
		Outlier: OutlierSettings{
			LocalFailures: numberOr(o.LocalFailures, 2), GatewayFailures: numberOr(o.GatewayFailures, 5),
			Interval: durationOr(o.Interval, 5*time.Second), Ejection: durationOr(o.Ejection, 30*time.Second),
			MaxEjectionPercent: numberOr(o.MaxEjectionPercent, 100),
		},
		KeepAlive:    KeepAliveSettings{Interval: durationOr(k.Interval, time.Second), Timeout: durationOr(k.Timeout, time.Second)},
		PanicPercent: numberOr(d.PanicPercent, 5),
		Probe: ProbeSettings{
			Interval: durationOr(p.Interval, 250*time.Millisecond), Timeout: durationOr(p.Timeout, 250*time.Millisecond),
			Failures: numberOr(p.Failures, 2),
		},
	}
}

// TrustSettings fills in the defaults, whose reasons are at the fields of Trust.
func (c MeshConfig) TrustSettings() TrustSettings {
	t := orZero(c.Trust)
	return TrustSettings{Lease: durationOr(t.Lease, 24*time.Hour), Keep: t.AfterLease == Keep}
}

func validateDetection(r *report, d Detection) {
	const at = "/spec/detection"
	r.duration(at+"/connectTimeout", d.ConnectTimeout, 10*time.Millisecond, time.Minute)
	r.duration(at+"/remoteConnectTimeout", d.RemoteConnectTimeout, 10*time.Millisecond, time.Minute)
	r.number(at+"/panicPercent", d.PanicPercent, 0, 100)
	if t := d.Retry; t != nil {
		r.number(at+"/retry/attempts", t.Attempts, 0, 10)
		r.duration(at+"/retry/perTryTimeout", t.PerTryTimeout, 10*time.Millisecond, time.Hour)
		if t.Hedge && t.PerTryTimeout == "" {
			r.add(FieldError{Pointer: at + "/retry/perTryTimeout", Code: CodeRequired, Message: "hedge needs it: the next try starts then", Hint: "choose well above the slowest answers of the services"})
		}
		if b := t.BackOff; b != nil {
			validateBackOff(r, at+"/retry/backOff", *b)
		}
	}
	if o := d.Outlier; o != nil {
		validateOutlierDetection(r, at+"/outlier", *o)
	}
	if k := d.KeepAlive; k != nil {
		r.duration(at+"/keepalive/interval", k.Interval, 100*time.Millisecond, time.Hour)
		r.duration(at+"/keepalive/timeout", k.Timeout, 10*time.Millisecond, time.Minute)
	}
	if p := d.Probe; p != nil {
		r.duration(at+"/probe/interval", p.Interval, 50*time.Millisecond, time.Minute)
		r.duration(at+"/probe/timeout", p.Timeout, 10*time.Millisecond, time.Minute)
		r.number(at+"/probe/failures", p.Failures, 1, 100)
	}
}

func validateOutlierDetection(r *report, at string, o OutlierDetection) {
	r.number(at+"/localFailures", o.LocalFailures, 1, 1000)
	r.number(at+"/gatewayFailures", o.GatewayFailures, 1, 1000)
	r.number(at+"/maxEjectionPercent", o.MaxEjectionPercent, 0, 100)
	r.duration(at+"/interval", o.Interval, 50*time.Millisecond, time.Hour)
	r.duration(at+"/ejection", o.Ejection, 50*time.Millisecond, time.Hour)
}

func validateBackOff(r *report, at string, b BackOff) {
	r.duration(at+"/base", b.Base, time.Millisecond, time.Minute)
	r.duration(at+"/max", b.Max, time.Millisecond, time.Minute)
	if durationOr(b.Base, 5*time.Millisecond) > durationOr(b.Max, 50*time.Millisecond) {
		r.invalid(at+"/max", "must not be below base")
	}
}

// gatewayDuration is GEP-2257: up to four parts of at most five digits, with the units h, m, s and ms.
var gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

func parseDuration(d gatewayv1.Duration) (time.Duration, error) {
	if !gatewayDuration.MatchString(string(d)) {
		return 0, fmt.Errorf("%q is no duration", clip(string(d)))
	}
	return time.ParseDuration(string(d))
}

// Length is how long a drain takes; 0 means at once.
func (d Drain) Length() time.Duration { return durationOr(d.Over, 0) }

// Length is a duration that was validated; 0 for one that is left out.
func Length(d *gatewayv1.Duration) time.Duration { return durationOr(orZero(d), 0) }

// durationOr reads a duration that was validated; what can't be read counts as left out.
func durationOr(d gatewayv1.Duration, otherwise time.Duration) time.Duration {
	if t, err := parseDuration(d); err == nil {
		return t
	}
	return otherwise
}

func numberOr(n *uint32, otherwise uint32) uint32 {
	if n != nil {
		return *n
	}
	return otherwise
}

func orZero[T any](p *T) T {
	if p != nil {
		return *p
	}
	return *new(T)
}

// short writes a duration as users do: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
