package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/internal/stack"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// Limits of what an agent may say of itself.
const (
	maxSpecBytes = 64 << 10
	maxText      = 256
	maxLanes     = 16
	maxGateways  = 256
	maxSecrets   = 256
)

// Codes of refusals, in Refused.code.
const (
	codeInvalid    = "invalid"
	codeNotAllowed = "not-allowed"
	codeFenced     = "fenced"
)

// Peer is who opened a stream, as its certificate proved.
type Peer struct {
	Proxy          mesh.ProxyID
	Identity       string // SPIFFE ID
	ServiceAccount string // of a sidecar
	// Labels that the zone gave with the enrolment token. Services select by them.
	Labels map[string]string
	// Load takes the reports of what a sidecar sends.
	Load func(*enrolpb.LoadReport)
	// Peers is for an ingress.
	Peers *Peers
	// Names is for a sidecar.
	Names *Names
}

// Names is which names a sidecar answers with virtual addresses.
type Names struct {
	Wake <-chan struct{}            // there may be something to tell
	Next func() *enrolpb.ZoneNotice // nil for nothing
}

// Peers is what the stream of an ingress carries besides its lease: how it stands to other zones' ingresses, and what is
// said through it. An agent of an older release takes no part in it.
type Peers struct {
	Wake    <-chan struct{} // there are notices
	Notices func() []*enrolpb.ZoneNotice
	Links   func(*enrolpb.PeerLinks)
	Word    func(*enrolpb.PeerWord)
}

// Stream is the zone's end of Enrolment.Attend; the generated server stream fits.
type Stream interface {
	Context() context.Context
	Recv() (*enrolpb.AgentReport, error)
	Send(*enrolpb.ZoneNotice) error
}

// CheckWorkload validates and reads a workload as its agent wrote it.
type CheckWorkload func(key mesh.Key, labels map[string]string, spec []byte) (policy.Workload, error)

// Attend serves one agent's stream until it ends. A report that can't be believed is answered with
// Refused, and the stream ends; the agent's last good word stays in force while its lease lasts.
func (t *Table) Attend(peer *Peer, stream Stream, check CheckWorkload, log *slog.Logger) error {
	ctx, fence := context.WithCancelCause(stream.Context())
	defer fence(nil)
	log = log.With("proxy", peer.Proxy.String())
	s := t.open(peer.Proxy, peer.Identity, fence)
	defer s.lost()

	reports := make(chan *enrolpb.AgentReport)
	ended := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case reports <- r:
			case <-ctx.Done():
				return
			}
		}
	}()

	accepted := false
	var more <-chan struct{}  // closed when there may be more to tell
	var wake <-chan struct{}  // nil until the agent says that it understands
	var names <-chan struct{} // nil until it is accepted
	for {
		select {
		case <-more:
			if more = s.tell(stream); more == nil {
				return nil // the stream is gone; the lease runs on
			}
		case <-wake:
			for _, n := range peer.Peers.Notices() {
				if err := stream.Send(n); err != nil {
					return nil // the stream is gone; the lease runs on
				}
			}
		case <-names:
			if n := peer.Names.Next(); n != nil {
				if err := stream.Send(n); err != nil {
					return nil // the stream is gone; the lease runs on
				}
			}
		case <-ctx.Done():
			if why := context.Cause(ctx); errors.Is(why, ErrFenced) {
				return t.refuse(ctx, stream, log, codeFenced, why)
			}
			return nil
		case err := <-ended:
			log.DebugContext(ctx, "the stream ended; the lease runs on", "reason", err)
			return nil
		case r := <-reports:
			if !accepted { // before it counts: whoever sees it there may ask
				s.answers(r.GetAnswers(), r.GetTries())
			}
			var code string
			var err error
			stack.Apart(func() { code, err = s.take(peer, r, check) })
			if err != nil {
				return t.refuse(ctx, stream, log, code, err)
			}
			if r.GetLeaving() {
				log.InfoContext(ctx, "proxy left")
				return nil
			}
			if peer.Peers != nil && r.GetIngress().GetPeers() {
				wake = peer.Peers.Wake
			}
			if accepted {
				continue
			}
			accepted = true
			if peer.Names != nil {
				names = peer.Names.Wake
			}
			log.InfoContext(ctx, "proxy attends", "identity", peer.Identity)
			if err := stream.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Accepted{
				Accepted: &enrolpb.Accepted{LeaseMs: uint32(t.lease.Milliseconds()), TakesLoads: peer.Load != nil},
			}}); err != nil {
				return nil // the stream is gone; the lease runs on
			}
			if more = s.tell(stream); more == nil {
				return nil
			}
		}
	}
}

