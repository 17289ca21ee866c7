package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// AuthenticationPolicy says what callers must prove. Of several that apply to a request the one with the narrower target
// wins, field by field.
type AuthenticationPolicy struct {
	Attachment
	// MTLS is what connections must be. Default strict.
	MTLS *MTLS `json:"mtls,omitempty"`
	// JWT is what requests must carry besides the identity of the caller. Default nothing.
	JWT *JWT `json:"jwt,omitempty"`
}

// MTLS says whether callers must prove who they are.
type MTLS struct {
	Mode MTLSMode `json:"mode"`
}

// MTLSMode is whether plaintext is taken.
type MTLSMode string

// The modes. Permissive takes plaintext too, from callers that are not of the mesh yet, at the workload's address and the service's
// targetPort.
const (
	MTLSStrict     MTLSMode = "Strict"
	MTLSPermissive MTLSMode = "Permissive"
)

// Permissive reports whether plaintext is taken.
func (p AuthenticationPolicy) Permissive() bool {
	return p.MTLS != nil && p.MTLS.Mode == MTLSPermissive
}

// Fetched are the keys that the policy has fetched.
func (p AuthenticationPolicy) Fetched() []JWKS {
	if p.JWT == nil {
		return nil
	}
	var out []JWKS
	for _, provider := range p.JWT.Providers {
		if provider.JWKS.URL != "" {
			out = append(out, provider.JWKS)
		}
	}
	return out
}

// JWT has the servers' sidecars verify tokens (RFC 7519) of the end user.
type JWT struct {
	// Mode says whether a request must have a token. Default Required.
	Mode JWTMode `json:"mode,omitempty"`
	// Providers: a token of one of them suffices.
	Providers []JWTProvider `json:"providers"`
}

// JWTMode is whether a token must be there.
type JWTMode string

// The modes. Optional lets requests without a token through, which then have no claims; one that is there must be valid.
const (
	JWTRequired JWTMode = "Required"
	JWTOptional JWTMode = "Optional"
)

// JWTProvider is somebody who issues tokens.
type JWTProvider struct {
	Name string `json:"name"`
	// Issuer is what the claim iss must be.
	Issuer string `json:"issuer"`
	// Audiences, of which the claim aud must name one. Empty takes any.
	Audiences []string `json:"audiences,omitempty"`
	JWKS      JWKS     `json:"jwks"`
	// ClockSkew by which exp and nbf may be off. Default 1m.
	ClockSkew gatewayv1.Duration `json:"clockSkew,omitempty"`
	// From is where the token is. Default the header authorization, after "Bearer ".
	From *TokenSources `json:"from,omitempty"`
	// ClaimsToHeaders tells the application claims of the token that was verified. What a caller writes into these headers
	// itself is dropped.
	ClaimsToHeaders []ClaimHeader `json:"claimsToHeaders,omitempty"`
	// Forward passes the token on to the application. Default false: who has it can use it.
	Forward bool `json:"forward,omitempty"`
}

// JWKS are a provider's public keys (RFC 7517). Either Inline or URL is set.
type JWKS struct {
	Inline string `json:"inline,omitempty"`
	// URL is https. Each zone fetches the keys for its sidecars.
	URL string `json:"url,omitempty"`
	// CA is whom to believe at the URL. Default: the authorities that the machine of the zone's control plane believes.
	CA *ExternalCA `json:"ca,omitempty"`
	// Refresh is how often they are fetched; the last good answer counts until there is a newer one. Default 5m.
	Refresh gatewayv1.Duration `json:"refresh,omitempty"`
}

// TokenSources are the places of a token.
type TokenSources struct {
	Headers []TokenHeader `json:"headers,omitempty"`
	// Params of the query.
	Params  []string `json:"params,omitempty"`
	Cookies []string `json:"cookies,omitempty"`
}

// TokenHeader is a header with a token, after a prefix such as "Bearer ".
type TokenHeader struct {
	Name   string `json:"name"`
	Prefix string `json:"prefix,omitempty"`
}

