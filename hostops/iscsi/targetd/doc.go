// Package targetd is the target process: volumes of this host served over
// iSCSI, driven over a unix socket. It is a process of its own, so that
// restarting or upgrading the daemon never stops a disk.
//
// It may import hostops and hostops/iscsi with its sub-packages.
//
//	daemon ── Client ── JSON over HTTP, unix socket 0600 ──▶ Server ─▶ exports.json (fsync + rename)
//	(hostops.Targets)                                          │
//	                                                         engine
//	                              ┌────────────────────────────┴───────────┐
//	                              ▼ embedded                               ▼ LIO
//	          iscsi.Server ─▶ scsi.Unit ─▶ file or device    lio.Engine ─▶ configfs ─▶ kernel
//	                ▲                                                        ▲
//	guest ── QEMU's or the kernel's initiator ── iSCSI, CHAP ────────────────┘
//
// # Two engines
//
// What is common is here: table, generations, validation, order, one operation
// for a volume at a time. An engine opens, serves, cuts and drains. Config.Engine
// says which: auto is LIO where the kernel has it, and says why not elsewhere
// (Client.Engine). A table that one engine served is served by the other after a
// change; what LIO still has of ours is ended, drained, before the embedded
// engine opens a volume. What LIO does not do as well is in its package doc: the
// source address is checked after the login, a failed flush is not remembered, a
// growth is not announced. Its sessions outlive this process: Close leaves them,
// the next start adopts what is as the table says and cuts what is not. A volume
// that was withdrawn when a process died, and drains in the kernel still, is
// listed as failed, without a name, until it is withdrawn again.
//
// # Publish, in order
//
//	refuse a lower generation ─▶ write the table ─▶ shut the target to logins
//	  ─▶ cut and drain the sessions that are not covered any more ─▶ open it
//
// The table is written first, so that a crash in between comes up with the new
// access and never with the old. A session belongs to the generation it logged
// in to; a raised generation cuts it even if its secret stayed the same. When a
// caller gives up waiting, the target stays shut and the same Publish, repeated,
// goes on waiting.
//
// # Start and end
//
// At start the table is read and everything in it is published before the
// portal listens: an initiator that reconnects after a crash never hears that
// its target does not exist. (After a mere restart LIO never stopped listening; a
// name it does not know is "service unavailable", which initiators repeat.) A
// volume that cannot be opened is listed as failed and holds up nobody else;
// publishing it again tries again. At the end (context) control is closed; the
// embedded engine's sessions too, commands drained, volumes flushed.
//
// # Decisions and trade-offs
//
//   - A unit whose fdatasync failed stays failed across restarts of the process:
//     the table remembers it before the initiator hears of it. Withdraw forgets
//     it; whoever publishes the volume again afterwards takes it as it is.
//   - A table that cannot be read or is of an unknown format ends the process:
//     without knowing who was fenced off, nobody is served.
//   - Withdraw does not flush: the data is in the page cache of this host, where
//     whoever opens the volume next sees it. Closing the process flushes.
//   - JSON over HTTP rather than a format of our own: the control path is a few
//     calls per reservation, and curl can speak it when something is wrong.
//   - Every call is idempotent, so the client repeats what a restart of the
//     process interrupted.
package targetd
