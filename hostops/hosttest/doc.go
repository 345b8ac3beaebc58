// Package hosttest is the conformance suite of hostops: one function for each
// interface, which real drivers and the fake host must both pass. A factory
// gives each case an empty environment of its own, and the few things that
// only the implementation can do: a foreign object, damage, a base image.
//
//	fake_test.go, libvirt/rooted_test.go, … ─factory─▶ TestDomains(t, factory) ─▶ cases
//
// Its sub-package libvirtd runs private libvirtd processes.
//
// It may import hostops and rolls, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - The cases know the contract only; what is special to one driver (golden
//     XML, frames between namespaces) is tested beside that driver.
//   - Faults are injected by the implementation's own tests: no common knob
//     exists for breaking a kernel.
package hosttest
