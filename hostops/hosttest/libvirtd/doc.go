// Package libvirtd runs private libvirtd processes, each in a network and a
// mount namespace of its own, so that several "physical hosts" fit on one
// machine and none of them touches the machine's own libvirt.
//
//	Dir/run  ── bound over ─▶ /run/libvirt        (sockets; state of running guests)
//	Dir/etc  ── bound over ─▶ /etc/libvirt        (so no network or guest autostarts)
//	Dir/lib, cache, log ────▶ /var/{lib,cache,log}/libvirt
//
// It serves tests and the demonstration. It imports nothing of ours.
//
// # Decisions and trade-offs
//
//   - The process runs in the foreground as our child, but does not die with us:
//     StopDir ends one that another process has started.
//   - Stop ends libvirtd and not the guests, as a restart in real life does;
//     KillGuests ends what is left of them, found by their pid files and checked
//     by their command line.
//   - Guests run as libvirt-qemu, as on a Debian host, so that a test sees when one
//     cannot reach its files. Debian's libvirt-daemon-system brings that user.
//   - No cgroups, no AppArmor, no mount namespaces of guests, no virtlogd: each needs
//     a part of the system that a namespace on a shared machine has not.
//   - The first define probes QEMU for seconds. The result can be taken over from
//     another directory (CapsCacheFrom).
package libvirtd
