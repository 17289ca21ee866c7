package policy

import (
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// LoadBalancer says which endpoint gets a request. How the traffic is divided among zones is not its matter: shares and
// tiers of failover hold whatever it says.
type LoadBalancer struct {
	// Algorithm. Default RoundRobin: shares come out exact, and it needs no knowledge of what is under way.
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// Hash is what RingHash and Maglev choose by. The first that a request has counts; a request that has none goes anywhere.
	Hash []HashOn `json:"hash,omitempty"`
	// SlowStart gives new endpoints less at first. With RoundRobin, LeastRequest and ReportedLoad only. Default none.
	SlowStart *SlowStart `json:"slowStart,omitempty"`
}

// Algorithm is a way of choosing endpoints.
type Algorithm string

// The algorithms.
const (
	RoundRobin   Algorithm = "RoundRobin"
	LeastRequest Algorithm = "LeastRequest" // of two chosen at random the one with less under way
	Random       Algorithm = "Random"
	RingHash     Algorithm = "RingHash" // like requests to one endpoint; when one comes or goes, nearly twice its share of them moves
	Maglev       Algorithm = "Maglev"   // the same, quicker to ask, and hardly more than its share moves
	// ReportedLoad gives by turns to each endpoint in inverse proportion to the load that it says it has, in the header
	// endpoint-load-metrics of its answers (ORCA, gRFC A51 and A58): requests a second divided by utilization.
	ReportedLoad Algorithm = "ReportedLoad"
)

// HashOn is one property of a request. Exactly one field is set.
type HashOn struct {
	Header string `json:"header,omitempty"`
	// Cookie that is made for requests without it, if it has a ttl.
	Cookie *Cookie `json:"cookie,omitempty"`
	// Query is a parameter's name.
	Query string `json:"query,omitempty"`
	// ClientAddress is the first of x-forwarded-for. A sidecar's own peer is always the one application beside it.
	ClientAddress bool `json:"clientAddress,omitempty"`
}

// Cookie is one that proxies hand out (RFC 6265).
type Cookie struct {
	Name string `json:"name"`
	// TTL. Default none: it ends with the browser. A cookie to be hashed is made only with a ttl; without one, it is the application's.
	TTL gatewayv1.Duration `json:"ttl,omitempty"`
	// Path for which it is sent. Default "/".
	Path string `json:"path,omitempty"`
}

// Length is 0 for a cookie that ends with the browser.
func (c Cookie) Length() time.Duration { return durationOr(c.TTL, 0) }

// SlowStart lets an endpoint's share grow from MinWeightPercent of its own to all of it.
type SlowStart struct {
	// Window since the endpoint came. Required: how long it takes to be warm only the application knows.
	Window gatewayv1.Duration `json:"window"`
	// Aggression of the growth: 1 is even, more is quicker at first. Default 1.
	Aggression *float64 `json:"aggression,omitempty"`
	// MinWeightPercent at the beginning. Default 10: with less a big service gives a new endpoint no request to warm up with.
	MinWeightPercent *float64 `json:"minWeightPercent,omitempty"`
}

// Settings fills in the defaults.
func (s SlowStart) Settings() (window time.Duration, aggression, minWeightPercent float64) {
	aggression, minWeightPercent = 1, 10
	if s.Aggression != nil {
		aggression = *s.Aggression
	}
	if s.MinWeightPercent != nil {
		minWeightPercent = *s.MinWeightPercent
	}
	return durationOr(s.Window, 0), aggression, minWeightPercent
}

// Session brings the requests of a session to the endpoint that answered the first. Exactly one of Cookie and Header is set.
type Session struct {
	Cookie *Cookie `json:"cookie,omitempty"`
	// Header of answers that clients send back.
	Header string `json:"header,omitempty"`
	// Strict answers 503 when the endpoint is gone. Default false: the session begins anew on another one.
	Strict bool `json:"strict,omitempty"`
}

func validateLoadBalancer(r *report, l LoadBalancer) {
	const at = "/spec/loadBalancer"
	r.oneOf(at+"/algorithm", string(l.Algorithm), "", string(RoundRobin), string(LeastRequest), string(Random), string(RingHash), string(Maglev), string(ReportedLoad))
	hashes := l.Algorithm == RingHash || l.Algorithm == Maglev
	switch {
	case hashes && len(l.Hash) == 0:
		r.add(FieldError{Pointer: at + "/hash", Code: CodeRequired, Message: "is required: " + string(l.Algorithm) + " chooses by it", Hint: "give a header, cookie, query parameter or clientAddress"})
	case !hashes && len(l.Hash) > 0:
		r.add(FieldError{Pointer: at + "/hash", Code: CodeInvalid, Message: "only RingHash and Maglev choose by it", Hint: "write algorithm: Maglev"})
	}
	r.atMost(at+"/hash", len(l.Hash), 8)
	for i, h := range l.Hash {
		validateHash(r, ptr(at+"/hash", i), h)
	}
	if s := l.SlowStart; s != nil {
		if hashes || l.Algorithm == Random {
			r.add(FieldError{Pointer: at + "/slowStart", Code: CodeUnsupported, Message: "only RoundRobin, LeastRequest and ReportedLoad can give an endpoint less at first", Hint: "choose one of them, or leave slowStart out"})
		}
		if s.Window == "" {
			r.required(at + "/slowStart/window")
		}
		r.duration(at+"/slowStart/window", s.Window, time.Millisecond, time.Hour)
		_, aggression, least := s.Settings()
		if !(aggression >= 0.1 && aggression <= 10) {
			r.add(FieldError{Pointer: at + "/slowStart/aggression", Code: CodeOutOfRange, Message: "must be from 0.1 to 10"})
		}
		if !(least >= 1 && least <= 100) {
			r.add(FieldError{Pointer: at + "/slowStart/minWeightPercent", Code: CodeOutOfRange, Message: "must be from 1 to 100"})
		}
	}
}

func validateHash(r *report, at string, h HashOn) {
	given := 0
	for _, yes := range []bool{h.Header != "", h.Cookie != nil, h.Query != "", h.ClientAddress} {
		if yes {
			given++
		}
	}
	if given != 1 {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "must be exactly one of header, cookie, query and clientAddress"})
	}
	if h.Header != "" && !headerName.MatchString(h.Header) {
		r.invalid(at+"/header", "%q is no header name", clip(h.Header))
	}
	if len(h.Query) > 256 {
		r.add(FieldError{Pointer: at + "/query", Code: CodeTooLarge, Message: "at most 256 bytes are allowed"})
	}
	if h.Cookie != nil {
		validateCookie(r, at+"/cookie", *h.Cookie)
	}
}

func validateCookie(r *report, at string, c Cookie) {
	switch {
	case c.Name == "":
		r.required(at + "/name")
	case !headerName.MatchString(c.Name): // a token, as header names are
		r.invalid(at+"/name", "%q is no name of a cookie", clip(c.Name))
	}
	r.duration(at+"/ttl", c.TTL, time.Second, 400*24*time.Hour) // browsers keep none for longer
	if c.Path != "" && !cleanPath(c.Path) {
		r.invalid(at+"/path", "must begin with / and be plain ASCII without spaces, ? and #")
	}
}

func validateSession(r *report, s Session) {
	const at = "/spec/session"
	if (s.Cookie == nil) == (s.Header == "") {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "must be exactly one of cookie and header"})
	}
	if s.Cookie != nil {
		validateCookie(r, at+"/cookie", *s.Cookie)
	}
	if s.Header != "" && !headerName.MatchString(s.Header) {
		r.invalid(at+"/header", "%q is no header name", clip(s.Header))
	}
}
