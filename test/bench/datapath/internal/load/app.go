package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
)

// App answers every request alike, whatever it asks.
type App struct {
	// HTTP1, HTTP2 and GRPC are ports on loopback, with answers of Body bytes. Empty answers gRPC calls with an empty
	// message, which collectors and authorization services may say: "taken", "allowed".
	HTTP1, HTTP2, GRPC, Empty uint16
}

// Body is how long answers are, in bytes.
const Body = 1024

// ServeApp serves an App until in ends, and says on out which (one line of JSON).
func ServeApp(in io.Reader, out io.Writer) error {
	body := bytes.Repeat([]byte{'x'}, Body)
	var app App
	for _, l := range []struct {
		port  *uint16
		serve func(net.Conn) error
	}{
		{&app.HTTP1, func(c net.Conn) error { return serveHTTP1(c, body) }},
		{&app.HTTP2, func(c net.Conn) error { return serveHTTP2(c, plainAnswer(body)) }},
		{&app.GRPC, func(c net.Conn) error { return serveHTTP2(c, grpcAnswer(body)) }},
		{&app.Empty, func(c net.Conn) error { return serveHTTP2(c, grpcAnswer(nil)) }},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*l.port = uint16(ln.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
		go acceptAll(ln, l.serve)                       // ends with the process
	}
	if err := json.NewEncoder(out).Encode(app); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

func acceptAll(l net.Listener, serve func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = serve(c) // the peer is gone, or says what a benchmark's peer doesn't
		}()
	}
}

// serveHTTP1 answers requests without bodies.
func serveHTTP1(c net.Conn, body []byte) error {
	answer := append([]byte("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: "+strconv.Itoa(len(body))+"\r\n\r\n"), body...)
	in := bufio.NewReaderSize(c, 16<<10)
	for {
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= 2 {
				break
			}
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// answer writes what a stream of HTTP/2 is answered with; each connection has one of its own.
type answer func(w *frameWriter, stream uint32)

func plainAnswer(body []byte) answer {
	blocks := growingBlocks([]string{":status", "200", "content-type", "text/plain", "content-length", strconv.Itoa(len(body))})
	return func(w *frameWriter, stream uint32) {
		w.frame(frameHeaders, flagEndHeaders, stream, blocks()[0])
		w.frame(frameData, flagEndStream, stream, body)
	}
}

func grpcAnswer(message []byte) answer {
	blocks := growingBlocks([]string{":status", "200", "content-type", "application/grpc"}, []string{"grpc-status", "0"})
	framed := grpcMessage(message)
	return func(w *frameWriter, stream uint32) {
		b := blocks()
		w.frame(frameHeaders, flagEndHeaders, stream, b[0])
		w.frame(frameData, 0, stream, framed)
		w.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, b[1])
	}
}

// grpcMessage is a message as gRPC sends it: not compressed, and its length before it.
func grpcMessage(m []byte) []byte {
	return append([]byte{0, byte(len(m) >> 24), byte(len(m) >> 16), byte(len(m) >> 8), byte(len(m))}, m...)
}

// serveHTTP2 answers each stream when its request has ended. It looks at no header and keeps to no window of its peer: what
// a benchmark has under way is less than any.
func serveHTTP2(c net.Conn, a answer) error {
	in := bufio.NewReaderSize(c, 64<<10)
	preface := make([]byte, len(clientPreface))
	if _, err := io.ReadFull(in, preface); err != nil {
		return err
	}
	if string(preface) != clientPreface {
		return fmt.Errorf("%q is no preface of HTTP/2", preface)
	}
	w := &frameWriter{out: c}
	w.hello()
	f := frameReader{in: in}
	for {
		if in.Buffered() == 0 {
			if err := w.flush(); err != nil {
				return err
			}
		}
		h, payload, err := f.next()
		if err != nil {
			return err
		}
		w.respond(h, payload)
		if (h.kind == frameHeaders || h.kind == frameData) && h.flags&flagEndStream != 0 {
			a(w, h.stream)
		}
	}
}
