package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vcn/hostops"
)

const (
	// takeImageTries bounds how often an image volume may vanish between its
	// being found and its being cloned.
	takeImageTries = 3
	// snapshotClaim is held while image volumes are cloned or removed;
	// importClaim while one is filled. No volume is called so.
	snapshotClaim = "snapshot "
	importClaim   = "import "
	// closedTries looks, closedPause apart, find out whether a volume is in use.
	closedTries = 4
	closedPause = 250 * time.Millisecond
)

// Ensure is hostops.Volumes. The size is rounded up to whole extents of the
// volume group (4 MiB by default). Errors: hostops.ErrInvalid, ErrNotFound (the
// base), ErrNoSpace, ErrForeign; ErrGone, ErrPool.
func (l *LVM) Ensure(ctx context.Context, s hostops.VolumeSpec) (hostops.Volume, error) {
	if err := s.Validate(); err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume: %w", err)
	}
	release, err := l.claims.Claim(ctx, s.ID)
	if err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: %w", s.ID, err)
	}
	defer release()
	v, err := l.ensure(ctx, s)
	if err != nil {
		return hostops.Volume{}, fmt.Errorf("ensure volume %s: %w", s.ID, err)
	}
	return v, nil
}

func (l *LVM) ensure(ctx context.Context, s hostops.VolumeSpec) (hostops.Volume, error) {
	st, err := l.observe(ctx)
	if err != nil {
		return hostops.Volume{}, err
	}
	name := lvName(volumePrefix, s.ID)
	v, err := l.mine(st, name)
	if err != nil {
		return hostops.Volume{}, err
	}
	size := roundUp(s.SizeBytes, st.group.extentBytes)
	switch {
	case v == nil:
		v, err = l.create(ctx, st, s, name, size)
	case v.sizeBytes < size:
		v, err = l.grow(ctx, st, v, size)
	default:
		err = l.activate(ctx, v)
	}
	if err != nil {
		return hostops.Volume{}, err
	}
	return l.volume(s.ID, v), nil
}

// mine returns the whole volume or image of that name, nil without one; what
// was left half-made by an earlier call counts as none. Error: ErrForeign.
func (l *LVM) mine(st *lvmState, name string) (*lv, error) {
	v := st.lvs[name]
	if v == nil {
		return nil, nil
	}
	if !l.ours(v) {
		return nil, fmt.Errorf("logical volume %s/%s carries no mark of this host: %w", l.cfg.VolumeGroup, name, hostops.ErrForeign)
	}
	if v.has(tagMaking) {
		return nil, nil
	}
	return v, nil
}

// create makes the volume. One that takes several steps carries the mark of a
// half-made one until all of it is on the disk.
func (l *LVM) create(ctx context.Context, st *lvmState, s hostops.VolumeSpec, name string, size int64) (v *lv, err error) {
	if old := st.lvs[name]; old != nil {
		if err := l.removeLV(ctx, old, tagMaking); err != nil {
			return nil, fmt.Errorf("remove what was left half-made: %w", err)
		}
	}
	if err := l.fits(ctx, st, size, 0, lvName(imagePrefix, s.Image)); err != nil {
		return nil, err
	}
	tag := tagVolume + s.ID
	if s.Base == "" {
		if err := l.createThin(ctx, name, size, tag); err != nil {
			return nil, err
		}
		return l.settled(ctx, name)
	}
	defer func() {
		if err != nil {
			l.undo(ctx, name)
		}
	}()
	if s.Image != "" {
		err = l.cloneImage(ctx, st, s, name, size)
	} else {
		var src *os.File
		if src, err = openBase(s.Base, s.SizeBytes); err == nil {
			err = errors.Join(l.copyBase(ctx, st, src, name, tag, size), src.Close())
		}
	}
	if err != nil {
		return nil, err
	}
	l.at("filled")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := waitNode(ctx, l.devPath(name)); err != nil {
		return nil, err
	}
	if err := l.change(ctx, "lvchange", "--yes", "--deltag", tagMaking, l.cfg.VolumeGroup+"/"+name); err != nil {
		return nil, l.explain(ctx, err)
	}
	l.at("whole")
	return l.settled(ctx, name)
}

// settled makes durable what LVM wrote about the volume, and reads its size. A
// flush of a thin volume commits the pool's metadata and empties the disks'
// write caches, in which the volume group's own metadata may still be.
func (l *LVM) settled(ctx context.Context, name string) (*lv, error) {
	path := l.devPath(name)
	if err := waitNode(ctx, path); err != nil {
		return nil, err
	}
	f, err := os.Open(path) // not for writing: udev would look at it again
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("flush %s: %w", path, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read size of %s: %w", path, err)
	}
	return &lv{name: name, sizeBytes: size, active: true}, nil
}

