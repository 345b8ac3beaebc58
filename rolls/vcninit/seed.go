package main

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

const (
	stampPath   = "var/lib/vcn/seed"
	tarFilesMax = 100_000
)

// errEscape: an entry of the seed names something outside the root.
var errEscape = errors.New("path leaves the root")

// applySeed unpacks the tar below root unless its digest is stamped there. The
// stamp is written last, and durably, so that an interrupted boot applies
// again.
func applySeed(root *os.Root, tarball []byte) (changed bool, did tally, err error) {
	digest := sumOf(tarball) + "\n"
	old, err := root.ReadFile(stampPath)
	if err == nil && string(old) == digest {
		return false, did, nil
	}
	u := &unpacker{root: root, again: err == nil, seen: map[string]bool{}}
	if err := root.MkdirAll("var/lib/vcn", 0o755); err != nil {
		return false, u.tally, err
	}
	if err := u.untar(bytes.NewReader(tarball)); err != nil {
		return false, u.tally, err
	}
	if err := u.forget(); err != nil {
		return false, u.tally, err
	}
	if err := mergeAccounts(root); err != nil {
		return false, u.tally, fmt.Errorf("merge accounts: %w", err)
	}
	syscall.Sync() // content before the stamp that vouches for it
	err = replaceFile(root, stampPath, []byte(digest), 0o600, os.Getuid(), os.Getgid())
	return true, u.tally, err
}

// untar unpacks directories, regular files and symbolic links with their
// owners, modes and times. Anything else in a seed is an error.
func (u *unpacker) untar(r io.Reader) error {
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if n >= tarFilesMax {
			return fmt.Errorf("more than %d entries", tarFilesMax)
		}
		name, err := entryName(h.Name)
		if err != nil {
			return err
		}
		if name == "." {
			continue
		}
		if err := u.extract(name, h, t); err != nil {
			err = fmt.Errorf("unpack %s: %w", name, err)
			var path *fs.PathError
			if !u.again || strings.HasPrefix(name, "etc/") || !errors.As(err, &path) {
				return err
			}
			// The owner has made something else of that place, such as a link to
			// another disk. The node must come up all the same.
			say("%v", err)
		}
	}
}

// entryName makes a tar entry's name relative to the root. A leading slash is
// dropped; a ".." anywhere is refused rather than cleaned away.
func entryName(name string) (string, error) {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q: %w", name, errEscape)
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

func (u *unpacker) extract(name string, h *tar.Header, r io.Reader) error {
	root, mode := u.root, tarMode(h.Mode)
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if fi, err := root.Stat(name); u.again && err == nil && fi.IsDir() {
			return nil // its owner may have opened it, or closed it
		}
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeSymlink:
		return extractLink(root, name, h)
	case tar.TypeReg:
		if h.Size > seedFileBytesMax {
			return fmt.Errorf("%d bytes, at most %d", h.Size, seedFileBytesMax)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return u.file(name, b, mode, h.Uid, h.Gid, h.ModTime)
	default:
		return fmt.Errorf("entry type %q is not allowed in a seed", h.Typeflag)
	}
	if err := root.Chown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	return root.Chmod(name, mode)
}

func extractLink(root *os.Root, name string, h *tar.Header) error {
	if fi, err := root.Lstat(name); err == nil {
		if fi.IsDir() {
			return errors.New("a directory is in the way of a link")
		}
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	if err := root.Symlink(h.Linkname, name); err != nil {
		return err
	}
	return root.Lchown(name, h.Uid, h.Gid)
}

// tarMode is fs.FileMode of a tar header's mode, which keeps the set-id bits
// where Unix has them.
func tarMode(m int64) fs.FileMode {
	mode := fs.FileMode(m) & 0o777
	for _, b := range []struct {
		bit  int64
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if m&b.bit != 0 {
			mode |= b.mode
		}
	}
	return mode
}

// writeStream replaces name by a new file: never written through a link that
// stands there, and never half.
func writeStream(root *os.Root, name string, r io.Reader, mode fs.FileMode, uid, gid int, mtime time.Time) error {
	tmp := name + ".vcn-new"
	_ = root.Remove(tmp)
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && !mtime.IsZero() {
		err = root.Chtimes(tmp, mtime, mtime)
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp)
	}
	return err
}

func replaceFile(root *os.Root, name string, b []byte, mode fs.FileMode, uid, gid int) error {
	if err := writeStream(root, name, bytes.NewReader(b), mode, uid, gid, time.Time{}); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// ensureMachineID gives the node its own machine id, once. Images carry an
// empty file: with none at all systemd would take this for a first boot and
// preset every unit.
func ensureMachineID(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const name = "etc/machine-id"
	if b, err := root.ReadFile(name); err == nil && len(strings.TrimSpace(string(b))) == 32 {
		return nil
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("make machine id: %w", err)
	}
	id[6] = id[6]&0x0f | 0x40 // a version 4 UUID, as systemd makes them
	id[8] = id[8]&0x3f | 0x80
	return replaceFile(root, name, []byte(hex.EncodeToString(id)+"\n"), 0o444, os.Getuid(), os.Getgid())
}
