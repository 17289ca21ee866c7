package dataplane

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

const (
	instanceFile    = "instance.json"
	maxInstanceFile = 256 << 10
)

// instance is what makes this proxy the same one after a restart: the key that the zone registered at
// enrolment, and how to find and recognise the zone. The key only ever signs proofs; Envoy's keys are
// others, in memory.
type instance struct {
	path string // of its file; empty: memory only
	key  *ecdsa.PrivateKey
	instanceDoc
}

// instanceDoc is the file: JSON, mode 0600.
type instanceDoc struct {
	Format      int              `json:"format"` // 1
	Proxy       string           `json:"proxy"`  // mesh.ProxyID
	Enrolled    bool             `json:"enrolled"`
	TokenID     string           `json:"tokenId,omitempty"`
	Zone        string           `json:"zone,omitempty"`
	TrustDomain mesh.TrustDomain `json:"trustDomain,omitempty"`
	SPIFFEID    string           `json:"spiffeId,omitempty"`
	Endpoints   []string         `json:"endpoints,omitempty"`  // of the zone's enrolment service
	XDSAddress  string           `json:"xdsAddress,omitempty"` // of its ADS, where that is another
	Roots       string           `json:"roots,omitempty"`      // PEM
	Key         string           `json:"key"`                  // PKCS #8 PEM
}

// newInstance makes one with a fresh key.
func newInstance(dataDir string, proxy mesh.ProxyID) (*instance, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	i := &instance{key: key, instanceDoc: instanceDoc{Format: 1, Proxy: proxy.String()}}
	if dataDir != "" {
		i.path = filepath.Join(dataDir, instanceFile)
	}
	return i, nil
}

// readInstance reads the file of dataDir; nil without error if there is none.
func readInstance(dataDir string) (*instance, error) {
	if dataDir == "" {
		return nil, nil
	}
	path := filepath.Join(dataDir, instanceFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, instanceFault(path, err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("others may read it (mode %04o)", info.Mode().Perm())
	}
	raw, readErr := io.ReadAll(io.LimitReader(f, maxInstanceFile+1))
	if err := errors.Join(err, readErr, f.Close()); err != nil {
		return nil, instanceFault(path, err)
	}
	i := &instance{path: path}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	// The decoder's errors could quote the key; they are not passed on.
	if len(raw) > maxInstanceFile || d.Decode(&i.instanceDoc) != nil || i.Format != 1 {
		return nil, instanceFault(path, errors.New("it is no instance file of this version"))
	}
	signer, err := identity.ParsePEMKey([]byte(i.Key))
	if err != nil {
		return nil, instanceFault(path, err)
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, instanceFault(path, errors.New("its key is not ECDSA"))
	}
	i.key = key
	return i, nil
}

func instanceFault(path string, err error) error {
	return &fault.Error{
		Code: "INSTANCE-FILE", What: "the instance file " + path + " can't be used", Err: err,
		Try: "restore it (mode 0600, the agent's user), or remove it and enrol again with a token", Docs: "docs/security.md",
	}
}

// save writes the file, whole or not at all.
func (i *instance) save() error {
	if i.path == "" {
		return nil
	}
	keyPEM, err := identity.PEMKey(i.key)
	if err != nil {
		return err
	}
	doc := i.instanceDoc
	doc.Key = string(keyPEM)
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("instance file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(i.path), 0o700); err != nil {
		return instanceFault(i.path, err)
	}
	if err := identity.WriteFileAtomic(i.path, raw); err != nil {
		return instanceFault(i.path, err)
	}
	return nil
}

// bundle is the zone's roots as they were last known.
func (i *instance) bundle() (identity.Bundle, error) {
	roots, err := identity.ParsePEMCertificates([]byte(i.Roots))
	if err != nil {
		return identity.Bundle{}, instanceFault(i.path, err)
	}
	return identity.Bundle{TrustDomain: i.TrustDomain, Authorities: roots}, nil
}

// serviceAccountOf reads the service account from a workload's SPIFFE ID, empty if it is none.
func serviceAccountOf(id string) string {
	_, account, _ := strings.Cut(id, "/sa/")
	return account
}
