// Package control is what the leader does: it turns specifications into one
// Raft command each, sends the clock on when something is due, says which hosts
// are alive, and keeps image builds going. On a host that does not lead it does
// nothing.
//
// It may import api, fsm, placement, rolls and cluster/pki, and internal leaves.
//
//	httpapi ──Reserve, Release, tokens, join, register, report──▶ Control ──Encode──▶ Applier (Raft)
//	                                                               │  ▲                   │
//	                            Planner: draft ─▶ place ─▶ command │  └── View ◀── FSM ◀──┘
//	RunLeader(ctx), for one term:                                  │
//	   Clockwork  next deadline due        ──▶ ClockAdvance ───────┤
//	   HostWatch  gossip, with hysteresis  ──▶ HostStatusSet, Formed
//	   GC         stuck or dead builders   ──▶ ImageAssign, ReservationFail, ClockAdvance
//
// # How a reservation is planned
//
// A plan has two parts. The draft needs no state: validation, rolls, recipes,
// node names, keys and other secrets; it is made outside any lock. The placing
// needs the latest state: hosts, volumes, VLAN, subnet, addresses, MACs; it is
// made under one lock, on the latest View plus the plans that are placed but not
// yet applied ("in flight"), and takes some hundred microseconds. The command is applied outside the
// lock. So 64 concurrent reserves place one after another, never choose the same
// thing twice, and share the latency of the Raft log.
//
// # Decisions and trade-offs
//
//   - Rejected: planning and applying under one lock (throughput is then 1 / commit
//     latency). Rejected: planning without a lock and trying again on conflict: all
//     planners see the same free VLAN, so of 64 concurrent ones 63 fail in the
//     first round. Conflicts still happen, when something other than a
//     reservation moved the state; then the plan is placed again, replanTriesMax times.
//   - The inventory that plans are placed on is kept for a second and added to by
//     each plan, because making one walks every booking; see inventoryKept for
//     why that is safe.
//   - Apply re-checks everything. The lock and the in-flight list are only a
//     means to propose well.
//   - Identifiers of what runs in parallel are random (UUID version 7, RFC 9562);
//     scarce ones (VLAN, subnet, address, MAC) are the next free after the last one given
//     (fsm's allocators), so that one just given back rests.
//   - The lead time has a fixed formula with a factor learned from what is in the
//     state (see lead.go), so that every leader plans alike.
//   - home, where given, is added to the frontend's disk: the shared home is a part of
//     the frontend's one volume.
//   - A leader whose wall clock is wrong would end every reservation with its
//     first command. So a jump of more than minutes is stamped only when a majority
//     of the hosts that are alive show the same time by gossip (see clock.go);
//     until then commands carry the state's clock, and time stands still. After
//     a week without power all hosts agree, and all that is due happens at once.
//   - A host is dead when gossip has said so for deadAfter; alive again after
//     aliveAfter. A deliberate leave counts at once.
package control
