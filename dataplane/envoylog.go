package dataplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"
)

// envoyLogFormat makes one line a message: level, logger, text (escaped, so without line ends).
const envoyLogFormat = "%l|%n|%v"

const (
	maxLogLine = 8 << 10
	tailLines  = 8
)

// envoyLog is Envoy's stderr: each line goes to the agent's log with its level, and the last ones are
// kept to explain an early end.
//
// An Envoy whose zone is away complains at every attempt to reconnect, many times a second: of messages
// that begin alike, one per quietPeriod is logged, with the number of those left out.
type envoyLog struct {
	log   *slog.Logger
	line  []byte
	tail  tail
	said  map[string]*repeated
	clock func() time.Time
}

// repeated is what was logged of messages that begin alike.
type repeated struct {
	last    time.Time
	omitted int
}

const (
	quietPeriod = 10 * time.Second
	alike       = 48 // bytes
	maxSaid     = 256
)

func newEnvoyLog(log *slog.Logger) *envoyLog {
	return &envoyLog{log: log, said: map[string]*repeated{}, clock: time.Now}
}

// fresh says whether to log a message, and how many like it were omitted since the last.
func (l *envoyLog) fresh(message string) (int, bool) {
	key := message[:min(len(message), alike)]
	now := l.clock()
	r := l.said[key]
	if r == nil {
		if len(l.said) == maxSaid {
			clear(l.said)
		}
		l.said[key] = &repeated{last: now}
		return 0, true
	}
	if now.Sub(r.last) < quietPeriod {
		r.omitted++
		return 0, false
	}
	n := r.omitted
	r.last, r.omitted = now, 0
	return n, true
}

// Write implements io.Writer; it never fails. It is called by one goroutine.
func (l *envoyLog) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part, rest, ended := bytes.Cut(b, []byte{'\n'})
		if room := maxLogLine - len(l.line); room > 0 {
			l.line = append(l.line, part[:min(len(part), room)]...)
		}
		if ended {
			l.flush()
		}
		b = rest
	}
	return n, nil
}

func (l *envoyLog) flush() {
	if len(l.line) == 0 {
		return
	}
	text := string(l.line)
	l.line = l.line[:0]
	l.tail.add(text)
	level, rest, ok := strings.Cut(text, "|")
	name, message, ok2 := strings.Cut(rest, "|")
	at, known := envoyLevels[level]
	if !ok || !ok2 || !known {
		// Not Envoy's logger: an allocator or a sanitizer speaking for itself.
		l.log.Warn("Envoy says", "text", text)
		return
	}
	if level == "warning" || level == "error" {
		n, fresh := l.fresh(message)
		if !fresh {
			return
		}
		if n > 0 {
			at(l.log, message, "logger", name, "omitted", n)
			return
		}
	}
	at(l.log, message, "logger", name)
}

var envoyLevels = map[string]func(*slog.Logger, string, ...any){
	"trace": (*slog.Logger).Debug, "debug": (*slog.Logger).Debug, "info": (*slog.Logger).Info,
	"warning": (*slog.Logger).Warn, "error": (*slog.Logger).Error, "critical": (*slog.Logger).Error,
}

// tail is the last lines of something.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = t.lines[1:]
	}
	t.lines = append(t.lines, line)
}

func (t *tail) indented() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, l := range t.lines {
		b.WriteString("\n  " + l)
	}
	return b.String()
}

// raiseFileLimit lifts the soft limit of open files to the hard one, for the agent and, because it is
// set explicitly, for its Envoy: Go otherwise gives children back the low limit it was started with.
// It returns the limit in force.
func raiseFileLimit() (uint64, error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	r.Cur = r.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return r.Cur, nil
}
