package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// copyBufferBytes is read and written at once, and bounds the time to notice
	// that the context has ended; copyBuffers are under way.
	copyBufferBytes = 1 << 20
	copyBuffers     = 3
	// zeroPieceBytes that are all zero are left out: an image whose file is not
	// sparse gives a clone that is. It is the block of a thin pool.
	zeroPieceBytes = chunkBytes
	// directAlign is what O_DIRECT may ask of offsets, lengths and addresses.
	directAlign = 4096
)

var zeroPiece [zeroPieceBytes]byte

// clone gives dst the content of src: by sharing blocks where the file system
// can, else by copying what is not a hole. dst must be empty.
func clone(ctx context.Context, dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err == nil {
		return nil
	}
	if !cannotClone(err) {
		return err
	}
	return copySparse(ctx, dst, src)
}

// cannotClone says whether FICLONE failed for want of support (ioctl_ficlone(2)
// lists these), not because of the disk.
func cannotClone(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// copySparse copies the data of src and leaves its holes as holes. It
// reads and writes: copy_file_range, page by page between two file systems, took
// three times as long as cp in the lab.
func copySparse(ctx context.Context, dst, src *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	return copyData(ctx, dst, src, 1)
}

// segments calls f with the begin and the end of each piece of data.
func segments(ctx context.Context, src *os.File, f func(data, hole int64) error) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		} else if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find hole: %w", err)
		}
		if err := f(data, hole); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// piece is a part of a file on its way.
type piece struct {
	b  []byte
	at int64
}

// copyData copies what is neither hole nor zero to a place that reads as zeroes,
// and reads ahead while it writes. Writes begin and end at multiples of align, a
// power of two of at most directAlign, and may so pass the end of src.
func copyData(ctx context.Context, dst io.WriterAt, src *os.File, align int64) error {
	// The kernel reads more ahead then; without it the copy is the same.
	_ = unix.Fadvise(int(src.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	stop := make(chan struct{})
	pieces, free := make(chan piece), make(chan []byte, copyBuffers)
	for range copyBuffers {
		free <- directBuffer(copyBufferBytes)
	}
	var readErr, writeErr error
	go func() {
		defer close(pieces)
		readErr = readPieces(ctx, src, align, pieces, free, stop)
	}()
	for p := range pieces {
		if writeErr == nil {
			if writeErr = writePieces(dst, p.b, p.at); writeErr != nil {
				close(stop)
			}
		}
		free <- p.b[:copyBufferBytes]
	}
	if writeErr != nil {
		return writeErr
	}
	return readErr
}

// directBuffer begins at a multiple of directAlign, as O_DIRECT wants it.
func directBuffer(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (directAlign - 1)
	return b[skip : skip+n]
}

func readPieces(ctx context.Context, src *os.File, align int64, pieces chan<- piece, free <-chan []byte, stop <-chan struct{}) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	return segments(ctx, src, func(data, hole int64) error {
		hole = roundUp(hole, align)
		for at := data / align * align; at < hole; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var b []byte
			select {
			case b = <-free:
			case <-stop:
				return nil
			}
			n := min(hole, (at/copyBufferBytes+1)*copyBufferBytes) - at
			in := min(n, st.Size()-at)
			if _, err := io.ReadFull(io.NewSectionReader(src, at, in), b[:in]); err != nil {
				return fmt.Errorf("read at %d: %w", at, err)
			}
			clear(b[in:n])
			select {
			case pieces <- piece{b[:n], at}:
			case <-stop:
				return nil
			}
			at += n
		}
		return nil
	})
}

// writePieces writes runs of pieces that are not all zero.
func writePieces(dst io.WriterAt, b []byte, at int64) error {
	flush := func(from, to int) error {
		if from == to {
			return nil
		}
		if _, err := dst.WriteAt(b[from:to], at+int64(from)); err != nil {
			return fmt.Errorf("write at %d: %w", at+int64(from), err)
		}
		return nil
	}
	from := 0
	for i := 0; i < len(b); {
		end := min(len(b), i+zeroPieceBytes-int((at+int64(i))%zeroPieceBytes))
		if bytes.Equal(b[i:end], zeroPiece[:end-i]) {
			if err := flush(from, i); err != nil {
				return err
			}
			from = end
		}
		i = end
	}
	return flush(from, len(b))
}