// undo removes what a failed call left, whatever the context says. What cannot
// be removed now is when the volume is asked for again, or at the next start.
func (l *LVM) undo(ctx context.Context, name string) {
	ctx = context.WithoutCancel(ctx)
	st, err := l.look(ctx)
	if err == nil {
		if v := st.lvs[name]; v != nil && l.ours(v) && v.has(tagMaking) {
			err = l.removeLV(ctx, v, tagMaking)
		}
	}
	if err != nil {
		l.cfg.Log.Warn("half-made volume is left for later", "volume", name, "error", err)
	}
}

func (l *LVM) tagArgs(tags ...string) []string {
	var args []string
	for _, t := range append(tags, tagOurs, ownedTag(l.cfg.Owner)) {
		args = append(args, "--addtag", t)
	}
	return args
}

// createThin makes a thin volume that reads as zeroes, in one change of the
// group's metadata. No signature needs to be wiped from it.
func (l *LVM) createThin(ctx context.Context, name string, size int64, tags ...string) error {
	args := append([]string{"--yes", "--type", "thin", "--virtualsize", bytesArg(size), "--thinpool", l.cfg.Pool, "--name", name,
		"--wipesignatures", "n", "--setactivationskip", "n"}, l.tagArgs(tags...)...)
	if err := l.change(ctx, "lvcreate", append(args, l.cfg.VolumeGroup)...); err != nil {
		return l.explain(ctx, err)
	}
	l.at("created")
	return waitNode(ctx, l.devPath(name))
}

// copyBase makes a volume that shares nothing, and flushes it.
func (l *LVM) copyBase(ctx context.Context, st *lvmState, src *os.File, name, tag string, size int64) error {
	need, err := dataBytes(ctx, src, st.pool.chunkBytes)
	if err != nil {
		return err
	}
	if err := l.fits(ctx, st, size, need, name); err != nil {
		return err
	}
	if err := l.createThin(ctx, name, size, tag, tagMaking, tagData+strconv.FormatInt(need, 10)); err != nil {
		return err
	}
	// Past the page cache: whole blocks of the pool are written at once and need
	// no zeroing first, and no memory is taken from guests.
	dst, err := os.OpenFile(l.devPath(name), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := copyData(ctx, dst, src, directAlign); err != nil {
		return l.explain(ctx, fmt.Errorf("copy %s: %w", src.Name(), err))
	}
	l.at("copied")
	if err := dst.Sync(); err != nil {
		return l.explain(ctx, fmt.Errorf("copy %s: flush: %w", src.Name(), err))
	}
	l.at("flushed")
	return dst.Close()
}

// cloneImage makes a thin snapshot of the image's volume and grows it.
func (l *LVM) cloneImage(ctx context.Context, st *lvmState, s hostops.VolumeSpec, name string, size int64) error {
	for try := 1; ; try++ {
		image, err := l.image(ctx, st, s, size)
		if err != nil {
			return err
		}
		st = nil // old by now
		gone, err := l.snapshot(ctx, image, s.ID, name, size)
		if err == nil || !gone || try == takeImageTries {
			return err
		}
	}
}

// snapshot clones an image volume. gone says that it was not there any more.
func (l *LVM) snapshot(ctx context.Context, image *lv, id, name string, size int64) (gone bool, err error) {
	release, err := l.claims.Claim(ctx, snapshotClaim)
	if err != nil {
		return false, err
	}
	defer release()
	args := append([]string{"--yes", "--autobackup", "n", "--snapshot", "--name", name, "--permission", "rw", "--setactivationskip", "n", "--activate", "y"},
		l.tagArgs(tagVolume+id, tagMaking)...)
	if err := l.change(ctx, "lvcreate", append(args, l.cfg.VolumeGroup+"/"+image.name)...); err != nil {
		st, lookErr := l.look(ctx)
		return lookErr == nil && st.lvs[image.name] == nil, l.explain(ctx, err)
	}
	l.at("snapshot")
	if image.sizeBytes >= size {
		return false, nil
	}
	if err := l.extend(ctx, name, size, "--autobackup", "n"); err != nil {
		return false, err
	}
	l.at("grown")
	return false, nil
}

func (l *LVM) extend(ctx context.Context, name string, size int64, options ...string) error {
	args := append([]string{"--yes", "--size", bytesArg(size)}, options...)
	if err := l.change(ctx, "lvextend", append(args, l.cfg.VolumeGroup+"/"+name)...); err != nil {
		return l.explain(ctx, err)
	}
	return nil
}

// grow extends a whole volume, in use or not; the new part reads as zeroes.
func (l *LVM) grow(ctx context.Context, st *lvmState, v *lv, size int64) (*lv, error) {
	if err := l.fits(ctx, st, size, 0, ""); err != nil {
		return nil, err
	}
	if err := l.activate(ctx, v); err != nil {
		return nil, err
	}
	if err := l.extend(ctx, v.name, size); err != nil {
		return nil, err
	}
	return l.settled(ctx, v.name)
}

// fits checks before anything is made that the pool takes new volumes, that the
// size is not more than it can ever hold, and that need bytes can be written
// now. Unused image volumes but keep are removed where that helps.
func (l *LVM) fits(ctx context.Context, st *lvmState, size, need int64, keep string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		total, free := space(l.cfg, st)
		if size > total {
			return fmt.Errorf("%d bytes, the whole pool has %d: %w", size, total, hostops.ErrNoSpace)
		}
		h := judge(l.cfg, st.group, st.status)
		idle := st.unusedImages()
		idleBytes := int64(0)
		for _, v := range idle {
			idleBytes += v.dataBytes()
		}
		if h.Level < LevelFull && need <= free-min(free, idleBytes) {
			return nil
		}
		if h.Level == LevelBroken || !l.dropOldest(ctx, idle, keep) {
			if err := h.err(); err != nil {
				return err
			}
			return fmt.Errorf("%d bytes of data, thin pool %s has %d free: %w", need, l.poolPath(), free, hostops.ErrNoSpace)
		}
		var err error
		if st, err = l.observe(ctx); err != nil {
			return err
		}
	}
}

