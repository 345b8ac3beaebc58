package volume

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"vcn/hostops"
)

// unusedImagesMax image volumes without clones are kept for the next one.
const unusedImagesMax = 8

// unusedImages are the whole image volumes that no volume was cloned from, or
// whose clones are gone, oldest first. A clone lives without its image, but
// while it shares most blocks, removing the image frees nothing.
func (st *lvmState) unusedImages() []*lv {
	origins := map[string]bool{}
	for _, v := range st.lvs {
		origins[v.origin] = true
	}
	var out []*lv
	for _, v := range st.lvs {
		if _, ok := v.tagged(tagImage); ok && st.pool != nil && v.pool == st.pool.name && v.has(tagOurs) && !v.has(tagMaking) && !v.open && !origins[v.name] {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *lv) int {
		return cmp.Or(cmp.Compare(a.madeUnix, b.madeUnix), cmp.Compare(a.name, b.name))
	})
	return out
}

// dropOldest removes the oldest unused image volume but keep, and says whether
// it removed one.
func (l *LVM) dropOldest(ctx context.Context, unused []*lv, keep string) bool {
	release, err := l.claims.Claim(ctx, snapshotClaim)
	if err != nil {
		return false
	}
	defer release()
	st, err := l.look(ctx) // one of them may have been cloned since
	if err != nil {
		return false
	}
	now := st.unusedImages()
	for _, v := range unused {
		if v.name == keep || !l.ours(v) || !slices.ContainsFunc(now, func(n *lv) bool { return n.uuid == v.uuid }) {
			continue
		}
		err := l.removeLV(ctx, v, tagOurs)
		if err == nil {
			l.cfg.Log.Info("removed an unused image volume", "volume", v.name)
			return true
		}
		l.cfg.Log.Warn("cannot remove an unused image volume", "volume", v.name, "error", err)
	}
	return false
}

// image returns the volume of an image, imported now if it is not here. One
// import runs at a time: calls for the same image wait for it, and calls for
// others get the disks to themselves after it. st is a look from just now, or nil.
func (l *LVM) image(ctx context.Context, st *lvmState, s hostops.VolumeSpec, size int64) (*lv, error) {
	name := lvName(imagePrefix, s.Image)
	find := func(st *lvmState) (*lvmState, *lv, error) {
		if st == nil {
			var err error
			if st, err = l.observe(ctx); err != nil {
				return nil, nil, err
			}
		}
		v, err := l.mine(st, name)
		if err == nil && v != nil && v.sizeBytes > size {
			err = fmt.Errorf("image %s has %d bytes, the volume only %d: %w", s.Image, v.sizeBytes, size, hostops.ErrInvalid)
		}
		return st, v, err
	}
	if _, v, err := find(st); err != nil || v != nil {
		return v, err
	}
	release, err := l.claims.Claim(ctx, importClaim)
	if err != nil {
		return nil, err
	}
	defer release()
	st, v, err := find(nil)
	if err != nil || v != nil {
		return v, err
	}
	if old := st.lvs[name]; old != nil {
		if err := l.removeLV(ctx, old, tagMaking); err != nil {
			return nil, fmt.Errorf("remove half-made image volume: %w", err)
		}
	}
	if unused := st.unusedImages(); len(unused) > unusedImagesMax {
		l.dropOldest(ctx, unused, "")
	}
	if err := l.importImage(ctx, st, s, name); err != nil {
		l.undo(ctx, name)
		return nil, fmt.Errorf("import image %s: %w", s.Image, err)
	}
	_, v, err = find(nil)
	if err == nil && v == nil {
		err = fmt.Errorf("image volume %s is gone after it was made", name)
	}
	return v, err
}

// importImage fills an image volume, makes it read-only, and keeps it inactive:
// it is there to be cloned.
func (l *LVM) importImage(ctx context.Context, st *lvmState, s hostops.VolumeSpec, name string) error {
	src, err := openBase(s.Base, s.SizeBytes)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if err := l.copyBase(ctx, st, src, name, tagImage+s.Image, roundUp(max(fi.Size(), 1), st.group.extentBytes)); err != nil {
		return err
	}
	path := l.cfg.VolumeGroup + "/" + name
	if err := l.change(ctx, "lvchange", "--yes", "--activate", "n", path); err != nil {
		l.cfg.Log.Debug("image volume stays active", "volume", name, "error", err) // udev may look at it
	}
	l.at("inactive")
	if err := ctx.Err(); err != nil {
		return err
	}
	// One change of the group's metadata, of a volume that is not active.
	if err := l.change(ctx, "lvchange", "--yes", "--permission", "r", "--setactivationskip", "y", "--deltag", tagMaking, path); err != nil {
		return l.explain(ctx, err)
	}
	l.at("imported")
	return nil
}

// dataBytes is what a copy of the file's data takes in blocks of chunk bytes.
func dataBytes(ctx context.Context, src *os.File, chunk int64) (int64, error) {
	total, next := int64(0), int64(0) // next: the first block that is not counted
	err := segments(ctx, src, func(data, hole int64) error {
		from, to := max(data/chunk, next), (hole-1)/chunk+1
		total += max(0, to-from) * chunk
		next = max(next, to)
		return nil
	})
	return total, err
}
