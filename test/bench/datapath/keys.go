package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"time"

	"github.com/comity-mesh/comity/identity"
)

// keyFiles are what one end of the peers' mTLS needs: files of PEM, and the name that the other end must prove.
type keyFiles struct{ certificate, key, roots, peer string }

// makeKeys makes both ends of mTLS as a zone would: P-256, a SPIFFE ID each, issued by one root.
func makeKeys(dir string) (client, server keyFiles, err error) {
	authority, err := identity.NewRoot("lean.example", time.Now())
	if err != nil {
		return client, server, err
	}
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, authority.Bundle(1).PEM(), 0o600); err != nil {
		return client, server, err
	}
	issue := func(name, peer string) (keyFiles, error) {
		id, err := identity.NewID("lean.example", "/ns/shop/sa/"+name)
		if err != nil {
			return keyFiles{}, err
		}
		key, err := identity.NewKey()
		if err != nil {
			return keyFiles{}, err
		}
		issued, err := authority.Sign(key.Public(), id, 0, time.Now())
		if err != nil {
			return keyFiles{}, err
		}
		var chain bytes.Buffer
		for _, c := range issued.Chain {
			if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
				return keyFiles{}, err
			}
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return keyFiles{}, err
		}
		k := keyFiles{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), roots, "spiffe://lean.example/ns/shop/sa/" + peer}
		if err := os.WriteFile(k.certificate, chain.Bytes(), 0o600); err != nil {
			return keyFiles{}, err
		}
		return k, os.WriteFile(k.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if client, err = issue("client", "server"); err != nil {
		return client, server, err
	}
	server, err = issue("server", "client")
	return client, server, err
}
