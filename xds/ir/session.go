package ir

// Session brings the requests of a session to the endpoint that answered its first, for as long as that endpoint is there,
// however many others come or go. Exactly one of Cookie and Header is set.
type Session struct {
	Cookie *Cookie `json:"cookie,omitempty"`
	// Header of answers that the client must send back.
	Header string `json:"header,omitempty"` // lower case
	// Strict answers 503 when the endpoint is gone; otherwise the session begins anew on another one.
	Strict bool `json:"strict,omitempty"`
}

// Cookie is one that the proxy hands out (RFC 6265).
type Cookie struct {
	Name string `json:"name"`
	// TTL of 0 ends it with the browser.
	TTL Millis `json:"ttlMs,omitempty"`
	// Path for which clients send it; empty means that of the request that got it.
	Path string `json:"path,omitempty"`
}