// ClaimHeader is a header for a claim; dots lead into objects.
type ClaimHeader struct {
	Claim  string `json:"claim"`
	Header string `json:"header"`
}

// Skew is ClockSkew, or its default.
func (p JWTProvider) Skew() time.Duration { return durationOr(p.ClockSkew, time.Minute) }

// Every is Refresh, or its default: a provider that publishes a key some minutes before it signs with it is never refused.
func (k JWKS) Every() time.Duration { return durationOr(k.Refresh, 5*time.Minute) }

// Source is where the keys are fetched, and a digest of whom to believe there if that is said; empty for inline ones.
func (k JWKS) Source() string {
	if k.CA == nil {
		return k.URL
	}
	sum := sha256.Sum256([]byte(k.CA.PEM))
	return k.URL + "#" + hex.EncodeToString(sum[:8])
}

// Host is where the keys are fetched.
func (k JWKS) Host() (host string, port uint16) {
	u, err := url.Parse(k.URL)
	if err != nil {
		return "", 0 // was validated
	}
	n, _ := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	return u.Hostname(), uint16(n)
}

// Bounds of an AuthenticationPolicy.
const (
	maxProviders = 8
	maxAudiences = 16
	maxJWKS      = 32 << 10
)

func validateAuthenticationPolicy(r *report, res mesh.Resource, p *AuthenticationPolicy) {
	validateAttachment(r, res, p.Attachment, "Service", "HTTPRoute", "GRPCRoute")
	if p.JWT == nil && p.MTLS == nil {
		r.add(FieldError{Pointer: "/spec", Code: CodeRequired, Message: "says nothing", Hint: "give mtls, jwt or both"})
	}
	if p.MTLS != nil {
		r.oneOf("/spec/mtls/mode", string(p.MTLS.Mode), string(MTLSStrict), string(MTLSPermissive))
		if t := p.TargetRef; t != nil && t.Kind != "Service" {
			r.add(FieldError{Pointer: "/spec/mtls", Code: CodeInvalid, Message: "is of connections, which are there before a route is chosen", Hint: "target a Service, or a port of it"})
		}
	}
	if p.JWT != nil {
		validateJWT(r, "/spec/jwt", *p.JWT)
	}
}

func validateJWT(r *report, at string, j JWT) {
	r.oneOf(at+"/mode", string(j.Mode), "", string(JWTRequired), string(JWTOptional))
	at += "/providers"
	if len(j.Providers) == 0 {
		r.required(at)
	}
	r.atMost(at, len(j.Providers), maxProviders)
	names, issuers := map[string]bool{}, map[string]bool{}
	for i, p := range j.Providers {
		at := ptr(at, i)
		r.checked(at+"/name", p.Name, mesh.CheckLabel)
		r.checked(at+"/issuer", p.Issuer, checkToken)
		for _, twice := range []struct {
			field, value string
			seen         map[string]bool
		}{{"/name", p.Name, names}, {"/issuer", p.Issuer, issuers}} {
			if twice.seen[twice.value] {
				r.add(FieldError{Pointer: at + twice.field, Code: CodeDuplicate, Message: fmt.Sprintf("%q is there twice", clip(twice.value))})
			}
			twice.seen[twice.value] = true
		}
		r.atMost(at+"/audiences", len(p.Audiences), maxAudiences)
		r.values(at+"/audiences", p.Audiences, checkToken)
		validateJWKS(r, at+"/jwks", p.JWKS)
		r.duration(at+"/clockSkew", p.ClockSkew, 0, 10*time.Minute)
		if p.From != nil {
			validateTokenSources(r, at+"/from", *p.From)
		}
		validateClaimHeaders(r, at+"/claimsToHeaders", p.ClaimsToHeaders)
	}
}

