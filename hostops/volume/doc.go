// Package volume carves disks out of a storage host: hostops.Volumes on plain
// files in one directory.
//
//	Ensure: absent? ──▶ .part file ──FICLONE──────────────▶ grow ─ fsync ─ rename ─ fsync dir
//	                              └─ else SEEK_DATA copy ─┘
//	        here?   ──▶ grow only
//
// A store belongs to one host of one cluster of hosts, and says so in its mark:
//
//	NewFile: mark is ours ──▶ open      mark is another's ──▶ ErrForeign
//	         no mark: empty ──▶ mark it, open    (Known before ──▶ ErrGone)
//	                  else  ──▶ ErrForeign
//
// A part that was left by a dead process is removed by the next New; one that
// is being written is locked (flock) and left alone. A volume is visible only
// under its final name, and gets it only when its content is on the disk.
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
//   - Removal unlinks. A target that still has the file open keeps its blocks
//     until it closes it, so withdraw first.
package volume
