package ir

// RateLimit lets requests through while there are tokens for them, and answers the others 429. It counts in one proxy,
// and by itself wherever it is.
type RateLimit struct {
	// Name is told to who is refused: origin/namespace/name of the policy, and of the limit in it.
	Name   string `json:"name"`
	Bucket Bucket `json:"bucket"`
	// Match says which requests count, nil all of them.
	Match *Match `json:"match,omitempty"`
	// EachCaller gives every SPIFFE ID a bucket of its own, EachHeader every value of a header; at most one of them is set.
	EachCaller bool   `json:"eachCaller,omitempty"`
	EachHeader string `json:"eachHeader,omitempty"`
	// Callers have other buckets than Bucket.
	Callers []CallerBucket `json:"callers,omitempty"`
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
