package sqlitestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/comity-mesh/comity/mesh"
)

// lifeFile is the database's memory of itself outside of the database (see the package's doc). It
// has a fixed size below one disk sector and is overwritten in place, so no crash tears it; it is written after
// the commit, so it is never ahead of the database unless the database went back.
//
// It also says in which run of the machine the database is open: if that run ended before the database was
// closed, the end of what did not wait for the disk may be missing.
type lifeFile struct {
	f    *os.File
	id   string // "" before the first begin
	head mesh.Revision
	boot string // of the run in which it was left open, "closed" if it was not
	now  string // names this run
}

const (
	lifeFormat = "comity store life 2\n%32s\n%020d\n%-36.36s\n"
	closed     = "closed"
)

// bootID names this run of the machine, by the kernel's word. Where there is none, no run can be told from
// another, and a database that was left open is taken for cut.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// cut reports whether the machine's run ended with the database open.
func (l *lifeFile) cut() bool { return l.boot != closed && (l.boot != l.now || l.now == "unknown") }

// openLife opens or creates the file and locks it against other processes.
func openLife(path, boot string) (*lifeFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("in use by another process: %w", err), f.Close())
	}
	l := &lifeFile{f: f, now: boot}
	b, err := io.ReadAll(io.LimitReader(f, 512))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var id, open string
	var head uint64
	// What can't be read is as if it were not there: the database then begins a new incarnation.
	if n, err := fmt.Sscanf(string(b), "comity store life 2\n%32s\n%020d\n%36s\n", &id, &head, &open); err == nil && n == 3 {
		l.id, l.head, l.boot = id, mesh.Revision(head), open
	}
	return l, nil
}

func (l *lifeFile) begin(id string, head mesh.Revision) error {
	l.id, l.boot = id, l.now
	if err := l.write(head); err != nil {
		return err
	}
	return l.f.Sync()
}

func (l *lifeFile) write(head mesh.Revision) error {
	l.head = head
	_, err := l.f.WriteAt(fmt.Appendf(nil, lifeFormat, l.id, uint64(head), l.boot), 0)
	return err
}

// end notes that the database is closed and whole on the disk.
func (l *lifeFile) end(head mesh.Revision) error {
	l.boot = closed
	return errors.Join(l.write(head), l.f.Sync())
}

func (l *lifeFile) close() error { return l.f.Close() }
