package ir

// HeaderEdits change the headers of a request or an answer: first those of Remove go, then Set replaces, then Add is added.
type HeaderEdits struct {
	Set    []Header `json:"set,omitempty"`
	Add    []Header `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"` // lower case
}

// Empty reports whether nothing is edited.
func (e HeaderEdits) Empty() bool { return len(e.Set)+len(e.Add)+len(e.Remove) == 0 }

// Header is a name, in lower case, and a value.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PathEdit is a path, without query, in place of another one. Exactly one field is set.
type PathEdit struct {
	// Full replaces all of it.
	Full string `json:"full,omitempty"`
	// Prefix replaces what the route's match names (ir.PathElements or "/").
	Prefix string `json:"prefix,omitempty"`
}

// Rewrite changes what the backend is asked for.
type Rewrite struct {
	Host string    `json:"host,omitempty"`
	Path *PathEdit `json:"path,omitempty"`
}

// Redirect answers with where to ask instead; what is not set stays as it was asked.
type Redirect struct {
	Status uint32    `json:"status"`
	Scheme string    `json:"scheme,omitempty"`
	Host   string    `json:"host,omitempty"`
	Port   uint16    `json:"port,omitempty"`
	Path   *PathEdit `json:"path,omitempty"`
}

// Mirror sends copies of a share of the requests to a cluster, whose answers go nowhere.
type Mirror struct {
	Cluster    string `json:"cluster"`
	Host       string `json:"host,omitempty"` // what copies name instead of the request's
	PerMillion uint32 `json:"perMillion"`
}

// CORS answers browsers that ask whether pages of other origins may read answers (Fetch, 3.2), and marks the answers.
type CORS struct {
	// Origins are regular expressions (RE2) of whole origins.
	Origins     []string `json:"origins,omitempty"`
	Methods     []string `json:"methods,omitempty"`
	Headers     []string `json:"headers,omitempty"`
	Expose      []string `json:"expose,omitempty"`
	Credentials bool     `json:"credentials,omitempty"`
	MaxAge      uint32   `json:"maxAge"` // seconds
}
