// Package labguest reserves a cluster on two hosts as an operator makes them:
// lab machines with systemd, the distribution's libvirtd, "make install", an LVM
// volume group, a trunk that carries tagged frames, and the kernel's iSCSI
// initiator. Its tests have the tag labguest and want root; "make lab-guest"
// runs them.
//
// It may import test/lab, api, rolls and hostops (to build images and to name
// things).
//
//	this machine ── vcnctl, ssh ──┬── trunk ──────────────┬───── public LAN
//	  images, built before        │ eth0                  │ eth0       │ eth1 in br-pub
//	  │ mke2fs -d            ┌────┴───────────┐     ┌─────┴────────────┴──┐
//	  └─────────────────────▶│ host-a         │     │ host-b              │
//	                         │ storage,compute│iSCSI│ gateway             │
//	                         │ VG vcn ─ LVs ──┼────▶│ /dev/sd… ─ frontend │
//	                         │ worker         │ VLAN│                     │
//	                         └────────────────┘     └─────────────────────┘
//
// # Decisions and trade-offs
//
//   - Where the processor has no virtualisation, QEMU emulates a host that has:
//     AMD's, which Linux's KVM uses there as on a real one. A guest then costs
//     about as much as the host's own programs, instead of being emulated by an
//     emulated emulator (tried: a kernel starts in some 6 minutes that way, and
//     in half of one with KVM). The lab's kernel loads no KVM by itself.
//   - All limits are several times those of the end-to-end tests, and there is one
//     cluster with one worker and no roll that was not asked for. What can be
//     tested without a kernel of its own is tested there.
//   - Images are built here and handed to host-a as a disk: to build one there
//     would take half an hour. host-b fetches what it needs from host-a.
//   - The root of a lab machine is new at each start, so that hosts here are
//     restarted by service, and never as machines: test/lab does that.
package labguest
