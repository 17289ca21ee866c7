package sqlitestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/comity-mesh/comity/mesh"
)

// lifeFile is the database's memory of itself outside of the database (see the package's doc). It
// has a fixed size below one disk sector and is overwritten in place, so no crash tears it; it is written after
// the commit, so it is never ahead of the database unless the database went back.
type lifeFile struct {
	f    *os.File
	id   string // "" before the first begin
	head mesh.Revision
}

const lifeFormat = "comity store life 1\n%32s\n%020d\n"

// openLife opens or creates the file and locks it against other processes.
func openLife(path string) (*lifeFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("in use by another process: %w", err), f.Close())
	}
	l := &lifeFile{f: f}
	b, err := io.ReadAll(io.LimitReader(f, 512))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var id string
	var head uint64
	// What can't be read is as if it were not there: the database then begins a new incarnation.
	if n, err := fmt.Sscanf(string(b), lifeFormat, &id, &head); err == nil && n == 2 {
		l.id, l.head = id, mesh.Revision(head)
	}
	return l, nil
}

func (l *lifeFile) begin(id string, head mesh.Revision) error {
	l.id = id
	if err := l.write(head); err != nil {
		return err
	}
	return l.f.Sync()
}

func (l *lifeFile) write(head mesh.Revision) error {
	l.head = head
	_, err := l.f.WriteAt(fmt.Appendf(nil, lifeFormat, l.id, uint64(head)), 0)
	return err
}

func (l *lifeFile) close() error { return l.f.Close() }