func (t *Table) refuse(ctx context.Context, stream Stream, log *slog.Logger, code string, why error) error {
	if errors.Is(why, ErrFenced) {
		code = codeFenced
	}
	log.WarnContext(ctx, "proxy refused", "code", code, "error", why)
	// The refusal is a courtesy: if the stream is gone already, nobody is left to tell.
	_ = stream.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Refused{
		Refused: &enrolpb.Refused{Code: code, Reason: why.Error()},
	}})
	return nil
}

// take applies one report. The code goes with the error.
func (s *Session) take(peer *Peer, r *enrolpb.AgentReport, check CheckWorkload) (code string, err error) {
	switch r := r.GetReport().(type) {
	case *enrolpb.AgentReport_Workload:
		if peer.Proxy.Role != mesh.RoleSidecar {
			return codeNotAllowed, fmt.Errorf("an %s is no workload", peer.Proxy.Role)
		}
		spec, err := readWorkload(peer, r.Workload, check)
		if err != nil {
			return codeInvalid, err
		}
		for k, v := range r.Workload.GetLabels() {
			if have, ok := peer.Labels[k]; !ok || have != v {
				return codeNotAllowed, fmt.Errorf("the label %.64q=%.64q was not given with the enrolment token: labels decide for which services a workload answers", k, v)
			}
		}
		return "", s.workload(spec, peer.Labels)
	case *enrolpb.AgentReport_Ingress:
		if peer.Proxy.Role != mesh.RoleIngress && peer.Proxy.Role != mesh.RoleEgress {
			return codeNotAllowed, fmt.Errorf("a %s is no ingress", peer.Proxy.Role)
		}
		in, err := readIngress(peer, r.Ingress)
		if err != nil {
			return codeInvalid, err
		}
		return "", s.ingress(in)
	case *enrolpb.AgentReport_Health:
		h := r.Health
		reason := h.GetReason()
		if !h.GetEnvoyReady() && reason == "" {
			reason = "its Envoy is not ready"
		}
		return "", s.health(h.GetHealthy() && h.GetEnvoyReady(), clip(reason), clip(h.GetEnvoyVersion()), clip(h.GetUnsevered()), secretsOf(h), plaintextOf(h))
	case *enrolpb.AgentReport_Leaving:
		if !r.Leaving {
			return "", nil
		}
		return "", s.leave()
	case *enrolpb.AgentReport_Load:
		if peer.Load == nil {
			return codeNotAllowed, fmt.Errorf("an %s reports no load", peer.Proxy.Role)
		}
		peer.Load(r.Load)
		return "", nil
	case *enrolpb.AgentReport_PeerLinks:
		return s.peers(peer, func(p *Peers) { p.Links(r.PeerLinks) })
	case *enrolpb.AgentReport_PeerWord:
		return s.peers(peer, func(p *Peers) { p.Word(r.PeerWord) })
	}
	return codeInvalid, errors.New("the report says nothing this zone understands")
}

// answers notes whether the agent answers questions, and has its Envoy try what it is shown.
func (s *Session) answers(yes, tries bool) {
	_ = s.with(func(e *entry) bool { // fenced: then its successor says it
		if e.tries != tries {
			s.table.touchPicture()
		}
		e.answers, e.tries, e.asks = yes, tries, nil
		return false
	})
}

// secretsOf are the problems with secrets of the agent's machine, by name. An ingress has some for each Gateway at most.
func secretsOf(h *enrolpb.Health) map[string]string {
	var out map[string]string
	for _, s := range h.GetSecrets() {
		if len(out) == maxSecrets || len(s.GetName()) > 2*maxText {
			break
		}
		if out == nil {
			out = map[string]string{}
		}
		out[s.GetName()] = clip(s.GetProblem())
	}
	return out
}

