package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/retain"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery/vm"
)

const program = "zone-cp"

// settings are the keys of the configuration file, the environment (COMITY_ZONE_CP_*) and the flags.
type settings struct {
	Zone        string         `json:"zone" usage:"name of the zone, a DNS label; chosen at the first start, it never changes"`
	TrustDomain string         `json:"trustDomain" usage:"SPIFFE trust domain of the zone, a DNS name; chosen at the first start, it never changes"`
	DataDir     string         `json:"dataDir" usage:"folder with the zone's store, authority and credentials"`
	Listen      listenSettings `json:"listen"`
	Advertise   []string       `json:"advertise" usage:"host:port list under which agents reach listen.proxies; default: its own address"`
	Global      globalSettings `json:"global"`
	API         apiSettings    `json:"api"`
	Issuers     issuerSettings `json:"issuers"`
	// AdminTokenFile gets the first admin's token.
	AdminTokenFile string              `json:"adminTokenFile" usage:"file that gets the first admin's token (0600); default: admin.token in dataDir"`
	SealingKeyFile string              `json:"sealingKeyFile" usage:"file with the key that seals the zone's private keys; default: kek in dataDir. Keep it apart from backups"`
	Lease          time.Duration       `json:"lease" usage:"how long a silent workload counts as running; unhealthy after half of it"`
	ForgetAfter    time.Duration       `json:"forgetAfter" usage:"how long a workload that was lost, and did not leave, is still counted as missing"`
	LeafTTL        time.Duration       `json:"leafTTL" usage:"life of workloads' certificates"`
	Retention      retentionSettings   `json:"retention"`
	Log            telemetry.LogConfig `json:"log"`
}

type retentionSettings struct {
	Revisions uint64        `json:"revisions" usage:"revisions kept in the change log; a watcher that was away for longer begins anew"`
	History   time.Duration `json:"history" usage:"how long it is kept who changed what"`
	Every     time.Duration `json:"every" usage:"how often what is older is dropped"`
}

type listenSettings struct {
	API     string `json:"api" usage:"host:port of the REST API, /metrics and health; plain HTTP on loopback only"`
	Proxies string `json:"proxies" usage:"host:port of enrolment and xDS for sidecars and ingresses (mTLS)"`
}

type globalSettings struct {
	Endpoints []string `json:"endpoints" usage:"host:port list of global's federation service; default: as the join token says"`
}

type issuerSettings struct {
	Allow []string `json:"allow" usage:"addresses (CIDR) at which keys of issuers of tokens are fetched though only the machine itself or its wire should reach them: loopback, link-local, clouds' metadata"`
}

// prefixes are what Allow says; Validate has read it.
func (s issuerSettings) prefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range s.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no range of addresses, as 10.1.0.0/16", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

type apiSettings struct {
	TLSCert string `json:"tlsCert" usage:"PEM certificate chain of the REST API; needed off loopback"`
	TLSKey  string `json:"tlsKey" usage:"file with its PEM key"`
}

func defaults() settings {
	return settings{
		DataDir: "zone-data",
		Listen:  listenSettings{API: "127.0.0.1:7402", Proxies: "127.0.0.1:7403"},
		Lease:   vm.DefaultLease, ForgetAfter: vm.DefaultForgetAfter,
		LeafTTL:   12 * time.Hour,
		Retention: retentionSettings(retain.Default()),
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
	if s.Zone != "" {
		add("zone", mesh.CheckZoneName(s.Zone))
	}
	if s.TrustDomain != "" {
		add("trustDomain", mesh.CheckTrustDomain(s.TrustDomain))
	}
	if s.DataDir == "" {
		add("dataDir", errors.New("is empty"))
	}
	add("listen.api", checkListen(s.Listen.API))
	add("listen.proxies", checkListen(s.Listen.Proxies))
	for _, e := range append(append([]string{}, s.Advertise...), s.Global.Endpoints...) {
		if _, _, err := net.SplitHostPort(e); err != nil {
			add("advertise, global.endpoints", fmt.Errorf("%q is not host:port", e))
		}
	}
	if (s.API.TLSCert == "") != (s.API.TLSKey == "") {
		add("api", errors.New("tlsCert and tlsKey belong together"))
	}
	if s.API.TLSCert == "" && !loopback(s.Listen.API) {
		add("listen.api", errors.New("plain HTTP is for loopback only: set api.tlsCert and api.tlsKey"))
	}
	_, err := s.Issuers.prefixes()
	add("issuers.allow", err)
	if s.ForgetAfter < 0 || s.ForgetAfter > 7*24*time.Hour {
		add("forgetAfter", fmt.Errorf("%s is not between 0s and 168h", s.ForgetAfter))
	}
	if s.Lease < 3*time.Second || s.Lease > time.Hour {
		add("lease", fmt.Errorf("%s is not between 3s and 1h", s.Lease))
	}
	add("retention", retain.Policy(s.Retention).Check())
	if s.LeafTTL < time.Minute || s.LeafTTL > 7*24*time.Hour {
		add("leafTTL", fmt.Errorf("%s is not between 1m and 168h", s.LeafTTL))
	}
	return errors.Join(errs...)
}

func checkListen(addr string) error {
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
