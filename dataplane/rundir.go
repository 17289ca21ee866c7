package dataplane

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/comity-mesh/comity/internal/fault"
)

// maxSocketPath is what the kernel takes as the path of a Unix socket (sockaddr_un, without the
// final zero).
const maxSocketPath = 107

// Files of the run directory.
const (
	fileAdmin     = "admin.sock"
	fileSDS       = "sds.sock"
	filePeers     = "peers.sock"
	fileBootstrap = "envoy.json"
	fileXDS       = "xds.sock"
	folderTrials  = "trials"
)

// runDir is the folder of one running agent: sockets and the bootstrap, nothing that must survive.
// It is the agent's alone: mode 0700, its own user's, and locked while the agent lives.
type runDir struct {
	path string
	dir  *os.File // open and locked for as long as the agent runs
}

// openRunDir makes or takes over the folder. Another agent in it, another owner or an open mode are
// refused.
func openRunDir(path string) (_ *runDir, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil { //nolint:gosec // the folder itself is 0700
		return nil, runDirFault(abs, err)
	}
	if err := os.Mkdir(abs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, runDirFault(abs, err)
	}
	// Lstat, so that a link put there by somebody else is not followed.
	info, err := os.Lstat(abs)
	if err != nil {
		return nil, runDirFault(abs, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(abs, &st); err != nil {
		return nil, runDirFault(abs, err)
	}
	if !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, runDirFault(abs, errors.New("it is not a folder that belongs to the agent's user alone (mode 0700)"))
	}
	d := &runDir{path: abs}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.dir, err = os.Open(abs); err != nil {
		return nil, runDirFault(abs, err)
	}
	// The folder itself is locked: a lock file would have to be removed, and could be while another waits for it.
	if err := unix.Flock(int(d.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits
		return nil, runDirFault(abs, errors.New("another agent is running in it"))
	}
	return d, nil
}

func runDirFault(path string, err error) error {
	return &fault.Error{
		Code: "RUN-DIR", What: "the run directory " + path + " can't be used", Cause: err.Error(),
		Try: "give each sidecar and ingress a folder of its own with runDir, which its user may write", Docs: "docs/configuration.md", Err: err,
	}
}

// file is the path of a file of the folder.
func (d *runDir) file(name string) string { return filepath.Join(d.path, name) }

// socket is a path by which this process can bind or dial a socket of the folder, however deep the
// folder lies: through the descriptor where the plain path is too long for the kernel.
func (d *runDir) socket(name string) string {
	if p := d.file(name); len(p) <= maxSocketPath {
		return p
	}
	return "/proc/self/fd/" + strconv.Itoa(int(d.dir.Fd())) + "/" + name //nolint:gosec // a descriptor fits
}

// clean removes what the agent and its Envoy made, and the folder if nothing else is in it.
func (d *runDir) clean() error {
	var errs []error
	for _, name := range []string{fileAdmin, fileSDS, filePeers, fileBootstrap, fileXDS} {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := os.RemoveAll(d.file(folderTrials)); err != nil { // of an agent that was killed while one ran
		errs = append(errs, err)
	}
	// Left in place when somebody else keeps files there.
	if err := os.Remove(d.path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrPermission) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close gives the folder back.
func (d *runDir) Close() error {
	if d.dir == nil {
		return nil
	}
	return d.dir.Close()
}

// defaultRunDir is a folder of the agent's own for one proxy: the same one after a restart.
func defaultRunDir(dataDir, proxy string) string {
	sum := sha256.Sum256([]byte(dataDir + "\x00" + proxy))
	return filepath.Join(os.TempDir(), fmt.Sprintf("comity-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:6])))
}
