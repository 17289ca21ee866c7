package sds

import (
	"context"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxNames bounds what one stream may ask for; Envoy asks for one.
const maxNames = 16

// receive pumps a stream's requests into a channel, so that one goroutine can wait for both requests
// and changes. The error is sent once, then the pump ends.
func receive[T any](ctx context.Context, recv func() (T, error)) (<-chan T, <-chan error) {
	in, failed := make(chan T), make(chan error, 1)
	go func() {
		for {
			m, err := recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case in <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return in, failed
}

// DeltaSecrets implements the delta variant. Every subscribe is answered as soon as the secret
// exists; unknown names are answered as removed, so that Envoy does not wait for them.
func (s *Server) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	ctx := stream.Context()
	in, failed := receive(ctx, stream.Recv)
	sent := map[string]string{} // subscribed name -> version that Envoy has; "" for none
	for nonce := 1; ; nonce++ {
		wake := s.secrets.wake()
		if r := s.delta(sent); r != nil {
			r.Nonce = strconv.Itoa(nonce)
			if err := stream.Send(r); err != nil {
				return err
			}
			s.metrics.pushes.Inc()
		}
		select {
		case m := <-in:
			if err := s.subscribe(m, sent); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gone is the version kept for names that were answered as removed.
const gone = "gone"

func (s *Server) subscribe(m *discoveryv3.DeltaDiscoveryRequest, sent map[string]string) error {
	if m.GetErrorDetail() != nil {
		s.refused(m.GetErrorDetail().GetMessage())
	}
	for _, name := range m.GetResourceNamesSubscribe() {
		// A repeated subscribe wants an answer, whatever was sent before.
		sent[name] = m.GetInitialResourceVersions()[name]
		s.want(name)
	}
	for _, name := range m.GetResourceNamesUnsubscribe() {
		delete(sent, name)
	}
	if len(sent) > maxNames {
		return status.Errorf(codes.ResourceExhausted, "a stream may ask for at most %d secrets", maxNames)
	}
	return nil
}

func (s *Server) delta(sent map[string]string) *discoveryv3.DeltaDiscoveryResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: secretType}
	for name, has := range sent {
		v, ok := s.secrets.get(name)
		switch {
		case !ok && known(name):
			// Not made yet: Envoy waits, as it must.
		case !ok && has != gone:
			r.RemovedResources = append(r.RemovedResources, name)
			sent[name] = gone
		case ok && v.version != has:
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: name, Version: v.version, Resource: v.body})
			sent[name] = v.version
		}
	}
	if len(r.GetResources())+len(r.GetRemovedResources()) == 0 {
		return nil
	}
	return r
}

func known(name string) bool { return name == Identity || name == ZoneRoots }

// StreamSecrets implements the state-of-the-world variant: one stream per list of names, as Envoy
// opens it for each secret.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	ctx := stream.Context()
	in, failed := receive(ctx, stream.Recv)
	var names []string
	last := "" // versions of what was sent, joined
	for nonce := 1; ; nonce++ {
		wake := s.secrets.wake()
		if r, version := s.whole(names); r != nil && version != last {
			r.Nonce, last = strconv.Itoa(nonce), version
			if err := stream.Send(r); err != nil {
				return err
			}
			s.metrics.pushes.Inc()
		}
		select {
		case m := <-in:
			if m.GetErrorDetail() != nil {
				s.refused(m.GetErrorDetail().GetMessage())
			}
			if len(m.GetResourceNames()) > maxNames {
				return status.Errorf(codes.ResourceExhausted, "a stream may ask for at most %d secrets", maxNames)
			}
			if !slices.Equal(names, m.GetResourceNames()) {
				names, last = m.GetResourceNames(), ""
				for _, name := range names {
					s.want(name)
				}
			}
		case err := <-failed:
			return err
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whole is the answer to a list of names, nil while none of them exists.
func (s *Server) whole(names []string) (*discoveryv3.DiscoveryResponse, string) {
	var bodies []*anypb.Any
	version := ""
	for _, name := range names {
		if v, ok := s.secrets.get(name); ok {
			bodies = append(bodies, v.body)
			version += v.version
		}
	}
	if bodies == nil {
		return nil, ""
	}
	return &discoveryv3.DiscoveryResponse{TypeUrl: secretType, VersionInfo: version, Resources: bodies}, version
}

// FetchSecrets is the polling variant, which Envoy is never told to use.
func (s *Server) FetchSecrets(context.Context, *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "secrets are streamed, not polled")
}

func (s *Server) refused(reason string) {
	s.metrics.nacks.Inc()
	if len(reason) > 1024 {
		reason = reason[:1024]
	}
	s.log.Error("Envoy refused a secret and keeps the old one", "reason", reason)
}
