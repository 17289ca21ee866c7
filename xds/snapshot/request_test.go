package snapshot_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/snapshot"
)

// FuzzUnmarshalRequest compares the hand-written reader with the library's: what the library accepts is
// accepted and read alike. What it refuses may be accepted where the reader does not look.
func FuzzUnmarshalRequest(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
		f.Add(slices.Concat(b, b)) // messages merge
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		var got snapshot.Request
		err := snapshot.UnmarshalRequest(b, &got)
		if !bytes.Equal(b, before) {
			t.Fatal("the input was changed")
		}
		if size := kept(&got); size > 2*len(b)+64 {
			t.Fatalf("%d bytes kept of %d", size, len(b))
		}
		var want discoveryv3.DeltaDiscoveryRequest
		if proto.Unmarshal(b, &want) != nil {
			return
		}
		if err != nil {
			t.Fatalf("refused what is well-formed: %v", err)
		}
		compare(t, &got, &want)
	})
}

func compare(t *testing.T, got *snapshot.Request, want *discoveryv3.DeltaDiscoveryRequest) {
	t.Helper()
	same := func(what string, got, want any) {
		t.Helper()
		if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
			t.Errorf("%s: %s, want %s", what, g, w)
		}
	}
	same("node", got.NodeID, want.GetNode().GetId())
	same("version", got.NodeVersion, versionOf(want.GetNode()))
	same("type", got.TypeURL, want.GetTypeUrl())
	same("subscribe", got.Subscribe, want.GetResourceNamesSubscribe())
	same("unsubscribe", got.Unsubscribe, want.GetResourceNamesUnsubscribe())
	same("nonce", got.Nonce, want.GetResponseNonce())
	initial := map[string]string{}
	for _, nv := range got.Initial {
		initial[nv.Name] = nv.Version
	}
	if !maps.Equal(initial, want.GetInitialResourceVersions()) {
		t.Errorf("initial: %q, want %q", initial, want.GetInitialResourceVersions())
	}
	if got.Refused != (want.GetErrorDetail() != nil) {
		t.Errorf("refused: %v, want %v", got.Refused, !got.Refused)
	}
	message := want.GetErrorDetail().GetMessage()
	same("error", got.Error, strings.ToValidUTF8(message[:min(len(message), 1024)], ""))
}

// versionOf is the client's version as it is shown.
func versionOf(n *corev3.Node) string {
	switch v := n.GetUserAgentVersionType().(type) {
	case *corev3.Node_UserAgentVersion:
		return v.UserAgentVersion
	case *corev3.Node_UserAgentBuildVersion:
		if s := v.UserAgentBuildVersion.GetVersion(); s != nil {
			return fmt.Sprintf("%d.%d.%d", s.GetMajorNumber(), s.GetMinorNumber(), s.GetPatch())
		}
	}
	return ""
}

// kept is how many bytes of names and text a request holds.
func kept(r *snapshot.Request) int {
	n := len(r.NodeID) + len(r.NodeVersion) + len(r.TypeURL) + len(r.Nonce) + len(r.Error)
	for _, s := range slices.Concat(r.Subscribe, r.Unsubscribe) {
		n += len(s)
	}
	for _, nv := range r.Initial {
		n += len(nv.Name) + len(nv.Version)
	}
	return n
}

func seeds(f *testing.F) [][]byte {
	f.Helper()
	marshal := func(m *discoveryv3.DeltaDiscoveryRequest) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	build := &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}}
	bytesField := func(num protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), v)
	}
	number := func(num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
	}
	group := slices.Concat(protowire.AppendTag(nil, 9, protowire.StartGroupType), number(1, 1), protowire.AppendTag(nil, 9, protowire.EndGroupType))
	return [][]byte{
		{},
		marshal(&discoveryv3.DeltaDiscoveryRequest{
			Node:    &corev3.Node{Id: "sidecar~shop~web-1", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: build}},
			TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceNamesSubscribe: []string{"*", ""},
			InitialResourceVersions: map[string]string{"a": "1", "": ""},
		}),
		marshal(&discoveryv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"}}, ResponseNonce: "7",
			ResourceNamesUnsubscribe: []string{"x"}, ErrorDetail: &rpcstatus.Status{Code: 3, Message: strings.Repeat("é", 700)},
		}),
		bytesField(7, nil),          // an empty error is an error
		bytesField(1, number(1, 5)), // a name that is no name
		bytesField(1, bytesField(8, bytesField(1, number(1, 1<<40+3)))),
		bytesField(1, bytesField(8, bytesField(1, bytesField(1, []byte{1})))),
		slices.Concat(bytesField(1, bytesField(8, bytesField(1, number(1, 1)))), bytesField(1, bytesField(8, bytesField(1, number(2, 2))))),
		slices.Concat(bytesField(1, bytesField(8, nil)), bytesField(1, bytesField(7, []byte("1.2.3")))),
		slices.Concat(bytesField(1, bytesField(7, []byte("1.2.3"))), bytesField(1, bytesField(8, nil))),
		bytesField(5, slices.Concat(bytesField(2, []byte("v")), bytesField(1, []byte("n")), bytesField(1, []byte("m")), number(1, 3))),
		slices.Concat(group, number(3, 1), bytesField(6, []byte{0xff})),
		bytesField(2, []byte{0xc3}),
		bytesField(100, []byte("unknown")),
	}
}
