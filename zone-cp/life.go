package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// life is what a zone is for all its life: chosen at init, never changed.
type life struct {
	Zone        string           `json:"zone"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Incarnation mesh.Incarnation `json:"incarnation"`
	CreatedAt   time.Time        `json:"createdAt"`
}

func lifeFile(dir string) string { return filepath.Join(dir, "zone.json") }

// readLife returns fs.ErrNotExist where no zone was initialised.
func readLife(dir string) (life, error) {
	var l life
	data, err := os.ReadFile(lifeFile(dir))
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("%s can't be read: %w", lifeFile(dir), err)
	}
	return l, nil
}

// initialise makes a zone in dataDir, or checks that the one that is there is the one that is meant.
// made says which.
func initialise(s settings) (l life, made bool, err error) {
	l, err = readLife(s.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return l, false, err
	case s.Zone != "" && s.Zone != l.Zone || s.TrustDomain != "" && mesh.TrustDomain(s.TrustDomain) != l.TrustDomain:
		return l, false, &fault.Error{
			Code: "ZONE-FIXED", What: fmt.Sprintf("%s holds zone %q of %s, not %q of %s", s.DataDir, l.Zone, l.TrustDomain, s.Zone, s.TrustDomain),
			Cause: "a zone's name and trust domain never change", Exit: fault.ExitConflict,
			Try: "name another dataDir for another zone, or correct zone and trustDomain", Docs: "docs/configuration.md",
		}
	default:
		return l, false, nil
	}
	if s.Zone == "" || s.TrustDomain == "" {
		return l, false, &fault.Error{
			Code: "ZONE-MISSING", What: "there is no zone in " + s.DataDir + " yet", Exit: fault.ExitUsage,
			Cause: "to make one, zone and trustDomain must be set", Docs: "docs/configuration.md",
			Try: "zone-cp init --zone aws-east --trust-domain aws-east.example.com --data-dir " + s.DataDir,
		}
	}
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return l, false, fmt.Errorf("make the zone's folder: %w", err)
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return l, false, err
	}
	l = life{
		Zone: s.Zone, TrustDomain: mesh.TrustDomain(s.TrustDomain),
		Incarnation: mesh.Incarnation(hex.EncodeToString(raw[:])), CreatedAt: time.Now().UTC(),
	}
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return l, false, err
	}
	return l, true, identity.WriteFileAtomic(lifeFile(s.DataDir), append(data, '\n'))
}
