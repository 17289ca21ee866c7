package ca

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// A proxy renews a few times within a certificate's life; more than this is abuse, and the oldest
	// are forgotten.
	maxSerialsPerProxy = 16
	maxLedgerLine      = 8 << 10
	compactSlack       = 1024
)

// entry is one line of the ledger: a certificate that was issued to a proxy, or, with Revoked, that
// it no longer speaks for it.
type entry struct {
	Serial   string       `json:"serial"`
	Proxy    mesh.ProxyID `json:"proxy,omitzero"`
	ID       string       `json:"id,omitempty"`
	NotAfter time.Time    `json:"notAfter,omitzero"`
	Revoked  bool         `json:"revoked,omitempty"`
}

// ledger knows which unexpired certificate went to which proxy. It is a map in memory and a file of
// JSON lines, appended and synced before a certificate leaves, rewritten when most of it is past.
type ledger struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	file    *os.File
	lines   int
	entries map[string]entry
	serials map[mesh.ProxyID][]string // oldest first
}

func openLedger(path string, now func() time.Time) (*ledger, error) {
	l := &ledger{path: path, now: now, entries: map[string]entry{}, serials: map[mesh.ProxyID][]string{}}
	if err := l.read(); err != nil {
		return nil, fmt.Errorf("read the ledger of issued certificates: %w", err)
	}
	// Rewritten at every start: that also cuts off a line torn by a crash.
	if err := l.rewrite(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *ledger) read() error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, maxLedgerLine)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) != nil || e.Serial == "" {
			continue // torn by a crash before the certificate left
		}
		l.put(e)
	}
	return sc.Err()
}

func (l *ledger) put(e entry) {
	if e.Revoked {
		l.drop(e.Serial)
		return
	}
	if !l.now().Before(e.NotAfter) {
		return
	}
	l.entries[e.Serial] = e
	list := append(l.serials[e.Proxy], e.Serial)
	for len(list) > maxSerialsPerProxy {
		delete(l.entries, list[0])
		list = list[1:]
	}
	l.serials[e.Proxy] = list
}

func (l *ledger) drop(serial string) {
	e, ok := l.entries[serial]
	if !ok {
		return
	}
	delete(l.entries, serial)
	list := slices.DeleteFunc(slices.Clone(l.serials[e.Proxy]), func(s string) bool { return s == serial })
	if len(list) == 0 {
		delete(l.serials, e.Proxy)
		return
	}
	l.serials[e.Proxy] = list
}

// add records a certificate; the certificate must not leave before add has returned nil.
func (l *ledger) add(e entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(e); err != nil {
		return err
	}
	l.put(e)
	return l.compact()
}

// revoke makes lookup forget every certificate of a proxy.
func (l *ledger) revoke(p mesh.ProxyID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, serial := range slices.Clone(l.serials[p]) {
		if err := l.append(entry{Serial: serial, Revoked: true}); err != nil {
			return err
		}
		l.drop(serial)
	}
	return nil
}

func (l *ledger) lookup(serial string) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[serial]
	if !ok || !l.now().Before(e.NotAfter) {
		return entry{}, false
	}
	return e, true
}

// until is the latest end of a proxy's certificates.
func (l *ledger) until(p mesh.ProxyID) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var latest time.Time
	for _, serial := range l.serials[p] {
		if at := l.entries[serial].NotAfter; at.After(latest) {
			latest = at
		}
	}
	return latest
}

func (l *ledger) append(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if len(line)+1 > maxLedgerLine {
		return fmt.Errorf("ledger: an entry of %d bytes, more than %d", len(line), maxLedgerLine)
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	l.lines++
	return nil
}

func (l *ledger) compact() error {
	if l.lines < 2*len(l.entries)+compactSlack {
		return nil
	}
	now := l.now()
	for serial, e := range l.entries {
		if !now.Before(e.NotAfter) {
			l.drop(serial)
		}
	}
	return l.rewrite()
}

func (l *ledger) rewrite() error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for _, serials := range l.serials {
		for _, s := range serials {
			if err := enc.Encode(l.entries[s]); err != nil {
				return fmt.Errorf("ledger: %w", err)
			}
		}
	}
	if err := identity.WriteFileAtomic(l.path, out.Bytes()); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if l.file != nil {
		// Everything in the old file is in the new one, synced.
		_ = l.file.Close()
	}
	l.file, l.lines = f, len(l.entries)
	return nil
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
