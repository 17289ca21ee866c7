package ir

// RateLimit lets requests through while there are tokens for them, and answers the others 429. It counts in one proxy,
// and by itself wherever it is.
type RateLimit struct {
	// Name is told to who is refused: origin/namespace/name of the policy, and of the limit in it.
	Name   string `json:"name"`
	Bucket Bucket `json:"bucket"`
	Counted
	// Callers have other buckets than Bucket.
	Callers []CallerBucket `json:"callers,omitempty"`
}

// Counted are the requests of a limit.
type Counted struct {
	// Match says which requests count, nil all of them.
	Match *Match `json:"match,omitempty"`
	// EachCaller gives every SPIFFE ID a bucket of its own, EachHeader every value of a header; at most one of them is set.
	EachCaller bool   `json:"eachCaller,omitempty"`
	EachHeader string `json:"eachHeader,omitempty"`
}

// SharedLimits are counted by somebody who is asked about each request.
type SharedLimits struct {
	// Name is told to who is refused: origin/namespace/name of the policy.
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
	// Authority is the host name under which it is asked.
	Authority string `json:"authority"`
	// Domain tells whose limits are meant.
	Domain     string        `json:"domain"`
	Timeout    Millis        `json:"timeoutMs"`
	FailClosed bool          `json:"failClosed,omitempty"`
	Limits     []SharedLimit `json:"limits"`
}

// SharedLimit is one of them; Name is how the one that is asked knows it.
type SharedLimit struct {
	Name string `json:"name"`
	Counted
}

// Bucket holds at most Size tokens; Fill of them are added steadily in each interval.
type Bucket struct {
	Size     uint32 `json:"size"`
	Fill     uint32 `json:"fill"`
	Interval Millis `json:"intervalMs"`
}

// CallerBucket is the bucket of one SPIFFE ID.
type CallerBucket struct {
	Identity string `json:"identity"`
	Bucket   Bucket `json:"bucket"`
}

// ConnectionLimit closes connections for which there is no token. Chains whose limits are the same share the bucket.
type ConnectionLimit struct {
	Name   string `json:"name"`
	Bucket Bucket `json:"bucket"`
}
