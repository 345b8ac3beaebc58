// Package fsm is the replicated truth: hosts, reservations and their states,
// leases of VLANs, subnets, MACs and public addresses, volumes, placements with
// generations, rolls and images, tokens, events and idempotency keys, as one
// deterministic state machine under Raft.
//
// It may import api and internal leaves. Nothing here may reach a clock,
// random numbers, the environment or the network: time and every random value
// arrive inside commands, and a test enforces it. Where a map is ranged over
// and the order could reach the state, its keys are sorted first; a property
// test applies one log in three ways and compares snapshots byte for byte.
//
//	leader: plan on View ──▶ Encode(Command, now) ──Raft──▶ Apply: re-check all, then change
//	                                                          │
//	agents ◀── AssignmentFor(host) ◀── WatchHost ◀── memdb ◀──┤
//	   └── HostReport ──Raft──▶ Apply ──▶ settle ─────────────┘
//
// Where things are: one file per command (cmd_*.go); settle.go, phases.go and
// ending.go bring a reservation up to what is known; timeline.go is admission;
// assignment.go is what hosts are told; alloc.go chooses identifiers for the
// leader; view.go reads; snapshot.go writes and reads the whole;
// invariants.go says what must never be.
//
// Decisions and trade-offs:
//
//   - A refused command leaves nothing but index and clock. Each command has a
//     transaction of its own that is thrown away; ApplyBatch saves wake-ups
//     only, since memdb has no transactions within one.
//   - Settling is level-triggered. A report, a host's death or an image's
//     arrival does not move states itself: it asks for the reservation to be
//     looked at again. Rejected: a transition per event, which has to be right
//     for every order of events.
//   - Admission walks a timeline per host, so its cost does not depend on how
//     much is booked at other times. The timeline and the bookings are derived:
//     snapshots leave them out.
//   - A reservation that overruns its end, because a host is not clean, blocks
//     its hosts for others that would start now; others further ahead are
//     admitted in the hope that it clears. The invariant "not overbooked" is
//     about what was promised, [Provision, End+Turnaround).
//   - A host that comes back smaller than what is booked on it is accepted, and
//     says so (Host.Short): its addresses matter more than a refusal.
//   - Each host has a version of its assignment: the index of the last command
//     that may have changed it. So long polls wake for their own, and any peer
//     answers with the same version. Rejected: comparing digests of assignments
//     after every apply, which costs every host's assignment each time.
//   - VLANs are leased from the moment of booking, also for the far future, so
//     that 4 094 live reservations are the most there can be.
//   - An image in a report counts as known even if nobody asked for it. Images
//     are a cache: unlike nodes, volumes and networks, a host need not drop
//     what its assignment does not name.
package fsm
