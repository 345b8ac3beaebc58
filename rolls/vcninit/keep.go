package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

const (
	// writtenDir holds, for each file of a seed below its own path, the digest of
	// what vcn last wrote there. /usr/lib/vcn/live keeps the same record.
	writtenDir = "var/lib/vcn/written"
	savedEnd   = ".vcn-saved"
	savedMax   = 99 // copies of one file
	// Content of a seed's file is held in memory while it is compared.
	seedFileBytesMax = 16 << 20
)

// account of what applying a seed did to files that somebody had changed.
type tally struct {
	files int
	kept  []string // left as the owner made them: the seed has nothing new
	saved []string // copies of what was replaced
}

// unpacker applies one seed to one disk.
type unpacker struct {
	root *os.Root
	// again: the disk had a seed before, so what differs may be the owner's work.
	again bool
	seen  map[string]bool // files of this seed
	tally
}

// file writes one file of the seed, unless its owner has changed it since and the
// seed says nothing new. What is replaced although it was changed is kept beside
// it.
//
//	content is       last written   the seed's file is new
//	as last written  = the seed's   nothing to do
//	as last written  ≠ the seed's   written
//	changed          = the seed's   left alone; what vcn alone decides is written, the copy kept
//	changed          ≠ the seed's   written, the copy kept
func (u *unpacker) file(name string, b []byte, mode fs.FileMode, uid, gid int, mtime time.Time) error {
	u.seen[name] = true
	u.files++
	want := sumOf(b)
	if u.again {
		last := u.written(name)
		have, err := u.content(name)
		if err != nil {
			return err
		}
		switch {
		case have == want:
			if last == want {
				return nil
			}
			return u.record(name, want)
		case last == want && !ours(name):
			u.kept = append(u.kept, name)
			return nil
		case have != "" && have != last:
			if err := u.save(name); err != nil {
				return fmt.Errorf("keep a copy: %w", err)
			}
		}
	}
	if err := writeStream(u.root, name, bytes.NewReader(b), mode, uid, gid, mtime); err != nil {
		return err
	}
	return u.record(name, want)
}

// ours tells whether a file is vcn's own word on what the node is.
func ours(name string) bool { return strings.HasPrefix(name, "etc/vcn/") }

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// content is the digest of what is at name now, empty if no file is there.
func (u *unpacker) content(name string) (string, error) {
	fi, err := u.root.Stat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return "", nil // absent, or nothing that could be kept by copying
	}
	if fi.Size() > seedFileBytesMax {
		return "large", nil // no seed's, then
	}
	b, err := u.root.ReadFile(name)
	if err != nil {
		return "", err
	}
	return sumOf(b), nil
}

// save moves what is at name aside, and never over an earlier copy. Should the
// machine stop now, the next boot finds no file there and writes the seed's.
func (u *unpacker) save(name string) error {
	for n := 1; n <= savedMax; n++ {
		to := name + savedEnd
		if n > 1 {
			to += fmt.Sprintf("-%d", n)
		}
		if _, err := u.root.Lstat(to); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		u.saved = append(u.saved, to)
		return u.root.Rename(name, to)
	}
	return fmt.Errorf("there are %d copies of %s: remove some", savedMax, name)
}

func (u *unpacker) written(name string) string {
	b, err := u.root.ReadFile(writtenDir + "/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// record says what was written, after it was: should the machine stop between the
// two, the file is found to be as the seed wants it.
func (u *unpacker) record(name, sum string) error {
	at := writtenDir + "/" + name
	if err := u.root.MkdirAll(path.Dir(at), 0o700); err != nil {
		return err
	}
	return replaceFile(u.root, at, []byte(sum+"\n"), 0o600, os.Getuid(), os.Getgid())
}

// forget takes away what an earlier seed wrote and this one does not have, such as
// the keys of a user who is gone: below etc, and only what nobody has changed.
func (u *unpacker) forget() error {
	var gone []string
	err := fs.WalkDir(u.root.FS(), writtenDir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if name := strings.TrimPrefix(p, writtenDir+"/"); err == nil && !e.IsDir() && !u.seen[name] {
			gone = append(gone, name)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	for _, name := range gone {
		have, err := u.content(name)
		if err != nil {
			return err
		}
		switch {
		case !strings.HasPrefix(name, "etc/") || have == "":
		case have == u.written(name) || ours(name):
			err = u.root.Remove(name)
		default:
			u.kept = append(u.kept, name)
		}
		if err == nil {
			err = u.root.Remove(writtenDir + "/" + name)
		}
		if err != nil {
			return fmt.Errorf("forget %s: %w", name, err)
		}
	}
	return nil
}
