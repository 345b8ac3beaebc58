// Package agent makes one host hold what the replicated state assigns to it.
// It is level-triggered: whatever woke it, it reads everything of ours that is
// on the host, compares it with the assignment, starts idempotent steps for
// the differences, and reports what it sees.
//
// It may import api, fsm (assignments and reports as data), hostops and rolls.
//
//	Source.Assignment (long poll) ─┐                      ┌─▶ steps: one goroutine per object,
//	domain events ─────────────────┼─▶ observe ─▶ diff ───┤    bounded, cancelled when unwanted,
//	a step ended, resync tick ─────┘   (drivers)  (pure)  │    retried with backoff; those in
//	                                                      │    nodes go through hostops.Guests
//	                                                      └─▶ report ─▶ Source.Report
//
// Decisions:
//
//   - Nothing is removed on the word of the copy kept on disk: that copy only
//     lets a host that restarts alone go on running what it ran. Removing
//     waits for an assignment that a Raft peer has answered since the start.
//   - A step runs beside the loop, never in it: a volume that takes a minute to
//     clone does not keep a node of another cluster from starting. Each object
//     has at most one step at a time, so steps of one object never race. How many
//     run at once is bounded by kind (poolLimits): guests that stay silent, which
//     their owners may let them, hold only slots of those that wait for guests.
//   - An object counts as held, and is reported, while a step for it still
//     runs. The VLAN of a cluster can so never return to the pool under a step
//     that is about to make a link.
//   - A disk of another host is attached in the step that starts its node, and
//     detached in the one that removes it, between the domain and the files: a
//     file of the node names its volume, so a restart in between goes on with
//     it. What is attached and belongs to no node any more is detached alone.
//   - A ready node is given its live files again when what they are rendered from
//     has changed. What it was last given, with its seed or since, is a file among
//     the node's own, so that neither a restart of the agent nor one of the node
//     pushes anything; a digest of the inputs keeps rounds from rendering. The
//     node stays ready meanwhile, and its message says what goes on. A push whose
//     answer never came counts as unknown, so that the way back is pushed too.
//   - A worker is drained by asking its cluster's scheduler, on the frontend, again
//     and again. An answer counts for 30 s from when the question was put, and is
//     forgotten when a question fails, or when one goes out that does not name the
//     worker, since that gives it back. So "ready" always stands on a fresh word.
//     That something may be drained is written to disk before it is, so that a
//     restarted agent gives it back; on a frontend of which nothing is known, as
//     one that was moved or resumed, what vcn had drained is given back once.
//   - Notices are compared by digest here and by identifier in the guest, which
//     alone knows what it has shown.
//   - A node to be stopped is asked to power off and given 60 s, then it is removed
//     with its files, and its volume stays.
//   - What a guest says is bounded, stripped of control characters, and believed
//     only where its own owner alone would be hurt.
//   - Rejected: undo on failure across steps. The next round sees what is there
//     and goes on from it, after a crash as well.
package agent
