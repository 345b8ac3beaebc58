// Package simulate answers "what if": it replays requests, of a calendar or of a
// trace of batch jobs, against a set of hosts and a policy of asking, and says how
// many were accepted, how long they waited and how much of the hosts was used.
//
// It may import api, fsm, placement, rolls, daemon/control and internal leaves,
// and its own swf.
//
//	Calendar, Trace, Synthesize ──▶ []Request ┐
//	Scale, hosts of the caller  ──▶ []Host    ┴▶ Scenario ──▶ Run
//	                                                           │
//	  next of: a job ends, a request comes, control's Step is due
//	     │                              virtual clock ──▶ control.Config.Now
//	     ├─ ends:   Release, then the hosts report that they are clean
//	     ├─ due:    Step: provisioning begins, the waitlist is served
//	     └─ comes:  Reserve | ReserveWait | Offers+TakeOffer ──▶ daemon/control ──▶ fsm.FSM in memory
//	                                                           │
//	                                          tally ──▶ Report ◀┘
//
// What decides is the code that decides in production: daemon/control on a state
// machine of its own. Only the applier (no log), the clock and the hosts'
// reports are made here. Guests are not: a job runs for as long as its request
// says, on hosts that do at once what they are told.
//
// # Words
//
// A request could begin at best when it came, plus the lead time, or at its
// earliest start if that is later. It begins when its cluster is usable: at its
// slot's start, or when provisioning is done where it starts at once. Between
// the two it waits. It runs for Runs, at most until its slot ends (else it is
// counted as cut), and is then released: capacity comes back at once.
//
// Bounded slowdown is that of D. G. Feitelson and others (Theory and Practice in
// Parallel Job Scheduling, JSSPP 1997): (wait + run) / max(run, 10 s), at least 1.
//
// # Bounds
//
// RequestsMax, HostsMax, NodesKeptMax (what keeps memory within some gigabytes),
// spanMax of time; swf's own of a trace. Ending the context ends Run within one
// request's planning.
//
// # Decisions and trade-offs
//
//   - The same scenario gives the same Report, byte for byte: no clock but the
//     virtual one, ties in the order of requests, and identifiers that are random
//     decide nothing but their own text. What the run took is beside the report.
//   - Times are whole seconds. The state's clock moves on by a nanosecond with
//     each command, as in production; that is rounded away.
//   - At one instant jobs end first, then what is due happens, then requests come.
//   - The waitlist is served when something has ended or is due, not each second.
//   - Rolls are left out: no image is built, and the lead time is Scenario.Lead or
//     the formula of control. (Rejected: to learn it of simulated provisioning,
//     which would be simulating guests.)
//   - Parking, grace, series, changes and the loss of hosts are not replayed: a
//     date of a series counts as a reservation, a changed one as it is now.
//   - Deadlines of the state are those of control: after 10 passes a waitlisted
//     request blocks those whose slots overlap its window, here as there.
package simulate
