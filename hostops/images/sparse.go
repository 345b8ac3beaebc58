package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

const (
	blockBytes = 4096    // what is left out when zero
	chunkBytes = 1 << 20 // most data in one record; a multiple of blockBytes
	seekData   = 3       // SEEK_DATA, lseek(2)
	seekHole   = 4       // SEEK_HOLE
)

// Contents is contents.json: the digests of an image's files.
type Contents struct {
	Files []ContentFile `json:"files"`
}

// ContentFile is one file's size and digest. The digest does not depend on where
// the file system keeps holes: see blockDigest.
type ContentFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (c Contents) file(name string) (ContentFile, bool) {
	for _, f := range c.Files {
		if f.Name == name {
			return f, true
		}
	}
	return ContentFile{}, false
}

// blockDigest is SHA-256 over the size and every block of 4 KiB that is not all
// zero, each after its number (big-endian, 64 bits); a short last block is filled
// with zeros. So the 4 GiB of a sparse disk cost no more than what is in it.
type blockDigest struct{ h hash.Hash }

func newBlockDigest(size int64) *blockDigest {
	d := &blockDigest{sha256.New()}
	d.number(size)
	return d
}

func (d *blockDigest) number(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.h.Write(b[:])
}

// add takes the bytes at off, a multiple of blockBytes, in ascending order.
func (d *blockDigest) add(off int64, b []byte) {
	for len(b) > 0 {
		n := min(len(b), blockBytes)
		if !isZero(b[:n]) {
			d.number(off / blockBytes)
			d.h.Write(b[:n])
			if n < blockBytes {
				d.h.Write(zeros[:blockBytes-n])
			}
		}
		b, off = b[n:], off+int64(n)
	}
}

func (d *blockDigest) sum() string { return hex.EncodeToString(d.h.Sum(nil)) }

var zeros [blockBytes]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// eachChunk calls f with the file's data, holes left out, in ascending chunks
// whose offsets are multiples of blockBytes.
func eachChunk(ctx context.Context, file *os.File, size int64, f func(off int64, b []byte) error) error {
	buf := make([]byte, chunkBytes)
	for pos := int64(0); pos < size; {
		data, err := file.Seek(pos, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		hole, err := file.Seek(data, seekHole)
		if err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		// File systems may keep extents finer than our blocks.
		data = max(data/blockBytes*blockBytes, pos)
		end := min((hole+blockBytes-1)/blockBytes*blockBytes, size)
		for pos = data; pos < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := int(min(int64(len(buf)), end-pos))
			if _, err := file.ReadAt(buf[:n], pos); err != nil {
				return fmt.Errorf("read at %d: %w", pos, err)
			}
			if err := f(pos, buf[:n]); err != nil {
				return err
			}
			pos += int64(n)
		}
	}
	return nil
}

// describeContents computes the digests of files in dir.
func describeContents(ctx context.Context, dir string, names []string) (c Contents, err error) {
	for _, name := range names {
		f, err := describeFile(ctx, filepath.Join(dir, name))
		if err != nil {
			return c, fmt.Errorf("digest %s: %w", name, err)
		}
		c.Files = append(c.Files, f)
	}
	return c, nil
}

func describeFile(ctx context.Context, name string) (c ContentFile, err error) {
	f, err := os.Open(name)
	if err != nil {
		return c, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return c, err
	}
	d := newBlockDigest(fi.Size())
	err = eachChunk(ctx, f, fi.Size(), func(off int64, b []byte) error {
		d.add(off, b)
		return nil
	})
	return ContentFile{filepath.Base(name), fi.Size(), d.sum()}, err
}

// writeSparse writes b at off, leaving out blocks of zeros.
func writeSparse(w io.WriterAt, off int64, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), blockBytes)
		zero := isZero(b[:n])
		// One write for a run of blocks with data.
		for !zero && n < len(b) && !isZero(b[n:min(n+blockBytes, len(b))]) {
			n = min(n+blockBytes, len(b))
		}
		if !zero {
			if _, err := w.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
