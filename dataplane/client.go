package dataplane

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/proxyless"
	"github.com/comity-mesh/comity/dataplane/sds"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/mesh"
)

// proxyState is how Envoy does, or what stands in for it.
func (a *agent) proxyState() envoyState {
	if a.client != nil {
		return envoyState{Ready: a.client.Ready()}
	}
	return a.envoy.current()
}

// buildClient makes what a proxyless workload has instead of an Envoy.
func (a *agent) buildClient() error {
	if p := a.run.file(fileXDS); len(p) > maxSocketPath {
		// The agent could go round about it, as with its other sockets; the application can't.
		return runDirFault(a.run.path, errors.New("its path is too long for the socket that the application opens"))
	}
	a.client = proxyless.New(proxyless.Config{
		Dir: a.run.path, Socket: a.run.file(fileXDS), Proxy: a.config.proxy(), Region: joinLocality(a.config.Locality.Cloud, a.config.Locality.Region),
		Place: a.config.Locality.Zone, Changed: a.changed, Log: a.log,
	})
	a.cred = &credential{secrets: a.client}
	return nil
}

// describeClient registers a workload that nobody connects to.
func (a *agent) describeClient(ctx context.Context) (*enrolpb.AgentReport, error) {
	s := a.config.Sidecar
	w := s.Workload
	var err error
	if w.Address == "" {
		if w.Address, err = localAddress(ctx, a.enroller.endpoints()[0]); err != nil {
			return nil, err
		}
	}
	w.Proxyless = true
	a.settle(&w)
	a.info.Address, a.info.Environment = w.Address, a.client.Environment()
	raw, err := jsonOf(w)
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Workload{Workload: &enrolpb.WorkloadSpec{Spec: raw, Labels: s.Labels}}}, err
}

// serveClient is serve without Envoy.
func (a *agent) serveClient(ctx context.Context) error {
	l, err := sds.Listen(a.run.file(fileXDS))
	if err != nil {
		return err
	}
	parts, err := a.observed(ctx)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	parts = append(parts,
		lifecycle.Component{Name: "identity", Run: a.keepIdentity},
		lifecycle.Component{Name: "relay", Run: func(ctx context.Context) error {
			if !a.whenAdmitted(ctx) {
				return l.Close()
			}
			return a.client.Relay(ctx, l, a.xdsDialer().dial)
		}},
		lifecycle.Component{Name: "trust", Run: a.keepTrust},
		lifecycle.Component{Name: "lease", Run: a.keepLease},
	)
	if err := a.writeInfo(); err != nil {
		return errors.Join(err, l.Close())
	}
	a.changed()
	return errors.Join(lifecycle.Run(ctx, a.log, a.config.DrainTime+endWithin, parts...), a.client.Clean())
}

// xdsDialer reaches the zone's xDS server, each time with the certificate of the moment.
func (a *agent) xdsDialer() *dialer {
	return &dialer{addresses: a.xdsAddresses(), tls: func() *tls.Config { return a.enroller.zoneTLS(a.cred.certificate)() }}
}

// xdsAddresses are where the zone serves xDS.
func (a *agent) xdsAddresses() []string {
	if at := a.enroller.instance.XDSAddress; at != "" {
		return []string{at}
	}
	return a.enroller.endpoints()
}

func (a *agent) keepTrust(ctx context.Context) error {
	if !a.whenAdmitted(ctx) {
		return nil
	}
	cc, err := a.xdsDialer().lasting()
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }() // fails only when closed already
	if err := a.client.KeepTrust(ctx, cc, a.enroller.instance.Zone); err != nil {
		return &fault.Error{
			Code: "CLIENT-FILES", What: "the files of the proxyless client can't be written", Err: err,
			Try: "check runDir: its user must be able to write there", Docs: "docs/proxyless.md",
		}
	}
	return nil
}

// settle fills in what a workload takes from the agent's configuration and enrolment.
func (a *agent) settle(w *mesh.Workload) {
	if w.Locality == (mesh.Locality{}) {
		w.Locality = a.config.Locality
	}
	if w.ServiceAccount == "" && a.enroller.token != nil {
		w.ServiceAccount = a.enroller.token.ServiceAccount
	}
	if w.ServiceAccount == "" {
		w.ServiceAccount = serviceAccountOf(a.enroller.instance.SPIFFEID)
	}
}
