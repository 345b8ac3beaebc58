// Package lio serves volumes by the kernel's own iSCSI target (LIO), which it
// drives through configfs. It knows files and directories of the kernel and
// nothing of tables: what is to be is told with every call, what is is read.
//
// It may import hostops.
//
//	Publish(export) ─▶ observe ─▶ fence ─▶ furnish ─▶ portals ─▶ enable
//
//	/sys/kernel/config/target
//	  core/iblock_N/vcn.OWNER.VOLUME      a backstore: device, or file (fileio_N)
//	  iscsi/IQN/tpgt_1
//	    auth/userid                       vcn.OWNER.VOLUME: the mark
//	    lun/lun_1/unit ─▶ core/...
//	    acls/INITIATOR                    one for each host with access
//	      auth/{userid,password}  lun_1/unit  tag = "vcn GENERATION DIGEST"
//	    np/ADDRESS:PORT
//	    enable
//
// # Fencing
//
// A raised generation shuts the target (enable=0: logins hear "service
// unavailable", which initiators repeat; the kernel cuts the sessions), then
// takes each access entry away. The removal of an entry's directory is the
// barrier: the kernel keeps it until the last session of the entry is gone, and
// a session goes when the last of its commands has come back from the storage.
// enable=0 is none: it passes over sessions that are already ending. Then
// the new entries are made and the target is opened. The generation is in each
// entry's tag, so a process that died between its table and the kernel finds
// what is behind. An access entry that changes within a generation is cut alone
// (a new password, then a new command window, which makes the kernel cut),
// others go on. Withdraw is the same, to the last directory.
//
// A login that is under way while sessions are cut becomes a session that nobody
// cuts; it keeps the barrier shut (and has no unit). Therefore, when the barrier
// takes long, the target is switched to and fro, which cuts it.
//
// # Calls that hang
//
// Whatever may wait for commands in flight is done by a small process (rmdir
// or sh): a thread that waits in the kernel cannot be killed, and with one
// the target process could not end, and its successor not start. One such call
// runs for a volume at a time; the next operation waits for it. A new process
// finds those of its predecessor in /proc, by their arguments, and waits for
// them where it must. Each volume has an adapter of its own, since the kernel
// locks an adapter while it opens or closes a device.
//
// # Bounds
//
// 64 commands in a session's window; 512 MiB in one descriptor of UNMAP; paths of
// 255 bytes without a comma; CHAP users and secrets of 255 bytes that do not
// begin with NULL (the kernel's word for none); names in lower case; one secret
// for an initiator of a volume.
//
// # Weaker than the embedded engine
//
//   - Source address. The kernel's entries know names and secrets. A session from
//     another address is let in if both are right, seen within a second and cut;
//     it may come again. A packet filter in front of the portal is the remedy.
//   - Before CHAP. The kernel reads the first request of one login at a time for a
//     portal, and waits 15 s for it; and one login at a time for a target. Whoever
//     reaches the portal and says nothing delays the logins of all volumes.
//     Sessions that are there go on. The same remedy.
//   - One initiator, two sessions. A session is replaced by one of the same
//     initiator port only (RFC 7143 6.3.5). The kernel's initiator keeps its port;
//     libiscsi (QEMU) reconnects as another one, and what the old connection has in
//     flight may land after what the new one sends. Within a generation only.
//   - A failed flush. The initiator hears of it once (of a file: as often as the
//     kernel finds an error), a later flush may succeed without the data. Nothing
//     in configfs tells of it, so it is not listed. A volume that the embedded
//     engine has seen fail stays listed as failed and is write-protected. Devices
//     are better off: the kernel's target has no cache above them.
//   - A grown volume is not announced (no unit attention); whoever asks hears it.
//   - Reservations, EXTENDED COPY and GET LBA STATUS are refused: a reservation
//     would outlive its generation, a copy could name other units, and the kernel
//     has not the third (QEMU says so once for each range and goes on).
//   - The connection of a cut session closes when its commands have come back.
//
// # Decisions and trade-offs
//
//   - INQUIRY strings and the serial number are the embedded engine's. The NAA is
//     not: LIO has its own kind (6h, with digits of the serial number), so
//     /dev/disk/by-id/wwn-* differs between engines; a guest on virtio sees neither.
//     The digits are the first 25 hexadecimal ones of the volume id.
//   - Discovery is refused to all while no target but ours is there: by itself the
//     kernel tells anybody what the name they say may use. With an operator's
//     targets it is left as it is, and shows to a name what that has entries for.
//   - A file is buffered, and the disk says that it has a write cache. Holes read
//     as zeroes, so UNMAP and WRITE SAME with UNMAP promise zeroes; a device may
//     ignore a discard, so there only UNMAP is offered, without a promise.
//   - The kernel's target listens in the first network namespace only: elsewhere,
//     and in containers, Available says no.
//   - rtslib's saved configuration is not used: the table is the truth, and is
//     told again after a reboot. Until then nothing listens; a name the kernel does
//     not know is "service unavailable", never "no such target".
package lio
