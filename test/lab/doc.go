// Package lab makes machines in which drivers meet a real kernel: Debian's cloud kernel
// and systemd under QEMU, with 802.1Q, LVM, LIO and the iSCSI initiator, which the
// kernel of a developer's machine or of CI need not have.
//
// It may import hostops/images (initrd, ways of fetching), hostops/facts (KVM or TCG)
// and test/lab/wire. It needs root, and the tools that deploy/install-deps installs.
//
//	package list + root.sh ─▶ mmdebstrap ─▶ trim ─▶ mke2fs -d ─▶ Cache/<digest>/{root.img vmlinuz initrd}
//	                                                                │ never written
//	 test, vcn-lab                      initrd + labd + token       ▼
//	  Machine ──Start, Boot──▶ QEMU: root.img (snapshot) + spare0… + lab0 + eth0…
//	   │  Command, Put, Get ─▶ 127.0.0.1:port ─▶ user network ─▶ lab0 ─▶ labd (wire)
//	   │  Kill = power cut      ┌──────────── Cable: namespace without a name ───┐
//	   └─ Capture (pcap) ◀──────┤ tap ─┐                       ┌─ tap (other one) │
//	                            │      └── bridge "cable" ─────┘                  │
//	  Cable.Dial, Command ──────┤          host's Address                         │
//	                            └──────────────────────────────────────────────────┘
//
// Two ways of use. Test files with the build tag lab in a driver's package, functions
// TestLab…, run inside a machine by: go test -exec "vcn-lab exec" (see vcnlab).
// Tests that need two machines, a wire or a power cut run on the host and use this package;
// For and CableFor clean up after a test and keep the logs of one that failed.
//
// # What a machine is
//
//   - Root file system: fresh at every boot; what is written to it goes with the
//     machine's process. Only spare disks remember, over Kill and PowerOff too.
//   - Spare disks: /dev/disk/by-id/virtio-spareN. With Cache "none" QEMU goes past the
//     host's page cache; a power cut then loses what the machine had not flushed itself.
//   - When Start or Boot returns, udevd has settled. udevd, dbus, LVM's and iscsid's sockets
//     are on; tgt, libvirtd, open-iscsi's logins and all timers are off until a test
//     starts them. No generators run, root has no password, nothing else listens.
//   - Cards: lab0 (192.0.2.15, for the agent alone) and eth0… in the order of NICs, down and
//     without addresses.
//   - Kernel panics and oopses end the machine; the console log says why.
//
// # Bounds
//
// 16 processors, disks, 8 cards, 256 MiB of memory at least; 5 minutes to boot; a
// request of 4 MiB; see wire for the rest. Two roots are kept in the cache, those used last.
//
// # Decisions and trade-offs
//
//   - The agent travels in the initrd, so that working on it rebuilds no root. The
//     root's digest covers the package names and the recipe, not the packages' versions: a
//     cached root ages until its directory is removed. Rejected: resolving versions at
//     every start (seconds, and a network).
//   - The control connection is a card of the machine, not a virtio-serial port: TCP gives
//     flow control and independent streams for nothing. A test that takes lab0 down cuts its
//     own branch.
//   - Machine and cable end with the process: QEMU by the kernel's parent-death signal, the
//     namespace because it has no name, the directory by the next Start if the
//     process could not. On SIGINT, SIGTERM and SIGHUP machines are closed first; that is
//     why this package, against habit, watches signals while there are any.
//   - Taps have no virtio-net header: no segmentation offload crosses them, so what
//     is captured is what a wire would carry, and MTUs mean something. It costs throughput.
//   - A tap outlives its QEMU, and nothing of this host has its addresses: a dead machine
//     does not answer, not even by a reset.
//   - QEMU's user network resets connections in a burst: see wire about hello.
//   - Detached machines (vcn-lab up) have no cards: there is no process to hold the cable.
package lab
