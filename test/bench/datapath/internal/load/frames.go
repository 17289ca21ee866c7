package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/net/http2/hpack"
)

// Of HTTP/2 (RFC 9113) what both ends need. The library's framer makes garbage of every frame.
const (
	clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4

	settingInitialWindow = 0x4
	settingMaxStreams    = 0x3

	window      = 1 << 30
	giveBack    = 1 << 20 // bytes after which a window is opened again
	frameHeader = 9
)

type header struct {
	kind, flags byte
	stream      uint32
}

type frameReader struct {
	in  *bufio.Reader
	raw [frameHeader]byte
	buf []byte
}

// next reads a frame; the payload is good until the next one.
func (f *frameReader) next() (header, []byte, error) {
	if _, err := io.ReadFull(f.in, f.raw[:]); err != nil {
		return header{}, nil, err
	}
	n := int(f.raw[0])<<16 | int(f.raw[1])<<8 | int(f.raw[2])
	h := header{f.raw[3], f.raw[4], binary.BigEndian.Uint32(f.raw[5:]) &^ (1 << 31)}
	if n > cap(f.buf) {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	_, err := io.ReadFull(f.in, f.buf)
	return h, f.buf, err
}

// frameWriter collects frames until they are flushed.
type frameWriter struct {
	out io.Writer
	buf []byte
	due uint32 // bytes of data taken that the peer was not given back yet
}

func (w *frameWriter) frame(kind, flags byte, stream uint32, payload []byte) {
	n := len(payload)
	w.buf = append(w.buf, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	w.buf = binary.BigEndian.AppendUint32(w.buf, stream)
	w.buf = append(w.buf, payload...)
}

// hello is the first that an end says: windows in which nothing of a benchmark ever waits.
func (w *frameWriter) hello() {
	settings := binary.BigEndian.AppendUint32([]byte{0, settingInitialWindow}, window)
	settings = append(settings, 0, settingMaxStreams)
	w.frame(frameSettings, 0, 0, binary.BigEndian.AppendUint32(settings, 10_000))
	w.open(0, window)
}

func (w *frameWriter) open(stream, by uint32) {
	w.frame(frameWindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, by))
}

// respond does what the protocol asks of whoever gets a frame.
func (w *frameWriter) respond(h header, payload []byte) {
	switch {
	case h.kind == frameSettings && h.flags&flagAck == 0:
		w.frame(frameSettings, flagAck, 0, nil)
	case h.kind == framePing && h.flags&flagAck == 0:
		w.frame(framePing, flagAck, 0, payload)
	case h.kind == frameData:
		if w.due += uint32(len(payload)); w.due >= giveBack { //nolint:gosec // a frame has at most 16 MiB
			w.open(0, w.due)
			if h.flags&flagEndStream == 0 {
				w.open(h.stream, w.due) // a long stream, as collectors are told by
			}
			w.due = 0
		}
	}
}

func (w *frameWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.out.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// growingBlocks encodes the headers of a stream, each a list of names and values. The first stream of a connection makes entries in
// the peer's table, and all that follow refer to them.
func growingBlocks(headers ...[]string) func() [][]byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	encode := func() (out [][]byte) {
		for _, pairs := range headers {
			b.Reset()
			for i := 0; i+1 < len(pairs); i += 2 {
				_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // to memory
			}
			out = append(out, bytes.Clone(b.Bytes()))
		}
		return out
	}
	first, later := encode(), encode()
	return func() [][]byte {
		out := first
		first = later
		return out
	}
}

// said checks headers of an answer: status is :status or grpc-status, if they are there.
type said struct {
	decoder    *hpack.Decoder
	http, grpc string
}

func newSaid() *said {
	s := &said{}
	s.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			s.http = f.Value
		case "grpc-status":
			s.grpc = f.Value
		}
	})
	return s
}

// read is for every block of a connection, in order.
func (s *said) read(block []byte) error {
	s.http, s.grpc = "", ""
	_, err := s.decoder.Write(block)
	switch {
	case err != nil:
		return err
	case s.http != "" && s.http != "200":
		return fmt.Errorf("status %s", s.http)
	case s.grpc != "" && s.grpc != "0":
		return fmt.Errorf("gRPC status %s", s.grpc)
	}
	return nil
}
