package ir

// JWT verifies tokens, before anything is decided by them. A request that must have one and has none that is valid is answered 401.
type JWT struct {
	Providers []JWTProvider `json:"providers"`
	// Rules: the first that matches counts; what none matches passes.
	Rules []JWTRule `json:"rules"`
}

// JWTProvider is an issuer of tokens.
type JWTProvider struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Audiences []string `json:"audiences,omitempty"` // one of them
	// Keys are a JWKS, or else Fetch says where it is.
	Keys  string    `json:"keys,omitempty"`
	Fetch *JWTFetch `json:"fetch,omitempty"`
	// Skew in seconds by which clocks may differ.
	Skew uint32 `json:"skewSeconds,omitempty"`
	// Headers, Params and Cookies are where the token may be.
	Headers []JWTHeader `json:"headers,omitempty"`
	Params  []string    `json:"params,omitempty"`
	Cookies []string    `json:"cookies,omitempty"`
	// Tell are headers for the application; what a caller wrote there is dropped.
	Tell    []JWTTell `json:"tell,omitempty"`
	Forward bool      `json:"forward,omitempty"` // the token itself
}

// JWTFetch is where keys are fetched, and how often.
type JWTFetch struct {
	URI     string `json:"uri"`
	Cluster string `json:"cluster"`
	Every   Millis `json:"everyMs"`
}

// JWTHeader is a header with a token after a prefix.
type JWTHeader struct {
	Name   string `json:"name"`
	Prefix string `json:"prefix,omitempty"`
}

// JWTTell is a header (lower case) for a claim.
type JWTTell struct {
	Header string `json:"header"`
	Claim  string `json:"claim"`
}

// JWTRule demands a token of one of the providers; no providers demand none.
type JWTRule struct {
	Match Match `json:"match,omitzero"`
	// AmbiguousPath is met by paths with an escaped slash or a semicolon, instead of Match.
	AmbiguousPath bool     `json:"ambiguousPath,omitempty"`
	Providers     []string `json:"providers,omitempty"`
	// Optional takes requests without a token too.
	Optional bool `json:"optional,omitempty"`
}
