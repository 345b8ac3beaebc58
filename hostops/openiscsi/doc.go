// Package openiscsi attaches units of other hosts with the kernel's own iSCSI
// initiator: hostops.Initiators by way of Debian's open-iscsi (iscsid and
// iscsiadm) and of sysfs. A volume of a storage host appears as a block device
// of the compute host, which hands it to the guest.
//
// It may import hostops and internal.
//
//	Attach ─▶ sysfs: ours already? ──same access──▶ look at its size again ─▶ path
//	            │ no, or another portal or secret (logged out first; in use: ErrBusy)
//	            ▼
//	      dial portal ─▶ records (0600, renamed into place) ─▶ iscsiadm --login ─▶ iscsid
//	                                                                                │
//	      path ◀─ LUN and serial are the volume's ◀─ udev's link ◀─ block device ◀──┘ kernel
//	Detach ─▶ nobody uses it ─▶ flush ─▶ iscsiadm --logout ─▶ records gone
//	List   ─▶ /sys/class/iscsi_session + our records
//
// # What is ours
//
// A session whose target begins with hostops.TargetIQN("") and whose initiator
// name is Config.Initiator; a record under such a target with the name of our
// interface record, which is made of that initiator name. The operator's
// /etc/iscsi/initiatorname.iscsi is not touched. A session to a target of ours
// by another initiator name belongs to somebody else on this host: ErrForeign.
//
// # Secrets
//
// iscsiadm takes a password only as an argument, which every user of the host
// reads in its process list. So the node record is written here, in
// open-iscsi's own format (usr/idbm.c of 2.1.8: "name = value" lines; what is
// not said has the compiled default, not iscsid.conf's), mode 0600 under a
// directory of mode 0700, by rename, so that iscsid never reads a half of it.
// iscsiadm --login reads it and hands it to iscsid. It stays while the session
// does: a restarted iscsid takes timeouts and depths from it (and CHAP from the
// kernel). open-iscsi's lock is not taken: nobody else writes these files.
//
// # While the target is away
//
// replacement_timeout is -1: I/O waits until the session is back or is ended
// (README of open-iscsi 8.1.3; 0 fails it at once, N > 0 after N seconds), and
// reopen_max is 0: iscsid tries for ever, also when it is refused. A NOP-Out
// every 5 s that is not answered for 15 s drops the connection. SCSI's five
// retries of a command stay as they are: more would also repeat, without a pause
// and for ever, what a broken disk refuses, and hide it from the hypervisor. So
// a command that was under way in six lost connections in a row fails; the
// hypervisor then pauses its guest (error_policy=stop), who sees no error.
//
// # The host keeps its hands off
//
// A guest's disk is untrusted data. New writes a udev rule to /run: no probing
// for file systems, no LVM activation, no multipath, not ready for systemd. The
// rule makes the by-path link itself. What it cannot do is keep LVM's own
// commands from looking at every disk: the operator sets a filter or a devices
// file (see LVMFilter), and New warns if there is neither. open-iscsi.service
// must not be stopped while guests run: it logs out of every session.
//
// # Bounds
//
//	one Attach or Detach    Config.Timeout, 60 s by default
//	dial                    5 s; then the target counts as away
//	login                   10 s for an answer; a target that is not ready is asked again meanwhile
//	logout                  15 s for an answer, then the session is cut
//	a tool that hangs       given up after its bound; it ends when the kernel lets it
//
// # Decisions and trade-offs
//
//   - The portal is dialled before iscsid is asked: iscsid tries for 10 s and
//     cannot be told to stop, and would log in when nobody wants it any more.
//   - Sessions are read from sysfs, not from iscsiadm's text. The secret in use
//     is there too (for root), so that a crash between a new record and the new
//     login is seen.
//   - "In use" is: mounted, swap, held by device mapper or md, or open in any
//     process. O_EXCL would miss QEMU, and opening a device whose target is away
//     can hang. Users inside the kernel without a holder (LIO's block backstore)
//     are not seen.
//   - A killed hypervisor does not die while its I/O waits for a lost target. It
//     does not count as a user then: ending the session is what lets it die.
//   - After iscsid was restarted while the target is away, it ends no session
//     until the target has answered. Detach is then ErrBusy and prepares the
//     record so that the next restart of iscsid ends the session.
//   - Rejected: speaking to the kernel's iSCSI netlink ourselves. iscsid is what
//     reconnects; two masters of one session is worse than a tool's exit status.
package openiscsi
