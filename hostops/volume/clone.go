package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyStepBytes bounds one copy call, and with it the time to notice that the
// context has ended.
const copyStepBytes = 8 << 20

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

// copySparse copies the data of src and leaves its holes as holes.
func copySparse(ctx context.Context, dst, src *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
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
		if err := copyRange(ctx, dst, src, data, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// copyRange copies n bytes at the same offset.
func copyRange(ctx context.Context, dst, src *os.File, at, n int64) error {
	inKernel := true
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := min(n, copyStepBytes)
		done := int64(0)
		if inKernel {
			in, out := at, at
			c, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(step), 0)
			switch {
			case err == nil && c > 0:
				done = int64(c)
			case err == nil || cannotClone(err):
				inKernel = false // some file systems answer 0 for "cannot"
			default:
				return fmt.Errorf("copy: %w", err)
			}
		}
		if !inKernel {
			c, err := io.Copy(io.NewOffsetWriter(dst, at), io.NewSectionReader(src, at, step))
			if err != nil {
				return fmt.Errorf("copy: %w", err)
			}
			if c == 0 {
				return fmt.Errorf("copy: image ends at %d: %w", at, io.ErrUnexpectedEOF)
			}
			done = c
		}
		at, n = at+done, n-done
	}
	return nil
}
