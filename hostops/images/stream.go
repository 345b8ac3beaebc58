package images

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"vcn/hostops"
	"vcn/rolls"
)

// A stream is one zstd frame of: the magic line; the header's length (32 bits)
// and its JSON; for each file records of offset (64 bits), length (32 bits) and
// data, ended by one of length 0 at the file's size; the end line. Numbers are
// big-endian.
const (
	streamMagic     = "vcn-image 1\n"
	streamEnd       = "vcn-image end\n"
	headerBytesMax  = 16 << 20
	fileBytesMax    = 16 << 40
	decoderBytesMax = 256 << 20
)

type streamHeader struct {
	Digest   string         `json:"digest"`
	Lock     Lock           `json:"lock"`
	Manifest rolls.Manifest `json:"manifest"`
	Contents Contents       `json:"contents"`
	Files    []string       `json:"files"` // those that follow, in order
}

// Export writes the image as one stream. bootOnly leaves the root disk out. An
// image without a root disk here cannot be exported whole.
func (s *Store) Export(ctx context.Context, digest string, bootOnly bool, w io.Writer) error {
	im, err := s.Get(ctx, digest)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if !bootOnly && im.Root == "" {
		return fmt.Errorf("export image %.12s: only its boot files are here: %w", digest, hostops.ErrNotFound)
	}
	h := streamHeader{Digest: digest, Manifest: im.Manifest, Files: []string{kernelName, initrdName}}
	if !bootOnly {
		h.Files = append(h.Files, rootName)
	}
	for name, v := range map[string]any{lockName: &h.Lock, contentsName: &h.Contents} {
		if err := readJSON(filepath.Join(im.Dir, name), v); err != nil {
			return fmt.Errorf("export image %.12s: %w", digest, err)
		}
	}
	if err := export(ctx, im.Dir, h, w); err != nil {
		return fmt.Errorf("export image %.12s: %w", digest, err)
	}
	return nil
}

func export(ctx context.Context, dir string, h streamHeader, w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return err
	}
	defer z.Close()
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	pre := append([]byte(streamMagic), binary.BigEndian.AppendUint32(nil, uint32(len(head)))...)
	if _, err := z.Write(append(pre, head...)); err != nil {
		return err
	}
	for _, name := range h.Files {
		if err := exportFile(ctx, filepath.Join(dir, name), z); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := io.WriteString(z, streamEnd); err != nil {
		return err
	}
	return z.Close()
}

func exportFile(ctx context.Context, name string, w io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	record := func(off int64, b []byte) error {
		rec := binary.BigEndian.AppendUint64(nil, uint64(off))
		rec = binary.BigEndian.AppendUint32(rec, uint32(len(b)))
		if _, err := w.Write(rec); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	if err := eachChunk(ctx, f, fi.Size(), record); err != nil {
		return err
	}
	return record(fi.Size(), nil)
}

// Import reads a stream that Export wrote, checks every digest, and keeps the
// image. One that is here already is completed with what it lacks, and nothing
// of it is replaced. Errors wrap ErrCorrupt when the stream is not what it says.
func (s *Store) Import(ctx context.Context, r io.Reader) (hostops.Image, error) {
	im, err := s.importStream(ctx, r)
	if err != nil {
		return hostops.Image{}, fmt.Errorf("import image: %w", err)
	}
	return im, nil
}

func (s *Store) importStream(ctx context.Context, r io.Reader) (im hostops.Image, err error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(decoderBytesMax), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return im, err
	}
	defer z.Close()
	in := bufio.NewReaderSize(z, chunkBytes)
	h, err := readHeader(in)
	if err != nil {
		return im, err
	}
	tmp, err := os.MkdirTemp(s.cfg.Dir, importPrefix)
	if err != nil {
		return im, err
	}
	defer os.RemoveAll(tmp)
	for _, name := range h.Files {
		want, _ := h.Contents.file(name)
		if err := importFile(ctx, in, filepath.Join(tmp, name), want); err != nil {
			return im, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := expect(in, streamEnd); err != nil {
		return im, err
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return im, fmt.Errorf("%w: something follows its end", ErrCorrupt)
	}
	for name, v := range map[string]any{lockName: h.Lock, contentsName: h.Contents, manifestName: h.Manifest} {
		if err := writeJSON(filepath.Join(tmp, name), v); err != nil {
			return im, err
		}
	}
	return s.keep(tmp, h.Digest)
}

// keep makes an imported directory visible, or completes the image that is here.
func (s *Store) keep(tmp, digest string) (hostops.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err := s.open(digest); err == nil {
		if old.Root == "" {
			if err := completeImage(old.Dir, tmp); err != nil {
				return old, err
			}
		}
	} else if err := s.publish(tmp, digest); err != nil {
		return hostops.Image{}, err
	}
	return s.open(digest)
}

// completeImage moves the root disk of a second copy into an image that has
// only its boot files. Both are of one lock; the contents' digests follow the disk.
func completeImage(dir, from string) error {
	if _, err := os.Stat(filepath.Join(from, rootName)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var here, there Contents
	if err := readJSON(filepath.Join(dir, contentsName), &here); err != nil {
		return err
	}
	if err := readJSON(filepath.Join(from, contentsName), &there); err != nil {
		return err
	}
	root, _ := there.file(rootName)
	here.Files = slices.DeleteFunc(here.Files, func(f ContentFile) bool { return f.Name == rootName })
	here.Files = append(here.Files, root)
	tmp := filepath.Join(from, contentsName+".new")
	if err := writeJSON(tmp, here); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, contentsName)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(from, rootName), filepath.Join(dir, rootName)); err != nil {
		return err
	}
	if err := setModes(dir); err != nil {
		return err
	}
	return syncDir(dir)
}

func expect(r io.Reader, want string) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("%w: it ends early: %v", ErrCorrupt, err)
	}
	if string(got) != want {
		return fmt.Errorf("%w: want %q", ErrCorrupt, want)
	}
	return nil
}

