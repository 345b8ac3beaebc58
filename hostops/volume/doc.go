// Package volume carves disks out of a storage host: hostops.Volumes on plain
// files in one directory (File), or on thin logical volumes of one pool (LVM).
//
//	File.Ensure: absent? ──▶ .part file ──FICLONE──────────────▶ grow ─ fsync ─ rename ─ fsync dir
//	                                   └─ else SEEK_DATA copy ─┘
//	             here?   ──▶ grow only
//
//	LVM.Ensure:  absent, blank ──────────▶ lvcreate ──────────────────────────────────┐
//	             absent, an image's ─▶ image volume here? ─▶ lvcreate -s ─▶ lvextend ─┤ mark of half-made off,
//	                                     └no: lvcreate, copy, fsync, read-only        │ flush
//	             absent, copy of a base ─▶ lvcreate, copy, fsync ─────────────────────┘
//	             here? ──▶ activate, grow only
//
// A store belongs to one host of one cluster of hosts, and says so in its mark,
// a file in the directory or a tag of the thin pool:
//
//	New: mark is ours ──▶ open         mark is another's ──▶ ErrForeign
//	     nothing there: make and mark it, open    (Known before ──▶ ErrGone)
//	     something without a mark ──▶ ErrForeign, with the command that marks it
//
// What was left half-made by a dead process is removed by the next New; what is
// being written is locked (flock) or open, and left alone. A volume is visible
// only when its content is on the disk: under its final name, or without the tag
// of a half-made one.
//
// It may import hostops, internal leaves and golang.org/x/sys, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - Volumes are sparse, so the sum of their sizes may exceed the store. Ensure
//     refuses what cannot be written now (the clone's data) or ever (larger than
//     the whole store); booking full sizes is the planner's work. Rejected:
//     fallocate, which makes every clone cost its full size in time and space.
//   - The clone is flushed before it is renamed, which costs the time of writing
//     the data once where there is no reflink. Rejected: rename first, flush
//     later: after a power failure such a volume would exist and be empty.
//   - qcow2 overlays start faster than a sparse copy, but tie every volume to its
//     image for ever and put a second format below iSCSI. Rejected.
//   - Every call but Capacity reads the mark first. It costs microseconds, and
//     without it a file system that is not mounted, or not any more, looks like a
//     host that lost all its volumes, or another cluster's volumes like
//     volumes that nobody wants. Rejected: the file system's UUID, which is the
//     same for every directory on it.
//   - Removal unlinks a file. A target that still has it open keeps its blocks
//     until it closes it, so withdraw first. A logical volume that is open is
//     ErrBusy.
//
// # LVM
//
//   - The command line of lvm2, with its JSON reports, and the kernel's own
//     status of the pool (dmsetup). Rejected: liblvm (gone upstream), D-Bus (one
//     more daemon), device-mapper ioctls (LVM would not know). What a command
//     writes to people is put into errors and never decided by: after a failure
//     the group is looked at again.
//   - A command that changes something is never killed: LVM suspends devices in
//     between, and a pool that stays suspended blocks all its guests.
//   - Volumes are vcn.v.<id>, image volumes vcn.i.<image>; tags say vcn, whose,
//     and which. Only what has the name, the tags and the pool is ours, and
//     lvremove compares UUID and tag once more under LVM's own lock. A group may
//     hold anything else; the pool, too.
//   - A pool that the operator made is taken only if he tags it
//     (lvchange --addtag vcn.owner:… VG/pool; the refusal spells it out). Its
//     settings are then made those of a pool of ours.
//   - The pool zeroes new blocks: what a volume reads was written to it or its
//     image. It answers with errors when it is full: QEMU stops the guest, and
//     goes on when there is space. Waiting instead, LVM's default, hangs
//     everything for a minute and then fails all the same.
//   - Blocks of 64 KiB (256 KiB in pools above 8 TiB): the least that dm-thin
//     takes, since a clone's first write to a block copies it and a discard frees
//     only whole ones. Metadata is twice what maps the pool once (0.15 %), with a
//     spare as large for repair; 1 % of the group stays free, to grow metadata by.
//   - Total is FullPercent (95 %) of the pool less the reserve, so a planner that
//     books full sizes leaves the rest to images and metadata's rounding.
//   - Image volumes are a cache. A clone shares blocks and needs its image volume
//     no more. One without clones is removed when space is short, or when there
//     are more than 8, oldest first; until then its space counts as free. One
//     with clones stays: removing it would free little.
//   - Sizes are rounded up to extents, and reported so: it is what a guest sees.
//   - Power failures. Each message to dm-thin commits the pool's metadata, so a
//     snapshot that lvcreate has made is on the disk; the image's data is flushed
//     before the image counts as whole; and Ensure ends with a flush of the new
//     volume, for LVM writes the group's metadata past the page cache but not
//     past a disk's own cache. What lies on another disk than the pool's is not
//     flushed so; LVM keeps the same text on every disk of the group.
//   - LVM reads and writes all of a group's metadata as text with every change,
//     and by default has room for 0.5 MB of it: some 800 volumes. Health warns
//     early. For more: pvcreate --metadatasize 64m before vgcreate.
//   - Rejected: thick volumes (they must be zeroed for the next tenant and cannot
//     be cloned); growing the pool by ourselves (the rest of the group is the
//     operator's; dmeventd does it where he says so).
package volume
