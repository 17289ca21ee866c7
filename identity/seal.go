package identity

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	kekBytes       = 32
	sealVersion    = 1
	maxSealedBytes = 64 << 10
)

// ErrSealed says that a sealed record doesn't open: another key, another record's place, or altered.
var ErrSealed = errors.New("sealed record can't be opened")

// SealLabel says which record a sealed value is. It is authenticated, so a record copied over
// another one doesn't open.
type SealLabel struct {
	Zone    string
	KeyID   string
	Version uint64
}

func (l SealLabel) aad(part string) []byte {
	return canonical("comity-seal-v1", []byte(part), []byte(l.Zone), []byte(l.KeyID), fmt.Appendf(nil, "%d", l.Version))
}

// Sealer encrypts keys at rest with AES-256-GCM: a fresh data key for each record, itself encrypted
// by the key-encryption key (KEK). The KEK's file must live apart from backups of what it seals.
type Sealer struct{ kek cipher.AEAD }

// OpenSealer reads the KEK from a file, or makes file and KEK if there is none. The file must be
// readable by its owner only (0600).
func OpenSealer(path string) (*Sealer, error) {
	kek, err := readPrivate(path, kekBytes+1)
	if errors.Is(err, fs.ErrNotExist) {
		kek = make([]byte, kekBytes)
		if _, err := rand.Read(kek); err != nil {
			return nil, fmt.Errorf("make a sealing key: %w", err)
		}
		if err := WriteFileAtomic(path, kek); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if len(kek) != kekBytes {
		return nil, fmt.Errorf("sealing key %s: not %d bytes", path, kekBytes)
	}
	a, err := newGCM(kek)
	if err != nil {
		return nil, err
	}
	return &Sealer{a}, nil
}

type sealedRecord struct {
	Version int    `json:"version"`
	DataKey []byte `json:"dataKey"` // sealed by the KEK, nonce first
	Data    []byte `json:"data"`    // sealed by the data key, nonce first
}

// Seal encrypts a secret for the place that the label names.
func (s *Sealer) Seal(l SealLabel, secret []byte) ([]byte, error) {
	dek := make([]byte, kekBytes)
	if _, err := rand.Read(dek); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	data, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	r := sealedRecord{
		Version: sealVersion,
		DataKey: s.kek.Seal(nil, nil, dek, l.aad("data key")), //nolint:gosec // the AEAD makes its own random nonce
		Data:    data.Seal(nil, nil, secret, l.aad("data")),   //nolint:gosec // the AEAD makes its own random nonce
	}
	return json.Marshal(r)
}

// Open decrypts what Seal made under the same label, else ErrSealed.
func (s *Sealer) Open(l SealLabel, sealed []byte) ([]byte, error) {
	if len(sealed) > maxSealedBytes {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrSealed, len(sealed), maxSealedBytes)
	}
	var r sealedRecord
	if err := json.Unmarshal(sealed, &r); err != nil || r.Version != sealVersion {
		return nil, fmt.Errorf("%w: not a record of version %d", ErrSealed, sealVersion)
	}
	dek, err := s.kek.Open(nil, nil, r.DataKey, l.aad("data key"))
	if err != nil {
		return nil, ErrSealed
	}
	data, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	secret, err := data.Open(nil, nil, r.Data, l.aad("data"))
	if err != nil {
		return nil, ErrSealed
	}
	return secret, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	// Nonces are random and travel in front of the ciphertext; each data key seals once.
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return a, nil
}

// readPrivate reads a file of less than limit bytes that only its owner may read.
func readPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s must be a file with mode 0600, not %s", path, st.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// ReadSealedFile opens a file that WriteSealedFile wrote. A missing file is fs.ErrNotExist.
func (s *Sealer) ReadSealedFile(path string, l SealLabel) ([]byte, error) {
	sealed, err := readPrivate(path, maxSealedBytes+1)
	if err != nil {
		return nil, err
	}
	secret, err := s.Open(l, sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

// WriteSealedFile seals a secret into a file with mode 0600, atomically.
func (s *Sealer) WriteSealedFile(path string, l SealLabel, secret []byte) error {
	sealed, err := s.Seal(l, secret)
	if err != nil {
		return err
	}
	return WriteFileAtomic(path, sealed)
}

// WriteFileAtomic puts data at path with mode 0600, whole or not at all, and durably: a temporary
// file in the same folder, synced, renamed, the folder synced.
func WriteFileAtomic(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // CreateTemp makes it 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			// Best effort: the error that counts is the one above.
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = io.Copy(f, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("rename to %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = d.Close() }() // only synced
	if err = d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
