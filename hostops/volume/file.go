package volume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/internal/claims"
	"vcn/internal/durable"
)

const (
	volumeSuffix = ".raw"
	partPrefix   = ".part-"
)

// File keeps volumes as files. It is safe for concurrent use; calls for one
// volume follow each other.
type File struct {
	dir     string
	owner   string
	reserve int64
	log     *slog.Logger
	claims  claims.Set // by volume id
}

var _ hostops.Volumes = (*File)(nil)

// NewFile opens a store and removes what dead processes left half-made. A store
// that is not Known is begun in a directory that is absent or empty. Errors:
// hostops.ErrForeign (another owner's store, or no store at all), ErrGone.
func NewFile(c FileConfig) (*File, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("open volume store: directory %q is not absolute", c.Dir)
	}
	if c.ReserveBytes < 0 {
		return nil, fmt.Errorf("open volume store: reserve of %d bytes", c.ReserveBytes)
	}
	if err := checkOwner(c.Owner); err != nil {
		return nil, fmt.Errorf("open volume store: %w", err)
	}
	f := &File{dir: c.Dir, owner: c.Owner, reserve: c.ReserveBytes, log: c.Log}
	if err := f.open(c.Known); err != nil {
		return nil, fmt.Errorf("open volume store: %w", err)
	}
	if err := f.sweep(); err != nil {
		return nil, fmt.Errorf("open volume store: %w", err)
	}
	return f, nil
}

// sweep removes the parts that nobody writes any more.
func (f *File) sweep() error {
	names, err := filepath.Glob(filepath.Join(f.dir, partPrefix+"*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		part, err := os.OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		err = unix.Flock(int(part.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			f.log.Info("remove half-made volume", "file", name)
			err = os.Remove(name)
		} else if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		part.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove half-made volume: %w", err)
		}
	}
	return nil
}

func (f *File) path(id string) string { return filepath.Join(f.dir, id+volumeSuffix) }

// Ensure is hostops.Volumes. Errors: hostops.ErrInvalid, ErrNotFound (the
// base), ErrNoSpace, ErrForeign (not a plain file, or no longer our store), ErrGone.
func (f *File) Ensure(ctx context.Context, s hostops.VolumeSpec) (hostops.Volume, error) {
	if err := s.Validate(); err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume: %w", err)
	}
	release, err := f.claims.Claim(ctx, s.ID)
	if err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: %w", s.ID, err)
	}
	defer release()
	if err := f.checkMark(); err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: %w", s.ID, err)
	}
	v, err := f.stat(s.ID)
	if errors.Is(err, hostops.ErrNotFound) {
		if err = f.create(ctx, s); err == nil {
			v, err = f.stat(s.ID)
		}
	} else if err == nil && v.SizeBytes < s.SizeBytes {
		if err = f.grow(s); err == nil {
			v, err = f.stat(s.ID)
		}
	}
	if err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: %w", s.ID, noSpace(err))
	}
	return v, nil
}

