// Package agent makes one host hold what the replicated state assigns to it.
// It is level-triggered: whatever woke it, it reads everything of ours that is
// on the host, compares it with the assignment, starts idempotent steps for
// the differences, and reports what it sees.
//
// It may import api, fsm (assignments and reports as data), hostops and rolls.
//
//	Source.Assignment (long poll) ─┐                      ┌─▶ steps: one goroutine per object,
//	domain events ─────────────────┼─▶ observe ─▶ diff ───┤    bounded, cancelled when unwanted,
//	a step ended, resync tick ─────┘   (drivers)  (pure)  │    retried with backoff
//	                                                      └─▶ report ─▶ Source.Report
//
// Decisions:
//
//   - Nothing is removed on the word of the copy kept on disk: that copy only
//     lets a host that restarts alone go on running what it ran. Removing
//     waits for an assignment that a Raft peer has answered since the start.
//   - A step runs beside the loop, never in it: a volume that takes a minute to
//     clone does not keep a node of another cluster from starting. Each object
//     has at most one step at a time, so steps of one object never race. At most
//     8 short steps run at once, and 4 of those that move or build an image.
//   - An object counts as held, and is reported, while a step for it still
//     runs. The VLAN of a cluster can so never return to the pool under a step
//     that is about to make a link.
//   - A disk of another host is attached in the step that starts its node, and
//     detached in the one that removes it, between the domain and the files: a
//     file of the node names its volume, so a restart in between goes on with
//     it. What is attached and belongs to no node any more is detached alone.
//   - Rejected: undo on failure across steps. The next round sees what is there
//     and goes on from it, after a crash as well.
package agent
