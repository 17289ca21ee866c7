package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/retain"
)

const program = "global-cp"

// settings are the keys of the configuration file, the environment (COMITY_GLOBAL_CP_*) and the flags.
type settings struct {
	TrustDomain    string              `json:"trustDomain" usage:"SPIFFE trust domain of global, for control planes only; chosen at the first start, it never changes"`
	DataDir        string              `json:"dataDir" usage:"folder with global's store and authority"`
	Listen         listenSettings      `json:"listen"`
	Advertise      []string            `json:"advertise" usage:"host:port list under which zones reach listen.federation; it goes into join tokens. Default: its own address"`
	API            apiSettings         `json:"api"`
	AdminTokenFile string              `json:"adminTokenFile" usage:"file that gets the first admin's token (0600); without it the token is printed once on standard output"`
	SealingKeyFile string              `json:"sealingKeyFile" usage:"file with the key that seals global's private keys; default: kek in dataDir. Keep it apart from backups"`
	Retention      retentionSettings   `json:"retention"`
	Log            telemetry.LogConfig `json:"log"`
}

type listenSettings struct {
	API        string `json:"api" usage:"host:port of the REST API, /metrics and health; plain HTTP on loopback only"`
	Federation string `json:"federation" usage:"host:port where zones join and hold their sessions (mTLS)"`
}

type apiSettings struct {
	TLSCert string `json:"tlsCert" usage:"PEM certificate chain of the REST API; needed off loopback"`
	TLSKey  string `json:"tlsKey" usage:"file with its PEM key"`
}

type retentionSettings struct {
	Revisions uint64        `json:"revisions" usage:"revisions kept in the change log; a zone that was away for longer gets a snapshot"`
	History   time.Duration `json:"history" usage:"how long it is kept who changed what"`
	Every     time.Duration `json:"every" usage:"how often what is older is dropped"`
}

func defaults() settings {
	return settings{
		TrustDomain: "global.comity.internal",
		DataDir:     "global-data",
		Listen:      listenSettings{API: "127.0.0.1:7400", Federation: "127.0.0.1:7401"},
		Retention:   retentionSettings(retain.Default()),
	}
}

// Validate implements what config.Load asks for.
func (s *settings) Validate() error {
	var errs []error
	add := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	add("trustDomain", mesh.CheckTrustDomain(s.TrustDomain))
	if s.DataDir == "" {
		add("dataDir", errors.New("is empty"))
	}
	add("listen.api", checkHostPort(s.Listen.API))
	add("listen.federation", checkHostPort(s.Listen.Federation))
	if len(s.Advertise) > 8 {
		add("advertise", errors.New("at most 8 addresses"))
	}
	for _, a := range s.Advertise {
		add("advertise", checkHostPort(a))
	}
	if len(s.Advertise) == 0 && unspecified(s.Listen.Federation) {
		add("advertise", errors.New("must be set, because listen.federation names no address that zones could dial"))
	}
	if (s.API.TLSCert == "") != (s.API.TLSKey == "") {
		add("api", errors.New("tlsCert and tlsKey belong together"))
	}
	if s.API.TLSCert == "" && !loopback(s.Listen.API) {
		add("listen.api", errors.New("plain HTTP is for loopback only: set api.tlsCert and api.tlsKey"))
	}
	add("retention", retain.Policy(s.Retention).Check())
	return errors.Join(errs...)
}

func (s settings) storeFile() string { return filepath.Join(s.DataDir, "store.db") }

func (s settings) authorityDir() string { return filepath.Join(s.DataDir, "authority") }

func (s settings) sealingKeyFile() string {
	if s.SealingKeyFile != "" {
		return s.SealingKeyFile
	}
	return filepath.Join(s.DataDir, "kek")
}

func checkHostPort(addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func unspecified(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
