package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/retain"
)

const program = "global-cp"

// settings are the keys of the configuration file, the environment (COMITY_GLOBAL_CP_*) and the flags.
type settings struct {
	TrustDomain    string              `json:"trustDomain" usage:"SPIFFE trust domain of global, for control planes only; chosen at the first start, it never changes"`
	DataDir        string              `json:"dataDir" usage:"folder with global's authority, and its store unless database.url is set"`
	Database       databaseSettings    `json:"database"`
	Listen         listenSettings      `json:"listen"`
	Advertise      []string            `json:"advertise" usage:"host:port list under which zones reach listen.federation; it goes into join tokens. Default: its own address"`
	API            apiSettings         `json:"api"`
	AdminTokenFile string              `json:"adminTokenFile" usage:"file that gets the first admin's token (0600); without it the token is printed once on standard output"`
	SealingKeyFile string              `json:"sealingKeyFile" usage:"file with the key that seals global's private keys; default: kek in dataDir. Keep it apart from backups"`
	Retention      retentionSettings   `json:"retention"`
	Log            telemetry.LogConfig `json:"log"`
}

type databaseSettings struct {
	URL          string `json:"url" usage:"Postgres that holds the store, such as postgres://comity@db:5432/comity?sslmode=verify-full, without a password; default: a SQLite file in dataDir, for one replica"`
	PasswordFile string `json:"passwordFile" usage:"file with the password of database.url, read for each new connection; default: libpq's PGPASSWORD, PGPASSFILE or a client certificate"`
	Connections  int    `json:"connections" usage:"connections for reading; a replica has three more, and one while it migrates"`
	Migrate      bool   `json:"migrate" usage:"bring the database's schema up to date when starting; default: refuse to start, and leave it to global-cp migrate"`
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
		Database:    databaseSettings{Connections: 8},
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
	if s.Database.URL != "" {
		add("database.url", s.database().Check())
	} else if s.Database.PasswordFile != "" || s.Database.Migrate {
		add("database", errors.New("passwordFile and migrate are for a database: url is not set"))
	}
	if n := s.Database.Connections; n < 1 || n > 1000 {
		add("database.connections", fmt.Errorf("%d is not from 1 to 1000", n))
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

// database is that of database.url.
func (s settings) database() pgstore.Database {
	d := pgstore.Database{URL: s.Database.URL}
	if file := s.Database.PasswordFile; file != "" {
		d.Password = func() (string, error) {
			text, err := os.ReadFile(file)
			return strings.TrimRight(string(text), "\r\n"), err
		}
	}
	return d
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
