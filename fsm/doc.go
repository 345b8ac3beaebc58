// Package fsm is the replicated truth: hosts, reservations and their states,
// leases of VLANs, subnets, MACs and public addresses, volumes, placements with
// generations, rolls and images, tokens, events and idempotency keys, as one
// deterministic state machine under Raft.
//
// It may import api and internal leaves. Nothing here may reach a clock,
// random numbers, the environment or the network: time and every random value
// arrive inside commands, and a test enforces it.
//
//	leader: plan on Snapshot ──▶ Encode(Command, now) ──Raft──▶ Apply: re-check all, then change
//	                                                              │
//	agents ◀── AssignmentFor(host) ◀── Snapshot ◀── memdb ◀───────┘
//	   └── HostReport ──Raft──▶ Apply: states move on
package fsm
