package snapshot

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Request is a DeltaDiscoveryRequest, less what the server has no use for.
type Request struct {
	// NodeID and NodeVersion come with the first request of a stream; NodeVersion is Envoy's, "1.40.0".
	NodeID, NodeVersion string
	TypeURL             string
	Subscribe           []string
	Unsubscribe         []string
	// Initial are the versions that the client has from an earlier stream.
	Initial []NameVersion
	Nonce   string
	// Refused is set on a NACK, Error its text (at most 1 KiB).
	Refused bool
	Error   string
}

// NameVersion is one entry of initial_resource_versions.
type NameVersion struct{ Name, Version string }

var errNotUTF8 = errors.New("a string is not UTF-8")

// maxErrorText bounds what is kept of Envoy's words, in bytes.
const maxErrorText = 1024

// UnmarshalRequest reads the wire form. It reads what proto.Unmarshal would, in one pass and with one
// allocation for the many names; ACKs make up nearly all requests, and they are a few dozen bytes.
func UnmarshalRequest(b []byte, r *Request) error {
	const (
		node = 1 + iota
		typeURL
		subscribe
		unsubscribe
		initial
		nonce
		errorDetail
	)
	*r = Request{}
	all := string(b) // names are parts of it
	var from peer
	off := 0
	for off < len(b) {
		num, typ, n := protowire.ConsumeTag(b[off:])
		if n < 0 {
			return fmt.Errorf("discovery request: %w", protowire.ParseError(n))
		}
		off += n
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b[off:]); n < 0 {
				return fmt.Errorf("discovery request: %w", protowire.ParseError(n))
			}
			off += n
			continue
		}
		v, n := protowire.ConsumeBytes(b[off:])
		if n < 0 {
			return fmt.Errorf("discovery request: %w", protowire.ParseError(n))
		}
		off += n
		text := all[off-len(v) : off]
		var err error
		switch num {
		case node:
			err = from.read(v)
		case typeURL:
			r.TypeURL, err = checked(text)
		case subscribe:
			r.Subscribe, err = appendChecked(r.Subscribe, text)
		case unsubscribe:
			r.Unsubscribe, err = appendChecked(r.Unsubscribe, text)
		case initial:
			err = r.initial(v, text)
		case nonce:
			r.Nonce, err = checked(text)
		case errorDetail:
			r.Refused = true
			err = r.refusal(v)
		}
		if err != nil {
			return fmt.Errorf("discovery request: %w", err)
		}
	}
	r.NodeID, r.NodeVersion = from.id, from.version()
	return nil
}

func checked(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errNotUTF8
	}
	return s, nil
}

func appendChecked(list []string, s string) ([]string, error) {
	if !utf8.ValidString(s) {
		return nil, errNotUTF8
	}
	return append(list, s), nil
}

func (r *Request) initial(entry []byte, text string) error {
	var nv NameVersion
	off := 0
	for off < len(entry) {
		num, typ, n := protowire.ConsumeTag(entry[off:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		off += n
		n = protowire.ConsumeFieldValue(num, typ, entry[off:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		off += n
		if typ != protowire.BytesType {
			continue
		}
		v, _ := protowire.ConsumeBytes(entry[off-n:])
		s, err := checked(text[off-len(v) : off])
		switch {
		case err != nil:
			return err
		case num == 1:
			nv.Name = s
		case num == 2:
			nv.Version = s
		}
	}
	r.Initial = append(r.Initial, nv)
	return nil
}

// peer is what is read of a Node. Like all messages it may come in pieces that add up.
type peer struct {
	id    string
	text  string     // user_agent_version
	build *[4]uint32 // user_agent_build_version, where it is the newer: major, minor and patch from 1
	known bool       // the build has a version
}

func (p *peer) version() string {
	switch {
	case p.build == nil:
		return p.text
	case p.known:
		return fmt.Sprintf("%d.%d.%d", p.build[1], p.build[2], p.build[3])
	}
	return ""
}

func (p *peer) read(b []byte) error {
	const (
		nodeID           = 1
		userAgentVersion = 7
		userAgentBuild   = 8
	)
	return eachField(b, func(num protowire.Number, _ uint64, b []byte) error {
		if b == nil { // a number, which none of these is
			return nil
		}
		var err error
		switch num {
		case nodeID:
			p.id, err = checked(string(b))
		case userAgentVersion:
			p.text, err = checked(string(b))
			p.build, p.known = nil, false
		case userAgentBuild:
			if p.build == nil {
				p.build = new([4]uint32)
			}
			return eachField(b, p.readBuild)
		}
		return err
	})
}

// readBuild reads a field of a BuildVersion.
func (p *peer) readBuild(num protowire.Number, _ uint64, b []byte) error {
	if num != 1 || b == nil { // BuildVersion.version
		return nil
	}
	p.known = true
	return eachField(b, func(num protowire.Number, v uint64, b []byte) error {
		if b == nil && num > 0 && int(num) < len(p.build) {
			p.build[num] = uint32(v) //nolint:gosec // as protobuf does
		}
		return nil
	})
}

func (r *Request) refusal(b []byte) error {
	return eachField(b, func(num protowire.Number, _ uint64, b []byte) error {
		if num == 2 && b != nil { // google.rpc.Status.message
			r.Error = strings.ToValidUTF8(string(b[:min(len(b), maxErrorText)]), "")
		}
		return nil
	})
}
