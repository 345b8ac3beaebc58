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
// Where things are: one file per command (cmd_*.go); promise.go is what a
// reservation holds and whether there is room; timeline.go the sums per host;
// identify.go and alloc.go choose identifiers; settle.go, phases.go, leaving.go
// and ending.go bring a reservation up to what is known; warn.go says when time
// changes it; assignment.go is what hosts are told; view.go reads; snapshot.go
// writes and reads the whole; invariants.go says what must never be.
//
// The life of a reservation, and what it holds in each state:
//
//	waitlisted ──Claim──▶ booked ──Bind──▶ provisioning ──▶ ready ──▶ active ──▶ ending ──▶ ended, failed, cancelled
//	                       ▲  │                 │ fails, and was parked before     │
//	                       │  └─ parkAgain ─┐   └──────────────────────────────────┤
//	                       │                ▼                                      │
//	                       └── Resume ── parked ◀──────────────────────────────────┘
//
//	waitlisted   its name
//	booked       seats: cores, memory, storage on hosts, one of the identifiers; disks if it was parked (Kept)
//	provisioning, ready, active: the same hosts, VLAN, subnet, addresses, MACs, volumes, secrets
//	ending       all of that until each host is clean; during a grace (StopAt) its nodes still run
//	parked       volumes and their storage, secrets, its name
//
// Bounds are in limits.go. Identifiers bound the clusters at any instant:
// each books one of the pseudo host Identifiers.
//
// Decisions and trade-offs:
//
//   - A booked reservation is a promise with a witness: seats that show it can be
//     kept. They may be moved (Reseat) until Bind, which gives hosts, identifiers,
//     volumes and secrets at once. Rejected: promises by sums per class, which
//     may turn out not to fit any host.
//   - Identifiers are chosen in Apply at Bind, the next free ones after those
//     given last. Rejected: the leader chooses, which makes two bookings at once
//     conflict for no reason; leasing at booking, which would bound all that is
//     booked ahead by 4 094.
//   - Alternatives of one question share a Hold, which keeps of each host the
//     largest of them at any instant. Rejected: their sum, which holds what can
//     never be taken.
//   - The waitlist is in order of arrival. Who does not fit lets others by, which
//     Claim and Book count; at PassedMax nobody gets by any more whose time
//     overlaps that window (ErrTurn).
//   - A worker leaves in stages that fail closed (leaving.go). What the frontend
//     said before the worker began to leave does not count (LeaveIndex): since
//     then it may have been given jobs.
//   - Parking stops nodes cleanly, withdraws their disks, and is over when every
//     host has reported, dead ones too: that a dead host runs no node of a cluster
//     is what makes it safe to resume it elsewhere, most of all where the same
//     host has the disk and opens it without any export that could be withdrawn.
//     Resuming also raises the generation of every disk. Rejected: to park
//     without a dead host's word, which trusts one of the two alone.
//   - What was parked and fails on its way back is parked again, with its disks,
//     for as long as was promised or its slot would have held them. Only release,
//     reinstalling and the end of its time delete them. Its storage is booked
//     through all of it, so that going back never needs room that is not there.
//   - To be changed, a reservation may keep what it had of a host that has shrunk
//     meanwhile; it cannot get more of it. Rejected: to admit it anew, where even
//     making it shorter would be refused.
//   - A batch of log entries is one transaction of the store. What a refused
//     command wrote is taken back by a list of its writes. Rejected: a
//     transaction per command, which copies the upper part of every index for
//     each; checking everything before the first write, which says all rules twice.
//   - Settling is level-triggered. A report, a host's death or an image's
//     arrival does not move states itself: it asks for the reservation to be
//     looked at again. Rejected: a transition per event, which has to be right
//     for every order of events.
//   - Admission walks a timeline per host, so its cost does not depend on how
//     much is booked at other times. A timeline is kept in parts, since that of
//     Identifiers grows with all that is booked. Rejected: a row per step, which
//     costs an index entry each; one slice, which is copied whole for each booking.
//     Timelines and bookings are derived: snapshots leave them out.
//   - A reservation that overruns its end, because a host is not clean, blocks
//     its hosts for others that would start within a Turnaround; others further
//     ahead are admitted in the hope that it clears. The invariant "not
//     overbooked" is about what was promised, not about overruns.
//   - A host that comes back smaller than what is booked on it is accepted, and
//     says so (Host.Short): its addresses matter more than a refusal. Promises
//     that this puts in danger say missing_resources.
//   - Each host has a version of its assignment: the index of the last command
//     that may have changed it. So long polls wake for their own, and any peer
//     answers with the same version. Rejected: comparing digests of assignments
//     after every apply, which costs every host's assignment each time.
//   - An image in a report counts as known even if nobody asked for it. Images
//     are a cache: unlike nodes, volumes and networks, a host need not drop
//     what its assignment does not name.
package fsm
