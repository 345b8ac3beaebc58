package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vcn/hostops"
	"vcn/internal/durable"
	"vcn/internal/passable"
)

// MarkName is the file in a store that says whose it is: one line, FileConfig.Owner.
const MarkName = ".vcn-store"

// ownerBytesMax bounds the mark's line.
const ownerBytesMax = 255

// ErrGone: the directory was this owner's store and does not show it any more.
// Most likely its file system is not mounted.
var ErrGone = errors.New("volume store is gone")

// open makes sure that the directory is the owner's: it is marked so, or it is
// empty and gets the mark now, or it is refused.
func (f *File) open(known bool) error {
	err := f.checkMark()
	if !errors.Is(err, ErrGone) {
		return err
	}
	if known {
		return fmt.Errorf("%w: storage directory %s was this host's store and is empty now, or has lost its mark %s: is its file system mounted?",
			ErrGone, f.dir, MarkName)
	}
	// QEMU, which is not root, passes through it to a volume of this host.
	if err := passable.Mkdir(f.dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" || strings.HasPrefix(e.Name(), "."+MarkName+"-") {
			continue // every new ext4 has the one; the other is a mark whose writer died
		}
		return fmt.Errorf("storage directory %s holds %s and no mark %s, so it is nobody's store: %w: give %s an empty directory, or, if these are its volumes, say so with: echo %q > %s",
			f.dir, e.Name(), MarkName, hostops.ErrForeign, f.owner, f.owner, f.markPath())
	}
	return durable.WriteFile(f.markPath(), []byte(f.owner+"\n"), 0o600)
}

func (f *File) markPath() string { return filepath.Join(f.dir, MarkName) }

// checkMark reads whose store the directory is. Errors: ErrGone (no mark),
// hostops.ErrForeign (another owner's).
func (f *File) checkMark() error {
	b, err := os.ReadFile(f.markPath())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s has no mark %s: is its file system mounted?", ErrGone, f.dir, MarkName)
	} else if err != nil {
		return err
	}
	if owner := strings.TrimSpace(string(b)); owner != f.owner {
		return fmt.Errorf("storage directory %s is the store of %q, and this is %q: %w: give this host another directory, or, if nobody needs those volumes any more, empty it, its %s included",
			f.dir, owner, f.owner, hostops.ErrForeign, MarkName)
	}
	return nil
}

func checkOwner(owner string) error {
	if owner == "" || owner != strings.TrimSpace(owner) || strings.ContainsAny(owner, "\r\n") || len(owner) > ownerBytesMax {
		return fmt.Errorf("owner %q: want one line of 1-%d bytes", owner, ownerBytesMax)
	}
	return nil
}
