// Package iscsi is the session layer of an iSCSI target (RFC 7143): error
// recovery level 0, one connection per session, CHAP (mutual if configured),
// header and data digests, draining reinstatement, bounded queues. It serves
// Devices and knows nothing of files; scsi.Unit is the Device of vcn.
//
// It may import hostops/iscsi/scsi, and nothing else of ours.
//
//	accept ─▶ login ──────────────▶ bind ─▶ full feature phase
//	  │ slot   │ address, IQN, CHAP   │       reader ─▶ task ─▶ (R2T ◀─▶ Data-Out) ─▶ worker ─▶ Device.Exec
//	  ▼        ▼                      │         │                                       │
//	refused  refused                  │         └─ quick: data in memory ─▶ queue ◀─────┘ Data-In, status
//	                                  │                                       └─▶ one writev for all of it
//	                                  └─ under one lock with Publish and Withdraw:
//	                                     is this access still in force? is an older
//	                                     session of this initiator gone?
//
// # Fencing
//
// Who may log in is decided twice: when the login begins, and again when it is
// about to become a session. In between a Publish may have changed everything.
// Publish shuts the target to logins, cuts the sessions that the new access
// list or epoch does not cover, waits until not one of their commands is
// running any more, and only then opens it again. A wait that is given up
// (context) leaves the target shut. Withdraw is the same without the opening.
// Another epoch also ends the reservations of the old one (Device.Renew).
//
// # Bounds
//
//	connections          1024        Config.MaxConnections
//	  of strangers       1/16 of it, 8 an address: addresses that no access list holds
//	  without a session  1/4 of it an address that one holds: logins, discovery
//	login                15 s, 32 exchanges, 64 KiB of text
//	command window       64          commands a session may have outstanding
//	running commands     32 a session, 4096 in all (each may hold an OS thread)
//	data in memory       128 MiB a session, 1 GiB in all; beyond it: TASK SET FULL
//	unsent answers       16 to what is no task (pings, text, rejects), then the
//	                     session is not read any more; 128 and those of tasks otherwise
//	a burst of data-out  60 s from when it is the oldest one asked for, then the
//	                     connection is cut: Config.DataTimeout
//	lines in the log     1 a second for refused logins, 1 in 10 s for refused connections
//	a stalled initiator  60 s, then its connection is cut: Config.SendTimeout
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
//   - A Data-Out whose number shows that one is missing fails its command (0Bh,
//     47h/05h) and not the session: nothing else is lost (RFC 7143 7.9).
//   - One session for each initiator name and target, whatever its ISID:
//     libiscsi comes back with another one and sends again what the old session
//     may still have in work. So one initiator cannot use two paths at once.
//   - A read of at most 64 KiB whose data is in the page cache is answered by the
//     reader itself, without waking anybody (preadv2 with RWF_NOWAIT); everything
//     else runs in workers, so that no disk holds up a session. Answers go through
//     a queue that whoever is free sends, many with one system call. The reader
//     never waits for a socket: what it does not take goes on in the background.
//   - CLEAR TASK SET and the resets abort the commands of their own session
//     only; every session gets a unit attention for a reset. An export has one
//     initiator at a time.
//   - Ordered and head-of-queue tags are run as simple ones: initiators that
//     need order wait for the answer.
//
// # Fuzzing
//
// FuzzLogin, FuzzPDU, FuzzText, FuzzReadPDU here and FuzzCDB in scsi run their
// seeds (f.Add and testdata/fuzz) as ordinary tests. To let one search:
//
//	go test -run '^$' -fuzz '^FuzzPDU$' -fuzztime 5m ./hostops/iscsi
//	go test -run '^$' -fuzz '^FuzzCDB$' -fuzztime 5m ./hostops/iscsi/scsi
package iscsi