// explain looks why a command failed: what LVM says is text, what the pool says
// is fact.
func (l *LVM) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	st, lookErr := l.observe(ctx)
	if lookErr != nil {
		return errors.Join(lookErr, err)
	}
	if why := judge(l.cfg, st.group, st.status).err(); why != nil {
		return fmt.Errorf("%w (%v)", why, err)
	}
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", hostops.ErrNoSpace, err)
	}
	return err
}

// removeLV removes one logical volume, if it is still the one that was seen and
// carries tag: both are compared under LVM's lock, by its own selection. Error:
// ErrBusy if it is open.
func (l *LVM) removeLV(ctx context.Context, v *lv, tag string) error {
	if err := l.waitClosed(ctx, v); err != nil {
		return err
	}
	path := l.devPath(v.name)
	err := l.change(ctx, "lvremove", "--yes", "--select", fmt.Sprintf(`lv_uuid="%s" && lv_tags={"%s"}`, v.uuid, tag), l.cfg.VolumeGroup)
	if _, gone := os.Stat(path); err == nil && v.active && errors.Is(gone, fs.ErrNotExist) {
		return nil
	}
	st, lookErr := l.look(ctx)
	if lookErr != nil {
		return errors.Join(lookErr, err)
	}
	now := st.lvs[v.name]
	switch {
	case now == nil || now.uuid != v.uuid:
		return nil
	case now.open:
		return fmt.Errorf("%s is open: %w", path, hostops.ErrBusy)
	case err == nil && !now.has(tag):
		return nil // it became whole, or another's, in the meantime
	case err == nil:
		return fmt.Errorf("%s is still there after it was removed", path)
	}
	return l.explain(ctx, err)
}

// waitClosed waits a moment for udev, which opens a device that was just
// written. LVM would wait too, for 5 s, and with the group locked.
func (l *LVM) waitClosed(ctx context.Context, v *lv) error {
	for try := 1; v.open; try++ {
		if try == closedTries {
			return fmt.Errorf("%s is open: %w", l.devPath(v.name), hostops.ErrBusy)
		}
		select {
		case <-time.After(closedPause):
		case <-ctx.Done():
			return ctx.Err()
		}
		st, err := l.look(ctx)
		if err != nil {
			return err
		}
		now := st.lvs[v.name]
		if now == nil || now.uuid != v.uuid {
			return nil
		}
		v = now
	}
	return nil
}

// Remove is hostops.Volumes. A volume that a target or a guest has open is
// hostops.ErrBusy. Its blocks go back to the pool.
func (l *LVM) Remove(ctx context.Context, id string) error {
	if err := hostops.CheckVolumeID(id); err != nil {
		return fmt.Errorf("remove volume: %w", err)
	}
	release, err := l.claims.Claim(ctx, id)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	defer release()
	st, err := l.lookAtOurs(ctx)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	name := lvName(volumePrefix, id)
	v := st.lvs[name]
	if v == nil {
		return nil
	}
	if _, err := l.mine(st, name); err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	if err := l.removeLV(ctx, v, tagVolume+id); err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	return nil
}
