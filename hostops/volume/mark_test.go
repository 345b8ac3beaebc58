package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vcn/hostops"
)

// reopen opens the directory as a later start of a process does.
func reopen(dir, owner string, known bool) error {
	_, err := NewFile(FileConfig{Dir: dir, Owner: owner, Known: known})
	return err
}

func put(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAStoreBelongsToOneOwner(t *testing.T) {
	store := newStore(t)
	v, err := store.Ensure(t.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: mib})
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{false, true} {
		if err := reopen(store.dir, testOwner, known); err != nil {
			t.Errorf("our own store (known: %v): %v", known, err)
		}
		err := reopen(store.dir, "cluster c-2 host h-1", known)
		if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), testOwner) || !strings.Contains(err.Error(), "cluster c-2 host h-1") {
			t.Errorf("another's store (known: %v): %v, want ErrForeign with both owners", known, err)
		}
	}
	if _, err := os.Stat(v.Path); err != nil {
		t.Errorf("the volume: %v", err)
	}
}

func TestOnlyAnEmptyDirectoryBecomesAStore(t *testing.T) {
	fresh := t.TempDir() // as mkfs.ext4 leaves it, and a crash of an earlier first start
	if err := os.Mkdir(filepath.Join(fresh, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, fresh, "."+MarkName+"-123")
	if err := reopen(fresh, testOwner, false); err != nil {
		t.Errorf("a new file system: %v", err)
	}
	full := t.TempDir()
	put(t, full, "a.raw")
	err := reopen(full, testOwner, false)
	if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), testOwner) {
		t.Fatalf("a directory with other things: %v, want ErrForeign with our name", err)
	}
	if got, _ := os.ReadDir(full); len(got) != 1 {
		t.Errorf("it was changed: %v", got)
	}
	// What the error says to do helps.
	if err := os.WriteFile(filepath.Join(full, MarkName), []byte(testOwner+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reopen(full, testOwner, false); err != nil {
		t.Errorf("after it was marked by hand: %v", err)
	}
}

func TestAKnownStoreIsNeverBegunAnew(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "not", "mounted")
	if err := reopen(missing, testOwner, true); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("a store whose directory is gone: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	empty := t.TempDir()
	if err := reopen(empty, testOwner, true); !errors.Is(err, ErrGone) {
		t.Errorf("an empty store: %v", err)
	}
	if got, _ := os.ReadDir(empty); len(got) != 0 {
		t.Errorf("it was marked: %v", got)
	}
}

// TestAStoreThatGoesAwayIsNoEmptyStore unmounts it under the open driver.
func TestAStoreThatGoesAwayIsNoEmptyStore(t *testing.T) {
	store, ctx := newStore(t), t.Context()
	if _, err := store.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: mib}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(store.dir, store.dir+"-elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(store.dir, 0o700); err != nil { // the mount point
		t.Fatal(err)
	}
	if all, err := store.List(ctx); !errors.Is(err, ErrGone) {
		t.Errorf("List: %+v, %v; want ErrGone", all, err)
	}
	if _, err := store.Ensure(ctx, hostops.VolumeSpec{ID: "a", SizeBytes: mib}); !errors.Is(err, ErrGone) {
		t.Errorf("Ensure: %v, want ErrGone", err)
	}
	if err := store.Remove(ctx, "a"); !errors.Is(err, ErrGone) {
		t.Errorf("Remove: %v, want ErrGone", err)
	}
	if left, _ := os.ReadDir(store.dir); len(left) != 0 {
		t.Errorf("something was written to the mount point: %v", left)
	}
}

// QEMU, which is not root, opens a volume of its own host through the store.
func TestStoreCanBePassedAndNotRead(t *testing.T) {
	store := newStore(t)
	v, err := store.Ensure(t.Context(), hostops.VolumeSpec{ID: "a", SizeBytes: mib})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{store.dir: 0o711, v.Path: 0o600, store.markPath(): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %o", path, fi.Mode(), err, want)
		}
	}
}