func validateJWKS(r *report, at string, k JWKS) {
	if (k.Inline == "") == (k.URL == "") {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "must have either inline or url"})
		return
	}
	if k.Inline != "" {
		if len(k.Inline) > maxJWKS {
			r.add(FieldError{Pointer: at + "/inline", Code: CodeTooLarge, Message: fmt.Sprintf("%d bytes; at most %d are allowed", len(k.Inline), maxJWKS)})
		} else if err := checkJWKS(k.Inline); err != nil {
			r.add(FieldError{Pointer: at + "/inline", Code: CodeInvalid, Message: err.Error(), Hint: `write {"keys":[...]} with public keys (RFC 7517)`})
		}
		if k.CA != nil || k.Refresh != "" {
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "inline keys are not fetched", Hint: "leave ca and refresh out"})
		}
		return
	}
	r.checked(at+"/url", k.URL, checkKeysURL)
	r.duration(at+"/refresh", k.Refresh, 10*time.Second, 24*time.Hour)
	if k.CA != nil {
		if k.CA.Secret != "" {
			r.unsupported(at+"/ca/secret", "an authority from a secret", "write its certificates as pem")
		}
		validateExternalCA(r, at+"/ca", *k.CA)
	}
}

// checkKeysURL demands TLS: who could change the keys on their way could sign.
func checkKeysURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q must be an https URL", clip(raw))
	case u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q must have neither a user nor a fragment", clip(raw))
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q has no usable port", clip(raw))
		}
	}
	return mesh.CheckSubdomain(u.Hostname())
}

// checkToken accepts what may stand in a claim that is compared.
func checkToken(s string) error {
	for _, c := range []byte(s) {
		if c <= ' ' || c == 0x7f {
			return fmt.Errorf("%q must have no spaces and control characters", clip(s))
		}
	}
	return nil
}

func validateTokenSources(r *report, at string, s TokenSources) {
	if len(s.Headers)+len(s.Params)+len(s.Cookies) == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "names no place", Hint: `leave it out for the header authorization, after "Bearer "`})
	}
	r.atMost(at+"/headers", len(s.Headers), maxConditions)
	for i, h := range s.Headers {
		at := ptr(at+"/headers", i)
		r.checked(at+"/name", h.Name, checkHeaderName)
		if h.Prefix != "" {
			r.checked(at+"/prefix", h.Prefix, func(p string) error { return checkToken(strings.TrimRight(p, " ")) })
		}
	}
	r.values(at+"/params", s.Params, checkHeaderName)
	r.values(at+"/cookies", s.Cookies, checkHeaderName)
}

func checkHeaderName(name string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("%q is no name (RFC 9110, 5.6.2)", clip(name))
	}
	return nil
}

func validateClaimHeaders(r *report, at string, list []ClaimHeader) {
	r.atMost(at, len(list), maxConditions)
	seen := map[string]bool{}
	for i, h := range list {
		at := ptr(at, i)
		r.checked(at+"/claim", h.Claim, func(c string) error {
			if strings.Contains(c, `\`) {
				return fmt.Errorf("%q: a claim with a dot in its name can't be told to applications", clip(c))
			}
			return checkClaim(c)
		})
		name := strings.ToLower(h.Header)
		r.checked(at+"/header", h.Header, checkClaimHeader)
		if seen[name] {
			r.add(FieldError{Pointer: at + "/header", Code: CodeDuplicate, Message: fmt.Sprintf("%q is there twice", clip(h.Header))})
		}
		seen[name] = true
	}
}

// checkClaimHeader keeps claims out of headers that mean something else already.
func checkClaimHeader(name string) error {
	if err := checkHeaderName(name); err != nil {
		return err
	}
	lower := strings.ToLower(name)
	if !strings.HasPrefix(lower, "x-") || slices.Contains([]string{"x-request-id", "x-forwarded-client-cert"}, lower) ||
		strings.HasPrefix(lower, "x-forwarded-") || strings.HasPrefix(lower, "x-envoy-") || strings.HasPrefix(lower, "x-b3-") {
		return fmt.Errorf("%q must begin with x- and be no header that means something else", clip(name))
	}
	// Its other spellings, which a CGI application takes for the same, are dropped one by one.
	if strings.Contains(lower, "_") || strings.Count(lower, "-") > 4 {
		return fmt.Errorf("%q must have no underscore and at most 4 dashes", clip(name))
	}
	return nil
}
