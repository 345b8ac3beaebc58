// Package scsi is the disk that a target serves: one SCSI block device (SPC-4,
// SBC-3) over one file or block device. It knows nothing of iSCSI.
//
// It may import gotgt and golang.org/x/sys, and nothing of ours.
//
//	session ──Exec(nexus, cdb, out)──▶ Unit ──┬─ our handlers ─▶ File (os file, faults, …)
//	      │                            │      └─ kept commands ─▶ gotgt api.SCSILu.PerformCommand
//	      │                            ├─ unit attentions, reservations: may this initiator do it now?
//	      │                            └─ recover: a panic is HARDWARE ERROR, never the end of the process
//	      └─ExecNow: a READ that nothing stands in the way of, from memory
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
//     FUA, as on a disk. With Config.WriteThrough it is off: every write is
//     durable before it is answered. Flushes that wait at the same time share one
//     fdatasync (group commit), which begins after the last of them arrived.
//   - A power loss takes what was answered and not flushed, and the next flush
//     cannot know. So a Mark is made durable before the first such write after a
//     flush is answered (at most two small fsyncs in 10 s), and whoever opens the
//     unit in another boot finds it: initiators hear POWER ON OCCURRED (29h/01h)
//     instead of 29h/00h, which none of them acts upon; Lost is for whoever can
//     restart the guest. The mark errs on the safe side: a unit that was busy
//     counts as having lost something.
//   - Reservations, persistent and RESERVE(6), belong to an initiator's name. They
//     live in memory: APTPL is refused, a new process and a new generation start
//     without any. A change waits for the commands that run, so when PREEMPT (or
//     PREEMPT AND ABORT, which therefore is the same) is answered, nothing of the
//     preempted initiator is written any more. Refused as well: registration for
//     others (SPEC_I_PT), REGISTER AND MOVE.
//   - The first session of an initiator hears of a power on, every later one of
//     the loss of its nexus (29h/07h). QEMU and the kernel repeat the command.
//   - Not served, because it could not be kept: SANITIZE (what is under a file
//     keeps old blocks), WRITE ATOMIC (no file system promises it). EXTENDED COPY
//     copies within the unit only, and is done when it is answered.
//   - Block devices: no SEEK_HOLE, so everything counts as mapped. What cannot
//     punch holes (dm-thin) is discarded in whole chunks, read again, and zeroes
//     are written where it is not zero: a discard promises nothing. Writes to a
//     full thin pool fail as late as the flush unless WriteThrough is on.
//   - Zeroing goes to the file system: UNMAP and WRITE SAME with UNMAP punch a
//     hole, WRITE SAME of zeroes without it makes an allocated zero range; where
//     the file system can do neither, zeroes are written.
package scsi