// peers passes on what an ingress reports of its peers, which is a heartbeat too.
func (s *Session) peers(peer *Peer, pass func(*Peers)) (code string, err error) {
	if peer.Peers == nil {
		return codeNotAllowed, fmt.Errorf("a %s has no peers", peer.Proxy.Role)
	}
	if err := s.with(func(*entry) bool { return false }); err != nil {
		return "", err
	}
	pass(peer.Peers)
	return "", nil
}

func readWorkload(peer *Peer, w *enrolpb.WorkloadSpec, check CheckWorkload) (policy.Workload, error) {
	if len(w.GetSpec()) > maxSpecBytes {
		return policy.Workload{}, fmt.Errorf("the workload has %d bytes, more than %d", len(w.GetSpec()), maxSpecBytes)
	}
	spec, err := check(mesh.Key{Kind: mesh.KindWorkload, Namespace: peer.Proxy.Namespace, Name: peer.Proxy.Name}, w.GetLabels(), w.GetSpec())
	if err != nil {
		return policy.Workload{}, err
	}
	// The identity was attested; what the agent writes must agree with it and never widens it.
	if spec.ServiceAccount != peer.ServiceAccount {
		return policy.Workload{}, fmt.Errorf("service account %q is not the attested %q", spec.ServiceAccount, peer.ServiceAccount)
	}
	return spec, nil
}

func readIngress(peer *Peer, in *enrolpb.IngressSpec) (discovery.Ingress, error) {
	var out discovery.Ingress
	if len(in.GetIngress()) > maxSpecBytes {
		return out, fmt.Errorf("the ingress has %d bytes, more than %d", len(in.GetIngress()), maxSpecBytes)
	}
	if err := json.Unmarshal(in.GetIngress(), &out.Advertised); err != nil {
		return out, fmt.Errorf("the ingress is not JSON: %w", err)
	}
	out.Advertised.ID, out.Advertised.Peers = peer.Proxy.Name, in.GetPeers()
	if err := CheckIngress(out.Advertised); err != nil {
		return out, err
	}
	if _, err := netip.ParseAddr(out.Advertised.Host); err != nil && peer.Proxy.Role == mesh.RoleEgress {
		return out, fmt.Errorf("sidecars reach an egress by its IP address, which host is not: %w", err)
	}
	if _, err := netip.ParseAddr(in.GetBindAddress()); err != nil {
		return out, fmt.Errorf("bind address: %w", err)
	}
	if n := len(in.GetBindPorts()); n == 0 || n > maxLanes {
		return out, fmt.Errorf("%d bind ports; 1 to %d are possible", n, maxLanes)
	}
	if n := len(in.GetGateways()); n > maxGateways {
		return out, fmt.Errorf("%d gateways, more than %d", n, maxGateways)
	}
	for _, g := range in.GetGateways() {
		namespace, name, _ := strings.Cut(g, "/")
		if err := errors.Join(mesh.CheckLabel(namespace), mesh.CheckSubdomain(name)); err != nil {
			return out, fmt.Errorf("gateway %.64q is not namespace/name: %w", g, err)
		}
	}
	out.IngressProxy = topology.IngressProxy{
		Name: peer.Proxy.Name, BindAddress: in.GetBindAddress(), Host: out.Advertised.Host, Gateways: in.GetGateways(),
	}
	for _, p := range in.GetBindPorts() {
		if p == 0 || p > 65535 {
			return out, fmt.Errorf("bind port %d is not 1 to 65535", p)
		}
		out.BindPorts = append(out.BindPorts, uint16(p))
	}
	return out, nil
}

// CheckIngress reports why an advertised ingress can't be reached by anybody.
func CheckIngress(in mesh.Ingress) error {
	if _, err := netip.ParseAddr(in.Host); err != nil {
		if err := mesh.CheckSubdomain(in.Host); err != nil {
			return fmt.Errorf("host is no IP address and no name: %w", err)
		}
	}
	if len(in.Ports) == 0 || len(in.Ports) > maxLanes {
		return fmt.Errorf("%d ports; 1 to %d are possible", len(in.Ports), maxLanes)
	}
	if slices.Contains(in.Ports, 0) {
		return errors.New("port 0 can't be reached")
	}
	if len(in.Network) > maxText || len(in.Source) > maxText {
		return fmt.Errorf("network or source is longer than %d", maxText)
	}
	return nil
}

func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}
