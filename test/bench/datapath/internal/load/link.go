package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

// link is a connection on which requests are made. What it is sent is written at the latest by flush.
type link interface {
	// send begins a request, which is called by its tag when it is answered.
	send(tag int)
	flush() error
	// read takes answers until the connection ends, and flushes when there is nothing more to read.
	read(answered func(tag int, err error)) error
	// streams are how many requests it takes at a time.
	streams() int
	close() error
}

// dial opens a link as an order says.
func (o Order) dial() (link, error) {
	c, err := net.Dial("tcp", o.Address)
	if err != nil {
		return nil, err
	}
	switch o.Protocol {
	case HTTP1:
		return newHTTP1(c, o), nil
	case HTTP2, GRPC:
		return newHTTP2(c, o)
	}
	return nil, fmt.Errorf("there is no protocol %q", o.Protocol)
}

// http1 has one request at a time.
type http1 struct {
	c       net.Conn
	request []byte
	mu      sync.Mutex
	tag     int
	unsent  bool
}

func newHTTP1(c net.Conn, o Order) *http1 {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nhost: %s\r\nuser-agent: bench\r\n", o.Path, o.Host)
	for i := 0; i+1 < len(o.Headers); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", o.Headers[i], o.Headers[i+1])
	}
	b.WriteString("\r\n")
	return &http1{c: c, request: b.Bytes()}
}

func (h *http1) streams() int { return 1 }
func (h *http1) close() error { return h.c.Close() }

func (h *http1) send(tag int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tag, h.unsent = tag, true
}

func (h *http1) flush() error {
	h.mu.Lock()
	unsent := h.unsent
	h.unsent = false
	h.mu.Unlock()
	if !unsent {
		return nil
	}
	_, err := h.c.Write(h.request)
	return err
}

func (h *http1) read(answered func(tag int, err error)) error {
	in := bufio.NewReaderSize(h.c, 16<<10)
	for {
		status, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		var wrong error
		if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
			wrong = errors.New(string(bytes.TrimSpace(status)))
		}
		length := -1
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= 2 {
				break
			}
			name, value, _ := bytes.Cut(line, []byte(":"))
			if bytes.EqualFold(name, []byte("content-length")) {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
					return err
				}
			}
		}
		if length < 0 {
			return fmt.Errorf("an answer without content-length (%s)", status)
		}
		if _, err := io.CopyN(io.Discard, in, int64(length)); err != nil {
			return err
		}
		h.mu.Lock()
		tag := h.tag
		h.mu.Unlock()
		answered(tag, wrong)
		if err := h.flush(); err != nil {
			return err
		}
	}
}

// http2 has several at a time.
type http2 struct {
	c       net.Conn
	most    int
	blocks  func() [][]byte
	message []byte // of gRPC

	mu   sync.Mutex // of what follows
	w    frameWriter
	next uint32
	tags map[uint32]int
}

func newHTTP2(c net.Conn, o Order) (*http2, error) {
	pairs := []string{":method", "GET", ":scheme", "http", ":authority", o.Host, ":path", o.Path, "user-agent", "bench"}
	h := &http2{c: c, most: o.Streams, next: 1, tags: map[uint32]int{}, w: frameWriter{out: c}}
	if o.Protocol == GRPC {
		pairs[1] = "POST"
		pairs = append(pairs, "content-type", "application/grpc", "te", "trailers")
		h.message = grpcMessage([]byte("a small question"))
	}
	h.blocks = growingBlocks(append(pairs, o.Headers...))
	if _, err := c.Write([]byte(clientPreface)); err != nil {
		return nil, err
	}
	h.w.hello()
	return h, h.w.flush()
}

func (h *http2) streams() int { return h.most }
func (h *http2) close() error { return h.c.Close() }

func (h *http2) send(tag int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	block := h.blocks()[0]
	h.tags[h.next] = tag
	if h.message == nil {
		h.w.frame(frameHeaders, flagEndHeaders|flagEndStream, h.next, block)
	} else {
		h.w.frame(frameHeaders, flagEndHeaders, h.next, block)
		h.w.frame(frameData, flagEndStream, h.next, h.message)
	}
	h.next += 2
}

func (h *http2) flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.w.flush()
}

func (h *http2) read(answered func(tag int, err error)) error {
	f := frameReader{in: bufio.NewReaderSize(h.c, 64<<10)}
	headers := newSaid()
	wrong := map[uint32]error{}
	for {
		if f.in.Buffered() == 0 {
			if err := h.flush(); err != nil {
				return err
			}
		}
		fh, payload, err := f.next()
		if err != nil {
			return err
		}
		h.mu.Lock()
		h.w.respond(fh, payload)
		tag, ours := h.tags[fh.stream]
		h.mu.Unlock()
		switch fh.kind {
		case frameHeaders:
			if fh.flags&flagEndHeaders == 0 {
				return errors.New("a header in several frames")
			}
			if err := headers.read(payload); err != nil {
				wrong[fh.stream] = err
			}
		case frameReset:
			wrong[fh.stream] = errors.New("the stream was reset")
		case frameGoAway:
			return errors.New("the peer goes away")
		}
		if ended := fh.kind == frameReset || (fh.kind == frameHeaders || fh.kind == frameData) && fh.flags&flagEndStream != 0; !ended || !ours {
			continue
		}
		h.mu.Lock()
		delete(h.tags, fh.stream)
		h.mu.Unlock()
		answered(tag, wrong[fh.stream])
		delete(wrong, fh.stream)
	}
}
