package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// disk mounts a small disk for a test, which is skipped for who may not.
func disk(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a disk of its own needs root; root is not stopped by a folder's mode, and no mode makes a disk full")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("comity-e2e", dir, "tmpfs", 0, "size=4m,mode=700"); err != nil {
		t.Skipf("root may not mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// TestDiskFull: something else fills global's disk to the last byte. Global refuses writes and says why, serves what it
// has, and takes a large write as soon as there is room.
func TestDiskFull(t *testing.T) {
	global := newGlobal(t, "global", (*host)(nil).somewhere(t), nil)
	data := filepath.Join(global.dir, "data")
	disk(t, data)
	global.run()
	kind, _ := policy.Lookup(string(mesh.KindZone))
	zone := func(name string) string {
		return fmt.Sprintf("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: %s}\nspec: {namespaces: [shop]}\n---\n", name)
	}
	before := global.apply(zone("before"))

	ballast := filepath.Join(data, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk has no end: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := global.Apply(ctxOf(t), []byte(zone("none")), client.ApplyOptions{})
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "unavailable" {
			t.Errorf("a write on a full disk: %v", err)
		}
	}
	if err := get("http://"+global.api+"/readyz", nil); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("ready: %v", err)
	}
	if all, err := global.List(ctxOf(t), kind, client.ListOptions{}); err != nil || len(all.Items) != 1 || all.Revision != before {
		t.Errorf("a read: %+v, %v", all, err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	var large strings.Builder
	for i := range 200 {
		large.WriteString(zone(fmt.Sprintf("z%d", i)))
	}
	if revision := global.apply(large.String()); revision != before+1 {
		t.Errorf("with room again: revision %d, and %d was before", revision, before)
	}
}

// zeros is a source without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReadOnlyDisk: a control plane that finds its disk read-only refuses to start and says so; on the same disk, writable
// again, it has what it had.
func TestReadOnlyDisk(t *testing.T) {
	for code, c := range map[string]*controlPlane{
		"GLOBAL-STORE": newGlobal(t, "global", (*host)(nil).somewhere(t), nil),
		"STORE-OPEN":   newZone(t, nil, "east").controlPlane,
	} {
		t.Run(c.program, func(t *testing.T) {
			c.t = t
			data := filepath.Join(c.dir, "data")
			disk(t, data)
			c.run()
			revision := c.apply(allowAll)
			c.stop(syscall.SIGTERM)
			remount := func(flags uintptr) {
				t.Helper()
				if err := syscall.Mount("", data, "", syscall.MS_REMOUNT|flags, ""); err != nil {
					t.Fatal(err)
				}
			}
			remount(syscall.MS_RDONLY)
			p := c.on.start(t, c.name+"-read-only", c.dir, nil, filepath.Join(bin, c.program), "serve", "--config", c.config)
			<-p.done
			said, err := os.ReadFile(p.log)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"error[" + code + "]", "read-only file system", "can be written"} {
				if !bytes.Contains(said, []byte(want)) {
					t.Errorf("%s ended with %v, and does not say %q: %s", c.program, p.cmd.ProcessState, want, said)
				}
			}
			remount(0)
			c.run()
			r, err := c.Apply(ctxOf(t), []byte(allowAll+"---"+exportPay), client.ApplyOptions{})
			if err != nil || r.Revision != revision+1 || r.Items[0].Outcome != "unchanged" {
				t.Errorf("writable again, after revision %d: %+v, %v", revision, r, err)
			}
		})
	}
}
