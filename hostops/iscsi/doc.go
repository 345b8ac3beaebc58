// Package iscsi is the session layer of an iSCSI target (RFC 7143): error
// recovery level 0, one connection per session, CHAP (mutual if configured),
// header and data digests, draining reinstatement, bounded queues. It serves
// Devices and knows nothing of files; scsi.Unit is the Device of vcn.
//
// It may import hostops/iscsi/scsi, and nothing else of ours.
//
//	accept ─▶ login ──────────────▶ bind ─▶ full feature phase
//	           │ address, IQN, CHAP   │       reader ─▶ task ─▶ (R2T ◀─▶ Data-Out) ─▶ run ─▶ Device.Exec
//	           ▼                      │                                              └─▶ Data-In, status
//	        refused                   └─ under one lock with Publish and Withdraw:
//	                                     is this access still in force? is an older
//	                                     session of this initiator port gone?
//
// # Fencing
//
// Who may log in is decided twice: when the login begins, and again when it is
// about to become a session. In between a Publish may have changed everything.
// Publish shuts the target to logins, cuts the sessions that the new access
// list or epoch does not cover, waits until not one of their commands is
// running any more, and only then opens it again. A wait that is given up
// (context) leaves the target shut. Withdraw is the same without the opening.
//
// # Bounds
//
//	connections          1024        Config.MaxConnections
//	login                15 s, 32 exchanges, 64 KiB of text
//	command window       64          commands a session may have outstanding
//	running commands     32 a session, 4096 in all (each may hold an OS thread)
//	data in memory       128 MiB a session, 1 GiB in all; beyond it: TASK SET FULL
//	a stalled initiator  60 s, then its connection is cut
//
// # Decisions and trade-offs
//
//   - One connection per session and recovery level 0, as QEMU's initiator and
//     open-iscsi use it. A digest error ends the connection; initiators retry.
//   - A non-immediate NOP-Out advances the command number: QEMU's initiator
//     sends one every 5 s and hangs otherwise.
//   - A login for a target that is unknown, and one for a target that is not
//     for this initiator, get the same answer, so that a stranger learns no names.
//   - A login without CHAP is never accepted.
//   - CLEAR TASK SET and the resets abort the commands of their own session
//     only; every session gets a unit attention for a reset. An export has one
//     initiator at a time.
//   - Ordered and head-of-queue tags are run as simple ones: initiators that
//     need order wait for the answer.
package iscsi
