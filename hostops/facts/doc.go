// Package facts reads what a host can offer: processors, memory, how guests
// can run, versions.
//
//	/proc/cpuinfo ─flags─▶ KVM? ─/dev/kvm opens─▶ kvm, else tcg (and why)
//	/proc/meminfo, osrelease, qemu --version ───▶ hostops.Facts
//
// It may import hostops, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - A host has KVM only if its processor shows vmx or svm. /dev/kvm alone is not
//     enough: it exists on machines where guests under it hang.
//   - Memory is MemTotal, not MemAvailable: what is used now says nothing about
//     what can be promised. What the host keeps for itself is configuration.
package facts
