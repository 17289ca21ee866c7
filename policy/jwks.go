package policy

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
)

// minRSABits is what RFC 7518, 3.3 demands.
const minRSABits = 2048

// checkJWKS accepts a set of which every key is a public one that verifies tokens: RSA from 2048 bits, P-256, P-384, P-521,
// Ed25519. Secret keys (oct) are refused, and so are private ones: a policy is read by many.
func checkJWKS(text string) error {
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	if len(set.Keys) == 0 {
		return errors.New("it has no keys")
	}
	for i, k := range set.Keys {
		if err := checkJWK(k); err != nil {
			return fmt.Errorf("key %d: %w", i, err)
		}
	}
	return nil
}

// UsableKeys are the public keys of a fetched set with which tokens are verified, in one form for one set: of what an issuer
// publishes, keys for encryption, of other kinds and secret ones are left out, and of the others what is said beside the key.
func UsableKeys(raw []byte) (string, error) {
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return "", errors.New("what it answers is no JWKS")
	}
	var usable []map[string]json.RawMessage
	var unusable error
	for _, k := range set.Keys {
		if err := checkJWK(k); err != nil {
			unusable = err
			continue
		}
		if string(k["use"]) == `"enc"` {
			continue
		}
		maps.DeleteFunc(k, func(field string, _ json.RawMessage) bool {
			return !slices.Contains([]string{"kty", "kid", "use", "alg", "crv", "n", "e", "x", "y"}, field)
		})
		usable = append(usable, k)
	}
	if len(usable) == 0 {
		return "", errors.Join(errors.New("it has no key that can be used"), unusable)
	}
	slices.SortStableFunc(usable, func(a, b map[string]json.RawMessage) int { return bytes.Compare(a["kid"], b["kid"]) })
	out, err := json.Marshal(map[string]any{"keys": usable})
	switch {
	case err != nil:
		return "", err
	case len(out) > maxJWKS:
		return "", fmt.Errorf("its keys take %d bytes; at most %d are possible", len(out), maxJWKS)
	}
	return string(out), nil
}

func checkJWK(key map[string]json.RawMessage) error {
	text := func(field string) string {
		var s string
		_ = json.Unmarshal(key[field], &s) // no text is as good as none
		return s
	}
	for _, secret := range []string{"d", "k", "p", "q"} {
		if _, ok := key[secret]; ok {
			return errors.New("it is no public key")
		}
	}
	switch kty := text("kty"); kty {
	case "RSA":
		n, err := base64.RawURLEncoding.DecodeString(text("n"))
		if bits := new(big.Int).SetBytes(n).BitLen(); err != nil || bits < minRSABits {
			return fmt.Errorf("n must be a modulus of at least %d bits in base64url", minRSABits)
		}
		if e, err := base64.RawURLEncoding.DecodeString(text("e")); err != nil || len(e) == 0 {
			return errors.New("e must be an exponent in base64url")
		}
	case "EC":
		curve := map[string]ecdh.Curve{"P-256": ecdh.P256(), "P-384": ecdh.P384(), "P-521": ecdh.P521()}[text("crv")]
		x, errX := base64.RawURLEncoding.DecodeString(text("x"))
		y, errY := base64.RawURLEncoding.DecodeString(text("y"))
		if curve == nil || errX != nil || errY != nil {
			return errors.New("crv must be P-256, P-384 or P-521, x and y in base64url")
		}
		if _, err := curve.NewPublicKey(slices.Concat([]byte{4}, x, y)); err != nil {
			return errors.New("x and y are no point of the curve")
		}
	case "OKP":
		x, err := base64.RawURLEncoding.DecodeString(text("x"))
		if err != nil || text("crv") != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return errors.New("crv must be Ed25519, and x its 32 bytes in base64url")
		}
	default:
		return fmt.Errorf("kty %q is not RSA, EC or OKP", clip(kty))
	}
	return nil
}
