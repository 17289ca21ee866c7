package envoy

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

func lua(l ir.Lua) proto.Message {
	m := &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: l.Script}}}
	if l.KeepRoute {
		m.ClearRouteCache = no()
	}
	return m
}

func (b *messages) externalAuthorization(e ir.ExternalAuthorization) proto.Message {
	m := &extauthzv3.ExtAuthz{TransportApiVersion: corev3.ApiVersion_V3, FailureModeAllow: e.FailOpen, ValidateMutations: true}
	if e.GRPC {
		m.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{
			Timeout: duration(e.Timeout),
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: e.Cluster, Authority: e.Authority,
			}},
		}}
		if e.BodyBytes > 0 {
			m.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: e.BodyBytes, AllowPartialMessage: true, PackAsBytes: true}
		}
		return m
	}
	m.Services = &extauthzv3.ExtAuthz_HttpService{HttpService: &extauthzv3.HttpService{
		ServerUri: &corev3.HttpUri{
			Uri: "http://" + e.Authority, Timeout: duration(e.Timeout), HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: e.Cluster},
		},
		PathPrefix:            e.PathPrefix,
		AuthorizationResponse: &extauthzv3.AuthorizationResponse{AllowedUpstreamHeaders: anyOf(e.UpstreamHeaders)},
	}}
	m.AllowedHeaders = anyOf(e.RequestHeaders)
	return m
}

func anyOf(words []string) *matcherv3.ListStringMatcher {
	if len(words) == 0 {
		return nil
	}
	m := &matcherv3.ListStringMatcher{}
	for _, w := range words {
		s := exactly(w)
		s.IgnoreCase = true
		m.Patterns = append(m.Patterns, s)
	}
	return m
}

// patched merges what people wrote into a message. What is no message of its type makes the resource invalid, as what breaks
// its rules does: the last good one stays in force.
func (b *messages) patched(m proto.Message, patches ir.Patches) proto.Message {
	for _, p := range patches {
		more := m.ProtoReflect().New().Interface()
		if err := readPatch(p, more); err != nil {
			b.invalid = append(b.invalid, fmt.Errorf("patch: %w", err))
			continue
		}
		proto.Merge(m, more)
	}
	return m
}

// CheckPatch reports why a patch is no part of a message of the type. Rules that only the whole message can keep are not
// looked at.
func CheckPatch(typeURL string, patch []byte) error {
	m, err := emptyMessage(typeURL)
	if err != nil {
		return err
	}
	return readPatch(patch, m)
}

func readPatch(patch []byte, m proto.Message) error {
	if err := protojson.Unmarshal(patch, m); err != nil {
		// The library writes a non-breaking space at random, so that nobody depends on its words.
		return errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " "))
	}
	return nil
}
