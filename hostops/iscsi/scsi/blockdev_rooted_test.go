//go:build rooted

package scsi

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// loopDevice makes a block device over a file of n bytes.
func loopDevice(t *testing.T, n int64, sector int) (device, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "loop.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, n); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", strconv.Itoa(sector), file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return device, file
}

func spaceOf(t *testing.T, file string) int64 {
	t.Helper()
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestLoopDevice(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		t.Run(strconv.Itoa(sector), func(t *testing.T) {
			device, file := loopDevice(t, 32<<20, sector)
			checkDevice(t, device, 16<<20)
			u := deviceUnit(t, device)
			fill(t, u, 0, 32<<20)
			want(t, u, cdb(opSyncCache10), nil, 0, 0)
			before := spaceOf(t, file)
			c, out := unmapList(blockRange{0, 16 << 20 / blockBytes})
			want(t, u, c, out, 0, 0)
			if after := spaceOf(t, file); after > before-15<<20 {
				t.Fatalf("UNMAP of 16 MiB left %d of %d bytes", after, before)
			}
			// Growth is seen when asked for, also by the descriptor that is open.
			if err := os.Truncate(file, 48<<20); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("losetup", "--set-capacity", device).CombinedOutput(); err != nil {
				t.Fatalf("losetup: %v: %s", err, out)
			}
			if err := u.Resize(); err != nil {
				t.Fatal(err)
			}
			if n := u.blocks.Load(); n != 48<<20/blockBytes {
				t.Fatalf("%d blocks after growth", n)
			}
			want(t, u, cdb16(opWrite16, 0, 48<<20/blockBytes-1, 1), make([]byte, blockBytes), 6, ascCapacityChanged)
			want(t, u, cdb16(opWrite16, 0, 48<<20/blockBytes-1, 1), make([]byte, blockBytes), 0, 0)
		})
	}
}
