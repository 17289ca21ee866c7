package ir

// Secret says whom to trust. It holds no private key: those never leave their node.
type Secret struct {
	Name string `json:"name"`
	// TrustDomain is the only one accepted.
	TrustDomain string  `json:"trustDomain"`
	Roots       []byte  `json:"roots"` // PEM
	Sources     Sources `json:"sources,omitempty"`
}
