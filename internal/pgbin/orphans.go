package pgbin

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// folders is how those of servers begin.
	folders = "comity-pg-"
	// livingFile is in each of them. The kernel unlocks it when its owner dies, however it dies.
	livingFile = "living"
)

// markLiving makes a folder ours. The file has its name only when it is locked, so nobody can take a folder that
// begins for one that was left.
func markLiving(dir string) (*os.File, error) {
	f, err := os.Create(filepath.Join(dir, livingFile+".new"))
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, livingFile))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeOrphans removes the folders of servers whose owner was killed, with which the kernel killed the server. Those of
// other users stay, as does what can't be removed: nobody has asked for it now.
func removeOrphans() {
	// The pattern is well-formed, and that is all that Glob complains of.
	all, _ := filepath.Glob(filepath.Join(os.TempDir(), folders+"*", livingFile))
	for _, path := range all {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) // whatever somebody has put there
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		_ = f.Close()
	}
}
