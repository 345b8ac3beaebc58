// Package fake is a fake host: all of hostops in memory, with state, faults
// and delays. Agents, simulations and demonstrations run against it.
//
//	New(Config) ─▶ Host ─▶ Domains Guests Networks Volumes Targets Initiators Images
//	                └ knobs: Fail, Delay, Hang, Heal; Crash, PowerOff, Pause, Reboot, Handle, Silence, SetJobs, …
//	hosts that share a Fabric check each other's iSCSI exports
//
// It does no input or output and starts no goroutine but those of Watch, and
// all its time is package time's: inside a testing/synctest bubble a fake host
// lives in virtual time.
//
// It may import hostops and rolls, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - Faults strike before anything is changed. What a real driver leaves half-made
//     is shown by the knobs that damage the state (BreakNetwork, FailExport).
//   - Readiness is a timer, and a guest is a few programs in memory: those of roll
//     base that vcn calls, as far as vcn sees them, and what a test adds.
//   - With a Fabric, a guest's initiator logs in when it starts, and a guest whose
//     session is cut stops on an I/O error at once; a real one stops at its next
//     write. So a simulation that starts a node before the old generation is
//     fenced sees the old guest go down, as it would. A guest on a device that
//     Initiators attached waits instead.
package fake
