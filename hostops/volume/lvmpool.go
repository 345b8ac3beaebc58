package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/hostops"
)

const (
	// A block of the pool is what the first write into a hole allocates and
	// zeroes, what a write to a shared one copies, and what a discard must cover
	// to free it: small is better, until the metadata, which stays below
	// metadataBytesMax, cannot map the pool any more.
	chunkBytes      = 64 << 10
	chunkBytesLarge = 256 << 10
	largePoolBytes  = 8 << 40
	// mappingBytes of metadata for each block of the pool are twice the kernel's
	// estimate for one mapping (thin-provisioning.rst, "Metadata device"):
	// volumes that share an image's blocks each map them.
	mappingBytes     = 2 * 48
	metadataBytesMin = 16 << 20
	// metadataBytesMax is a little under the 15.81 GiB that dm-thin can use.
	metadataBytesMax = 15 << 30
	// growthPart of the group stays free: without it nothing could be done
	// about metadata that is full.
	growthPart   = 100
	poolBytesMin = 64 << 20
	// statusTries looks, statusPause apart, find the pool's device.
	statusTries = 4
	statusPause = 100 * time.Millisecond
)

// sizePool says how large the pool's data and metadata shall be, in bytes,
// multiples of an extent. The metadata's spare is as large as the metadata.
func sizePool(c LVMConfig, g group) (data, metadata, chunk int64, err error) {
	free := g.freeExtents * g.extentBytes
	chunk = chunkBytes
	if max(free, c.PoolBytes) > largePoolBytes {
		chunk = chunkBytesLarge
	}
	metadata = c.MetadataBytes
	if metadata == 0 {
		size := free
		if c.PoolBytes > 0 {
			size = c.PoolBytes
		}
		metadata = min(max(size/chunk*mappingBytes, metadataBytesMin), metadataBytesMax)
	}
	metadata = roundUp(metadata, g.extentBytes)
	data = roundUp(c.PoolBytes, g.extentBytes)
	if data == 0 {
		data = (free - 2*metadata - free/growthPart) / g.extentBytes * g.extentBytes
	}
	if data < poolBytesMin || data+2*metadata > free {
		return 0, 0, 0, fmt.Errorf("volume group %s has %d bytes free; a thin pool wants %d and twice %d for its metadata: %w: add a disk with: vgextend %s /dev/…",
			g.name, free, max(data, poolBytesMin), metadata, hostops.ErrNoSpace, g.name)
	}
	return data, metadata, chunk, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// makePool creates the thin pool with our mark on it from the first moment.
func (l *LVM) makePool(ctx context.Context, g group) error {
	data, metadata, chunk, err := sizePool(l.cfg, g)
	if err != nil {
		return err
	}
	l.cfg.Log.Info("make thin pool", "pool", l.poolPath(), "bytes", data, "metadata_bytes", metadata, "chunk_bytes", chunk)
	return l.change(ctx, "lvcreate", "--yes", "--type", "thin-pool", "--name", l.cfg.Pool,
		"--size", bytesArg(data), "--poolmetadatasize", bytesArg(metadata), "--poolmetadataspare", "y", "--chunksize", bytesArg(chunk),
		"--zero", "y", "--discards", "passdown", // errorwhenfull is lvmOptions': lvcreate 2.03.16 refuses the option
		"--addtag", tagOurs, "--addtag", ownerTag(l.cfg.Owner), l.cfg.VolumeGroup)
}

func bytesArg(n int64) string { return strconv.FormatInt(n, 10) + "b" }

// checkPool says whose the pool is. Errors: ErrGone without one,
// hostops.ErrForeign for another's.
func (l *LVM) checkPool(st *lvmState) error {
	p := st.pool
	if p == nil {
		return fmt.Errorf("%w: volume group %s has no thin pool %s any more: are its disks there?", ErrGone, l.cfg.VolumeGroup, l.cfg.Pool)
	}
	if !slices.Contains(p.tags, ownerTag(l.cfg.Owner)) {
		for _, t := range p.tags {
			if strings.HasPrefix(t, tagOwner) {
				return fmt.Errorf("%s is the store of %q, and this is %q: %w: give this host another pool or group, or, if nobody needs those volumes any more, remove it with: lvremove %s",
					l.poolPath(), tagOwnerText(t), l.cfg.Owner, hostops.ErrForeign, l.poolPath())
			}
		}
		return fmt.Errorf("%s is there and carries no mark of ours: %w: name another pool, or, if this thin pool is for this host's volumes, say so with: lvchange --addtag %s %s",
			l.poolPath(), hostops.ErrForeign, ownerTag(l.cfg.Owner), l.poolPath())
	}
	if !p.isPool() {
		return fmt.Errorf("%s carries our mark and is no thin pool (%s): if nothing is in it, remove it with: lvremove %s",
			l.poolPath(), strings.Join(p.layout, ","), l.poolPath())
	}
	return nil
}

// repairPool sets what must hold for a pool that holds several tenants' data,
// also where the operator made it.
func (l *LVM) repairPool(ctx context.Context, p *lv) error {
	if !p.zeroes {
		if err := l.change(ctx, "lvchange", "--yes", "--zero", "y", l.poolPath()); err != nil {
			return fmt.Errorf("make new blocks of %s read as zeroes: %w", l.poolPath(), err)
		}
	}
	if p.whenFull != "error" {
		if err := l.change(ctx, "lvchange", "--yes", "--errorwhenfull", "y", l.poolPath()); err != nil {
			return fmt.Errorf("make a full %s answer with errors: %w", l.poolPath(), err)
		}
	}
	if p.discards != "passdown" {
		// A pool made with "ignore" has to be inactive for that; space is given
		// back to the pool with "nopassdown" as well.
		if err := l.change(ctx, "lvchange", "--yes", "--discards", "passdown", l.poolPath()); err != nil {
			l.cfg.Log.Warn("thin pool does not pass discards on to its disks", "pool", l.poolPath(), "discards", p.discards, "error", err)
		}
	}
	return nil
}

// readStatus asks the kernel, without waiting for the pool's own I/O.
func (l *LVM) readStatus(ctx context.Context) (poolStatus, error) {
	// Before its first volume the pool is a device of its own name, then one
	// below that, and for a moment in between there is neither.
	name := dmEscape(l.cfg.VolumeGroup) + "-" + dmEscape(l.cfg.Pool)
	for try := 1; ; try++ {
		out, err := l.run(ctx, false, "dmsetup", "status", "--noflush", "--target", "thin-pool", name+"-tpool")
		if err != nil && ctx.Err() == nil {
			out, err = l.run(ctx, false, "dmsetup", "status", "--noflush", "--target", "thin-pool", name)
		}
		if err == nil {
			return parsePoolStatus(string(out))
		}
		if try == statusTries {
			return poolStatus{}, err
		}
		select {
		case <-ctx.Done():
			return poolStatus{}, ctx.Err()
		case <-time.After(statusPause):
		}
	}
}

// ErrPool: the thin pool cannot be written any more, and an operator has to see to it.
var ErrPool = errors.New("thin pool is broken")

// Level says how well a store is.
type Level int

const (
	LevelOK     Level = iota
	LevelWarn         // much of it is used: an operator should act
	LevelFull         // new volumes are refused; those that are there can be written
	LevelBroken       // writes fail
)

func (v Level) String() string {
	return [...]string{"ok", "warning", "full", "broken"}[v]
}

// Health is what an operator should know about a store.
type Health struct {
	Level                        Level
	DataPercent, MetadataPercent float64
	Text                         string // what is wrong and what to do; empty for LevelOK
}

// judge is pure: how well is the pool?
func judge(c LVMConfig, g group, s poolStatus) Health {
	pool := c.VolumeGroup + "/" + c.Pool
	h := Health{DataPercent: s.dataPercent(), MetadataPercent: s.metaPercent()}
	growData := "remove volumes, or grow it with: lvextend -L +… " + pool
	growMeta := "grow it with: lvextend --poolmetadatasize +… " + pool
	full, warn := float64(c.FullPercent), float64(c.WarnPercent)
	set := func(l Level, format string, args ...any) Health {
		h.Level, h.Text = l, "thin pool "+pool+": "+fmt.Sprintf(format, args...)
		return h
	}
	switch {
	case g.missingPVs > 0:
		return set(LevelBroken, "%d disks of its volume group are missing: see pvs", g.missingPVs)
	case s.mode == "Fail" || s.mode == "Error":
		return set(LevelBroken, "the kernel gave it up (%s): its metadata is damaged or its disk fails: stop what uses it, then: lvconvert --repair %s", s.mode, pool)
	case s.mode == "ro" && h.MetadataPercent >= full:
		return set(LevelBroken, "its metadata is full (%.1f %%) and it is read-only: %s, then deactivate it, and activate it again or, where that fails, lvconvert --repair %s",
			h.MetadataPercent, growMeta, pool)
	case s.mode == "ro":
		return set(LevelBroken, "it is read-only after an error of its metadata: deactivate it, then: lvconvert --repair %s", pool)
	case s.mode == "out_of_data_space":
		return set(LevelFull, "no block is free (%.1f %%), writes of guests fail: %s", h.DataPercent, growData)
	case h.MetadataPercent >= full:
		return set(LevelFull, "its metadata is %.1f %% full (limit %d %%), new volumes are refused: %s", h.MetadataPercent, c.FullPercent, growMeta)
	case h.DataPercent >= full:
		return set(LevelFull, "its data is %.1f %% full (limit %d %%), new volumes are refused: %s", h.DataPercent, c.FullPercent, growData)
	case h.MetadataPercent >= warn:
		return set(LevelWarn, "its metadata is %.1f %% full: %s", h.MetadataPercent, growMeta)
	case h.DataPercent >= warn:
		return set(LevelWarn, "its data is %.1f %% full: %s", h.DataPercent, growData)
	case s.needsCheck:
		return set(LevelWarn, "its metadata wants a check: deactivate it, then: lvconvert --repair %s", pool)
	case g.mdaBytes > 0 && percentOf(2*g.mdaFree, g.mdaBytes) < 100-warn:
		return set(LevelWarn, "the volume group's own metadata area has room for %d more bytes, some hundred for each volume: make groups with: pvcreate --metadatasize 64m", g.mdaFree)
	case !s.errorsWhenFull:
		return set(LevelWarn, "it would queue writes when it is full: lvchange --errorwhenfull y %s", pool)
	}
	return h
}

// err is why nothing new can be made, or nil.
func (h Health) err() error {
	switch h.Level {
	case LevelFull:
		return fmt.Errorf("%w: %s", hostops.ErrNoSpace, h.Text)
	case LevelBroken:
		return fmt.Errorf("%w: %s", ErrPool, h.Text)
	}
	return nil
}

// space is what the pool offers: total as far as it may ever be filled, and
// what of it is free. Unused image volumes count as free: they make room.
func space(c LVMConfig, st *lvmState) (total, free int64) {
	total = st.pool.sizeBytes/100*int64(c.FullPercent) - c.ReserveBytes
	used := st.status.dataUsed * st.pool.chunkBytes
	for _, v := range st.unusedImages() {
		used -= v.dataBytes()
	}
	return max(0, total), max(0, total-max(0, used))
}
