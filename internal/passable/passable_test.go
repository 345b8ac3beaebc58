package passable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}

func TestMkdirLetsOthersPassAndNotList(t *testing.T) {
	old := syscall.Umask(0o077) // as a careful administrator's shell has it
	defer syscall.Umask(old)
	top := t.TempDir()
	kept := filepath.Join(top, "kept")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(kept, "a", "b")
	if err := Mkdir(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o711, filepath.Dir(dir): 0o711, kept: 0o700} {
		if got := mode(t, path); got != want {
			t.Errorf("%s: mode %o, want %o", path, got, want)
		}
	}
	if got, err := Blocked(filepath.Join(dir, "absent")); err != nil || got == "" || len(got) > len(kept) {
		t.Errorf("blocked at %q, %v; want %s or above", got, err, kept)
	}
}

func TestMkdirAddsAndNeverTakesAway(t *testing.T) {
	dir := t.TempDir()
	for before, after := range map[os.FileMode]os.FileMode{0o700: 0o711, 0o711: 0o711, 0o755: 0o755, 0o750: 0o751} {
		if err := os.Chmod(dir, before); err != nil {
			t.Fatal(err)
		}
		if err := Mkdir(dir); err != nil {
			t.Fatal(err)
		}
		if got := mode(t, dir); got != after {
			t.Errorf("mode %o became %o, want %o", before, got, after)
		}
	}
	if _, err := Blocked("/"); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Mkdir(filepath.Join(file, "below")); err == nil {
		t.Error("a directory below a file was made")
	}
}
