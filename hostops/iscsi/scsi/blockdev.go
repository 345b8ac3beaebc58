package scsi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device is what a block device says of itself.
type device struct {
	block       int64 // logical block, bytes
	granularity int64 // of discards, bytes; 0: it cannot discard
}

// describe asks the kernel about a block device (Documentation/ABI/stable/
// sysfs-block). A partition has the queue of its disk.
func describe(f *os.File) (*device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat block device: %w", err)
	}
	block, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, fmt.Errorf("block size of %s: %w", f.Name(), err)
	}
	d := &device{block: int64(block)}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, q := range []string{"queue", "../queue"} {
		b, err := os.ReadFile(filepath.Join(dir, q, "discard_granularity"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("queue of %s: %w", f.Name(), err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n > 0 && n&(n-1) == 0 {
			d.granularity = max(n, d.block)
		}
		break
	}
	return d, nil
}

// zeroDevice makes a range of a block device zero. Whole logical blocks are left
// to the device, their edges are written.
//
// A device may punch holes by itself (loop, NVMe, SCSI with WRITE SAME). One that
// only discards (dm-thin) promises nothing of what is read afterwards, and
// ignores the parts of a range that are no whole chunk of its own. So what it was
// told to discard is read again, which costs little where nothing is allocated,
// and what is not zero is written.
func (o *osFile) zeroDevice(off, n int64, punch bool) error {
	from, to := alignUp(off, o.device.block), (off+n)&^(o.device.block-1)
	if from >= to {
		return o.writeZeroes(off, n)
	}
	if err := errors.Join(o.writeZeroes(off, from-off), o.writeZeroes(to, off+n-to)); err != nil {
		return err
	}
	off, n = from, to-from
	if !punch {
		if done, err := o.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n); done {
			return err
		}
		return o.writeZeroes(off, n)
	}
	if done, err := o.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); done {
		return err
	}
	if g := o.device.granularity; g > 0 {
		if from, to := alignUp(off, g), (off+n)&^(g-1); from < to {
			// An error is no harm: what is not zero is written below.
			_ = o.discard(from, to-from)
		}
	}
	return o.writeNonZero(off, n)
}

func alignUp(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }

// discard is the BLKDISCARD of linux/fs.h.
func (o *osFile) discard(off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, o.f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// writeNonZero writes zeroes where there are none yet, so that what has no space
// behind it does not get any.
func (o *osFile) writeNonZero(off, n int64) error {
	const step = 64 << 10
	buf := NewBuffer(zeroChunkBytes)
	defer buf.Free()
	for n > 0 {
		b := buf.B[:min(n, zeroChunkBytes)]
		if _, err := o.ReadAt(b, off); err != nil {
			return err
		}
		for at := 0; at < len(b); at += step {
			k := min(step, len(b)-at)
			if bytes.Equal(b[at:at+k], zeroes[:k]) {
				continue
			}
			if err := o.writeZeroes(off+int64(at), int64(k)); err != nil {
				return err
			}
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}