func (f *File) stat(id string) (hostops.Volume, error) {
	st, err := os.Lstat(f.path(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hostops.Volume{}, hostops.ErrNotFound
	case err != nil:
		return hostops.Volume{}, err
	case !st.Mode().IsRegular():
		return hostops.Volume{}, fmt.Errorf("%s is %s: %w", f.path(id), st.Mode().Type(), hostops.ErrForeign)
	}
	return hostops.Volume{ID: id, Path: f.path(id), SizeBytes: st.Size()}, nil
}

// create makes the volume under a part's name and renames it when it is whole.
func (f *File) create(ctx context.Context, s hostops.VolumeSpec) (err error) {
	var base *os.File
	if s.Base != "" {
		if base, err = openBase(s.Base, s.SizeBytes); err != nil {
			return err
		}
		defer base.Close()
	}
	if err := f.fits(base, s.SizeBytes); err != nil {
		return err
	}
	name := filepath.Join(f.dir, partPrefix+s.ID+"-"+rand.Text())
	part, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer part.Close()
	defer func() {
		if err != nil {
			os.Remove(name)
		}
	}()
	if err = unix.Flock(int(part.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock part: %w", err)
	}
	if base != nil {
		if err = clone(ctx, part, base); err != nil {
			return fmt.Errorf("clone %s: %w", s.Base, err)
		}
	}
	if err = part.Truncate(s.SizeBytes); err != nil {
		return err
	}
	if err = part.Sync(); err != nil {
		return err
	}
	if err = ctx.Err(); err != nil {
		return err
	}
	if err = unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, f.path(s.ID), unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename part: %w", err)
	}
	return durable.SyncDir(f.dir)
}

// openBase opens the image and checks that it fits into a volume of that size.
func openBase(path string, size int64) (*os.File, error) {
	base, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("base %s: %w", path, hostops.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	st, err := base.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("base %s is no plain file: %w", path, hostops.ErrInvalid)
	}
	if err == nil && st.Size() > size {
		err = fmt.Errorf("base %s has %d bytes, the volume only %d: %w", path, st.Size(), size, hostops.ErrInvalid)
	}
	if err != nil {
		base.Close()
		return nil, err
	}
	return base, nil
}

// fits checks, before anything is written, that the data of the clone fits
// now, and the volume at its full size into the store at all.
func (f *File) fits(base *os.File, size int64) error {
	total, free, err := f.space()
	if err != nil {
		return err
	}
	if size > total {
		return fmt.Errorf("%d bytes, the whole store has %d: %w", size, total, hostops.ErrNoSpace)
	}
	if base == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(base.Fd()), &st); err != nil {
		return err
	}
	if need := st.Blocks * 512; need > free {
		return fmt.Errorf("the image has %d bytes of data, free are %d: %w", need, free, hostops.ErrNoSpace)
	}
	return nil
}

// grow extends a volume; the new part reads as zeroes.
func (f *File) grow(s hostops.VolumeSpec) error {
	if err := f.fits(nil, s.SizeBytes); err != nil {
		return err
	}
	file, err := os.OpenFile(f.path(s.ID), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(s.SizeBytes); err != nil {
		return err
	}
	return file.Sync()
}

// Remove is hostops.Volumes.
func (f *File) Remove(ctx context.Context, id string) error {
	if err := hostops.CheckVolumeID(id); err != nil {
		return fmt.Errorf("remove volume: %w", err)
	}
	release, err := f.claims.Claim(ctx, id)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	defer release()
	if err := f.checkMark(); err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	if _, err := f.stat(id); errors.Is(err, hostops.ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	if err := durable.SyncDir(f.dir); err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	return nil
}

// List is hostops.Volumes. A store that went away since it was opened has no
// volumes to list, which is not the same as none: ErrGone.
func (f *File) List(ctx context.Context) ([]hostops.Volume, error) {
	if err := f.checkMark(); err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []hostops.Volume
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		id, ok := strings.CutSuffix(e.Name(), volumeSuffix)
		if !ok || hostops.CheckVolumeID(id) != nil {
			continue
		}
		v, err := f.stat(id)
		if errors.Is(err, hostops.ErrNotFound) || errors.Is(err, hostops.ErrForeign) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		out = append(out, v)
	}
	return out, nil
}

// Capacity is hostops.Volumes: what the file system has, without the reserve.
func (f *File) Capacity(ctx context.Context) (total, free int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, fmt.Errorf("read capacity: %w", err)
	}
	if total, free, err = f.space(); err != nil {
		return 0, 0, fmt.Errorf("read capacity: %w", err)
	}
	return total, free, nil
}

func (f *File) space() (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(f.dir, &st); err != nil {
		return 0, 0, err
	}
	total = int64(st.Blocks)*st.Bsize - f.reserve
	free = int64(st.Bavail)*st.Bsize - f.reserve
	return max(0, total), max(0, free), nil
}

// noSpace adds the meaning that callers look for to the kernel's error.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", hostops.ErrNoSpace, err)
	}
	return err
}
