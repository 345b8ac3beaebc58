// Package passable makes directories that other users may pass through without
// seeing what is in them.
//
// It imports nothing of ours.
//
//	vcnd (root) ── makes ──▶ /var/lib/vcn/nodes/r1/frontend/seed-1.iso
//	                            x       x    x     x       owner set by libvirt
//	QEMU (libvirt-qemu) ── opens ──────────────────────────────┘
//
// # Decisions and trade-offs
//
//   - libvirt gives QEMU the files of a guest, by owner, and never the directories
//     on the way to them. So each of those has mode 0711 at least: who knows a
//     name may go on, nobody may list. Secrets beside them are files of mode 0600
//     or lie in directories of mode 0700.
//   - Bits are added to a directory that is there, and none is taken away: what a
//     release before made with 0700 is repaired, what the operator opened stays open.
//   - The modes hold whatever the process's umask is.
package passable
