package sds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/comity-mesh/comity/mesh"
)

// Names of secrets that are made on the machine, besides Identity and ZoneRoots. The zone knows them by name
// alone: what they hold never leaves the machine.
const (
	// CertificatePrefix, then <namespace>/<name>, is a certificate chain with its key: tls.crt and tls.key.
	CertificatePrefix = "secret/"
	// AuthorityPrefix, then <namespace>/<name>, is whom to believe: ca.crt.
	AuthorityPrefix = "authority/"
	// SystemRoots believes the authorities that the machine itself believes.
	SystemRoots = "system-roots"
)

const (
	// lookAgain is how often files are read anew: a renewed certificate arrives after that.
	lookAgain = 10 * time.Second
	// maxSecretFile bounds what is read; a list of all public authorities has 220 KB.
	maxSecretFile = 1 << 20
)

// systemRootFiles are where distributions keep the list, in the order in which they are tried.
func systemRootFiles() []string {
	files := []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Red Hat
		"/etc/pki/tls/certs/ca-bundle.crt",                  // older Red Hat
		"/etc/ssl/ca-bundle.pem",                            // SUSE
		"/etc/ssl/cert.pem",
	}
	if own := os.Getenv("SSL_CERT_FILE"); own != "" {
		return []string{own}
	}
	return files
}

// want reads the secret of a name when it is asked for first. A secret that can't be read is as if it were not there,
// until it can.
func (s *Server) want(name string) {
	if !ours(name) {
		return
	}
	s.files.mu.Lock()
	_, again := s.files.failed[name]
	first := !again && len(s.files.failed) < maxFileSecrets
	if first {
		s.files.failed[name] = ""
	}
	s.files.mu.Unlock()
	if first {
		s.read(name)
	}
}

// ours reports whether a name is that of a file secret.
func ours(name string) bool {
	return name == SystemRoots || strings.HasPrefix(name, CertificatePrefix) || strings.HasPrefix(name, AuthorityPrefix)
}

// KeepFiles reads the secrets that were asked for again and again, until ctx ends.
func (s *Server) KeepFiles(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.readAll()
		case <-ctx.Done():
			return nil
		}
	}
}

// Problem is a secret that was asked for and is not as it should be.
type Problem struct{ Name, Reason string }

// Problems are all of them, sorted by name. Reasons hold nothing of what is in the files.
func (s *Server) Problems() []Problem {
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	var out []Problem
	for _, name := range slices.Sorted(maps.Keys(s.files.failed)) {
		if reason := s.files.failed[name]; reason != "" {
			out = append(out, Problem{name, reason})
		}
	}
	return out
}

// ProblemsChanged signals (capacity 1) after Problems became others.
func (s *Server) ProblemsChanged() <-chan struct{} { return s.files.changed }

func (s *Server) readAll() {
	s.files.mu.Lock()
	names := make([]string, 0, len(s.files.failed))
	for name := range s.files.failed {
		names = append(names, name)
	}
	s.files.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		s.read(name)
	}
}

// read makes the secret of a name from its files. What was served before stays if they can't be read: Envoy would keep
// it anyway.
func (s *Server) read(name string) {
	err := s.load(name)
	said := ""
	if err != nil {
		said = err.Error() // of files and their form: it holds nothing of what is in them
	}
	s.files.mu.Lock()
	news := s.files.failed[name] != said
	s.files.failed[name] = said
	s.files.mu.Unlock()
	if news {
		select {
		case s.files.changed <- struct{}{}:
		default: // who looks will see this too
		}
	}
	switch {
	case news && err != nil:
		s.log.Error("a secret is missing or not as it should be", "secret", name, "reason", err)
	case news:
		s.log.Info("a secret is as it should be again", "secret", name)
	}
}

func (s *Server) load(name string) error {
	if name == SystemRoots {
		return s.loadSystemRoots()
	}
	if path, ok := strings.CutPrefix(name, CertificatePrefix); ok {
		dir, err := s.folderOf(path)
		if err != nil {
			return err
		}
		return s.loadCertificate(name, dir)
	}
	dir, err := s.folderOf(strings.TrimPrefix(name, AuthorityPrefix))
	if err != nil {
		return err
	}
	raw, err := readFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return err
	}
	return s.setAuthorities(name, raw)
}

// folderOf is the folder of a secret, <namespace>/<name>.
func (s *Server) folderOf(path string) (string, error) {
	if s.files.dir == "" {
		return "", errors.New("this proxy has no secretsDir")
	}
	namespace, name, _ := strings.Cut(path, "/")
	if err := errors.Join(mesh.CheckLabel(namespace), mesh.CheckSubdomain(name)); err != nil {
		return "", fmt.Errorf("it is not <namespace>/<name>: %w", err)
	}
	return filepath.Join(s.files.dir, namespace, name), nil
}

func (s *Server) loadCertificate(name, dir string) error {
	chain, err := readFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		return err
	}
	key, err := readFile(filepath.Join(dir, "tls.key"))
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("tls.crt and tls.key of %s are no pair in PEM form", dir) // the cause may quote the key
	}
	if err := s.secrets.set(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain), PrivateKey: inline(key),
	}}}); err != nil {
		return err
	}
	// It is served all the same: who is shown it learns why it is not believed.
	if until := pair.Leaf.NotAfter; s.now().After(until) {
		return fmt.Errorf("the certificate in %s has expired at %s", dir, until.UTC().Format(time.RFC3339))
	}
	return nil
}

func (s *Server) setAuthorities(name string, raw []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(raw) {
		return errors.New("it holds no certificate in PEM form")
	}
	return s.secrets.set(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: raw}},
	}}})
}

func (s *Server) loadSystemRoots() error {
	tried := systemRootFiles()
	for _, file := range tried {
		raw, err := readFile(file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		return s.setAuthorities(SystemRoots, raw)
	}
	return fmt.Errorf("this machine has no list of authorities: none of %s is there", strings.Join(tried, ", "))
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err == nil && len(raw) > maxSecretFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSecretFile)
	}
	return raw, err
}