// readHeader reads and checks all that can be checked before the data.
func readHeader(r io.Reader) (h streamHeader, err error) {
	if err := expect(r, streamMagic); err != nil {
		return h, err
	}
	var n uint32
	if err := binary.Read(r, binary.BigEndian, &n); err != nil || n > headerBytesMax {
		return h, fmt.Errorf("%w: header of %d bytes: %v", ErrCorrupt, n, err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return h, fmt.Errorf("%w: header: %v", ErrCorrupt, err)
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("%w: header: %v", ErrCorrupt, err)
	}
	if err := checkDigest(h.Digest); err != nil {
		return h, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if h.Lock.Digest() != h.Digest || h.Manifest.Digest != h.Digest || h.Manifest.Recipe != h.Lock.Recipe {
		return h, fmt.Errorf("%w: lock and manifest do not belong to image %.12s", ErrCorrupt, h.Digest)
	}
	boot := []string{kernelName, initrdName}
	if !slices.Equal(h.Files, boot) && !slices.Equal(h.Files, append(boot, rootName)) {
		return h, fmt.Errorf("%w: unexpected files %q", ErrCorrupt, h.Files)
	}
	for _, name := range h.Files {
		if f, ok := h.Contents.file(name); !ok || f.Size < 0 || f.Size > fileBytesMax {
			return h, fmt.Errorf("%w: no digest or wrong size of %s", ErrCorrupt, name)
		}
	}
	return h, nil
}

// importFile reads one file's records.
func importFile(ctx context.Context, r io.Reader, name string, want ContentFile) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(want.Size); err != nil {
		return err
	}
	d := newBlockDigest(want.Size)
	buf := make([]byte, chunkBytes)
	for pos := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var rec [12]byte
		if _, err := io.ReadFull(r, rec[:]); err != nil {
			return fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		off, n := int64(binary.BigEndian.Uint64(rec[:])), int64(binary.BigEndian.Uint32(rec[8:]))
		if n == 0 {
			if off != want.Size {
				return fmt.Errorf("%w: ends at %d of %d", ErrCorrupt, off, want.Size)
			}
			break
		}
		whole := n%blockBytes == 0 || off+n == want.Size // only the last block may be short
		if off < pos || off%blockBytes != 0 || n > chunkBytes || off > want.Size-n || !whole {
			return fmt.Errorf("%w: record of %d bytes at %d", ErrCorrupt, n, off)
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		d.add(off, buf[:n])
		if err := writeSparse(f, off, buf[:n]); err != nil {
			return err
		}
		pos = off + n
	}
	if d.sum() != want.SHA256 {
		return ErrCorrupt
	}
	return f.Sync()
}
