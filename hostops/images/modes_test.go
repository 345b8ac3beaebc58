package images

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// QEMU, which is not root, reads the kernel; whole systems are for root alone.
func TestKernelCanBeReadAndTheRestCannot(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as a careful administrator's shell has it
	from, to := openStore(t), openStore(t)
	digest := addImage(t, from, "recipe", 1).Digest
	for _, bootOnly := range []bool{true, false} { // the second completes the first
		if _, err := to.Import(t.Context(), bytes.NewReader(exported(t, from, digest, bootOnly))); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*Store{from, to} {
		im, err := s.Get(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]os.FileMode{
			s.cfg.Dir: 0o711, im.Dir: 0o755, im.Kernel: 0o644, im.Initrd: 0o644, im.Root: 0o600, s.cfg.CacheDir: 0o700,
		} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v, want mode %o", path, fi.Mode(), err, want)
			}
		}
	}
	// A cache of before, that anyone could walk through to old set-uid programs.
	open := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Dir: t.TempDir(), CacheDir: open}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(open); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("cache: %v, %v", fi.Mode(), err)
	}
}
