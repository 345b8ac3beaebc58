// Package libvirt is hostops.Domains and hostops.Guests on libvirtd, over its unix socket, in pure
// Go. Nothing outside this package knows libvirt.
//
//	DomainSpec ─parts─▶ domain XML (+ our metadata) ─define─ create ─▶ QEMU
//	                    secret (CHAP, ephemeral) ───┘
//	List:  all domains ─live XML─▶ ours by metadata; ready = agent channel connected
//	Run:   guest-exec ─▶ guest-exec-status, again and again ─▶ exit code, outputs
//	Watch: lifecycle + agent events ─coalesced─▶ one channel; reconnects by itself
//
// What marks a domain as ours is the element <vcn:node> in its metadata, never
// its name. It carries reservation, node, generation, a digest of the
// specification and the time of the start.
//
// It may import hostops and hostops/facts, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - One connection per call, and one per watcher. The library's calls cannot be
//     cancelled; closing the connection under one ends it, and with a connection
//     of its own it ends no other. It costs some milliseconds a call. Rejected: a
//     shared connection, where one hung call holds or breaks all others.
//   - What libvirtd had begun when the context ended goes on there. Every call is
//     idempotent, so the next round finds and completes it.
//   - CHAP secrets are private and ephemeral: they live in libvirtd's memory only,
//     and are set again before each start, so a restarted libvirtd loses nothing.
//   - Machine type pc and an IDE CD-ROM for the seed: small kernels have the PIIX
//     IDE driver and no AHCI, which q35 would need.
//   - Under TCG the guest gets QEMU's maximal CPU without erms, with which
//     copies are 10-15 % slower, and kernel options that skip what emulation
//     makes slow.
//   - Tap names hold the generation and the attempt: a hypervisor process that is
//     dead or out of libvirt's sight still holds its taps, and must not block the
//     next one. Its disk is guarded elsewhere: a newer generation by the target's,
//     the same one by QEMU's own lock on the file. Nothing guards an export from
//     two processes of one generation, so with one the start is refused.
//   - Writes are cached nowhere on the way (cache=none), and an I/O error stops
//     the guest (error_policy=stop) instead of reaching its file system. Ensure
//     lets such a guest go on; if the error stays, it stops again.
//   - Long commands: libvirtd writes to an agent's socket without waiting. When the
//     socket is full after a part, it takes the part as not sent and sends it
//     again, so that the agent reads nonsense and its answers go to the wrong
//     questions (seen with 400 KB under load, libvirt 9.0). So no command is longer
//     than 96 KiB, well below a socket's buffer, and longer input goes in pieces
//     through a file in the guest.
//   - A guest's agent is the guest's: each exchange is bounded in time and size, and
//     few go on at once, since each holds one of libvirtd's 20 workers until the
//     guest answers. An answer of more than 4 MiB (both outputs, in base64) does
//     not pass libvirtd, and is ErrNoAgent. Run takes no claim of its node, so
//     that a command which hangs never keeps the node from being stopped.
package libvirt
