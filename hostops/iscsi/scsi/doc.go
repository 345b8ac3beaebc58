// Package scsi is the disk that a target serves: one SCSI block device (SPC-4,
// SBC-3) over one file or block device. It knows nothing of iSCSI.
//
// It may import gotgt and golang.org/x/sys, and nothing of ours.
//
//	session ──Exec(nexus, cdb, out)──▶ Unit ──┬─ our handlers ─▶ File (os file, faults, …)
//	                                   │      └─ kept commands ─▶ gotgt api.SCSILu.PerformCommand
//	                                   └─ recover: a panic is HARDWARE ERROR, never the end of the process
//
// # What is gotgt's and what is ours
//
// The logical unit (api.SCSILu made by NewSCSILu over a backing store that we
// register) is gotgt's. Its PerformCommand is wrapped; it serves TEST UNIT
// READY, SEND DIAGNOSTIC and READ CAPACITY(10). Every other command is ours,
// because each of these was measured wrong in gotgt v0.2.2:
//
//   - READ, WRITE and their verify forms answer BUSY on an I/O error, read a
//     short file as zeroes, and copy every byte twice;
//   - WRITE SAME does nothing and says GOOD; UNMAP does not check its range
//     and overflows at 4 GiB; COMPARE AND WRITE does not compare;
//   - SYNCHRONIZE CACHE hides which write failed, and the next one succeeds;
//   - READ CAPACITY(16) lacks LBPRZ, GET LBA STATUS answers nothing at all;
//   - INQUIRY gives a serial and an NAA that depend on the order of set-up and
//     claims target port groups it does not answer for; MODE SENSE ignores the
//     allocation length and writes past short buffers;
//   - START STOP and persistent reservations go through process-wide maps
//     without a lock.
//
// # Decisions and trade-offs
//
//   - An error is never swallowed: EIO is MEDIUM ERROR, ENOSPC and EDQUOT are
//     7/27/07 (space allocation failed write protect), so that a guest stops
//     instead of losing data.
//   - After one failed fdatasync the kernel may have dropped dirty pages, so a
//     later success would be a lie: the unit refuses writes and flushes for
//     good, and tells its owner once. Reads go on, so that data can be saved.
//   - The write cache is on (WCE): data is durable after SYNCHRONIZE CACHE or
//     FUA, as on a disk.
//   - Zeroing goes to the file system: UNMAP and WRITE SAME with UNMAP punch a
//     hole, WRITE SAME of zeroes without it makes an allocated zero range; where
//     the file system can do neither, zeroes are written.
//   - Persistent reservations are refused (invalid operation code): an export
//     has one initiator at a time, fenced by its generation. A cluster file
//     system between guests would need them.
package scsi
