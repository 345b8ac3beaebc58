package scsi

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is what a unit keeps its blocks in. Offsets and lengths are bytes. All
// methods but Close may be called concurrently.
type File interface {
	io.ReaderAt // io.ErrUnexpectedEOF when the file is shorter than asked
	io.WriterAt
	// Sync makes every completed write durable (fdatasync).
	Sync() error
	// Zero makes n bytes at off read as zeroes; with punch their space is
	// given back.
	Zero(off, n int64, punch bool) error
	// Extent tells how many bytes from off on have the same state: backed by
	// space, or a hole.
	Extent(off int64) (n int64, mapped bool, err error)
	// Size is the current length.
	Size() (int64, error)
	Close() error
}

const zeroChunkBytes = 1 << 20

// zeroes is written where a file system cannot make a range zero by itself.
var zeroes = make([]byte, zeroChunkBytes)

type osFile struct {
	f      *os.File
	device *device     // nil for a regular file
	slow   atomic.Bool // cannot say whether data is in memory
}

// OpenFile opens a regular file or a block device for reading and writing.
func OpenFile(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() && fi.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	o := &osFile{f: f}
	if err == nil && !fi.Mode().IsRegular() {
		o.device, err = describe(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume: %w", err), f.Close())
	}
	return o, nil
}

// Granularity is how many bytes, a power of two, discards should be aligned to;
// 0 if nothing is known to be better than anything else.
func (o *osFile) Granularity() int64 {
	if o.device == nil {
		return 0
	}
	return o.device.granularity
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	if err == io.EOF {
		if n == len(p) {
			return n, nil
		}
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// ReadNow reads what is in the page cache (preadv2 with RWF_NOWAIT). False: some
// of it is not, or nobody can tell; p may have changed.
func (o *osFile) ReadNow(p []byte, off int64) bool {
	if o.slow.Load() || len(p) == 0 {
		return false
	}
	v := unix.Iovec{Base: &p[0]}
	v.SetLen(len(p))
	n, _, e := unix.Syscall6(unix.SYS_PREADV2, o.f.Fd(), uintptr(unsafe.Pointer(&v)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	if e == unix.EOPNOTSUPP || e == unix.ENOSYS || e == unix.EINVAL {
		o.slow.Store(true)
	}
	return e == 0 && int(n) == len(p)
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }

func (o *osFile) Close() error { return o.f.Close() }

func (o *osFile) Sync() error {
	for {
		// No retry but for a signal: a second fdatasync after a failure
		// succeeds without the data being there.
		if err := unix.Fdatasync(int(o.f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// Size seeks instead of asking stat, which says 0 for block devices.
func (o *osFile) Size() (int64, error) { return o.f.Seek(0, io.SeekEnd) }

func (o *osFile) Zero(off, n int64, punch bool) error {
	if o.device != nil {
		return o.zeroDevice(off, n, punch)
	}
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if punch {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	if done, err := o.fallocate(mode, off, n); done {
		return err
	}
	return o.writeZeroes(off, n)
}

// fallocate is not done where the file system or device cannot do it.
func (o *osFile) fallocate(mode uint32, off, n int64) (done bool, err error) {
	for {
		switch err := unix.Fallocate(int(o.f.Fd()), mode, off, n); err {
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP, unix.EINVAL, unix.ENODEV, unix.ENOSYS:
			return false, nil
		default:
			return true, err
		}
	}
}

func (o *osFile) writeZeroes(off, n int64) error {
	for n > 0 {
		k := min(n, zeroChunkBytes)
		if _, err := o.f.WriteAt(zeroes[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Extent seeks by SEEK_DATA and SEEK_HOLE on a descriptor whose position
// nothing else depends on: reads and writes here all name their offset. A file
// system or device without them counts as all data.
func (o *osFile) Extent(off int64) (int64, bool, error) {
	size, err := o.Size()
	if err != nil {
		return 0, false, err
	}
	if off >= size {
		return 0, false, io.ErrUnexpectedEOF
	}
	if o.device != nil {
		// Devices have no SEEK_HOLE; asking a thin pool takes another way than a file's.
		return size - off, true, nil
	}
	fd := int(o.f.Fd())
	data, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO: // a hole up to the end
		return size - off, false, nil
	case err == unix.EINVAL || err == unix.EOPNOTSUPP:
		return size - off, true, nil
	case err != nil:
		return 0, false, err
	case data > off:
		return data - off, false, nil
	}
	hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	if err != nil {
		return 0, false, err
	}
	return hole - off, true, nil
}
