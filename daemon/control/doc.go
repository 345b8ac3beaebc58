// Package control is what the leader does: it turns specifications, offers and
// changes into one Raft command each, sends the clock on when something is due,
// begins provisioning in time, keeps promises out of danger, serves the waitlist,
// tells owners, says which hosts are alive, and keeps image builds going. On a
// host that does not lead it only answers: offers without a hold, explain, calendar.
//
// It may import api, fsm, placement, rolls and cluster/pki, and internal leaves.
//
//	httpapi ──Reserve, Offers, Change, Park, tokens, join, report──▶ Control ──Encode──▶ Applier (Raft)
//	                                                               │  ▲                   │
//	                 planner: draft ─▶ slot ─▶ seats ─▶ command    │  └── View ◀── FSM ◀──┘
//	RunLeader(ctx), for one term:                                  │
//	   Clockwork  next deadline due        ──▶ ClockAdvance ───────┤
//	   Binder     provisioning time, seats ──▶ ReservationBind, ReservationReseat
//	   Waitlist   something booked, freed  ──▶ ReservationClaim ───┤
//	   Tell       events with receivers    ──▶ Notifier, NotifyDone┤
//	   HostWatch  gossip, with hysteresis  ──▶ HostStatusSet, Formed
//	   GC         stuck or dead builders   ──▶ ImageAssign, ReservationFail
//
// Step does once what Clockwork, Binder and Waitlist would do now, for whoever
// drives time himself (simulate, tests).
//
// # How a reservation is planned
//
//	inventory:  timelines of the state ── followed by ChangedHosts ──┐
//	            + what overruns its time + plans in flight           ├─▶ Plan
//	lock held:  follow, Plan at one slot, add the flight ────────────┘
//	no lock:    validation, rolls, names; search in a window (on a Clone); secrets; Raft
//
// A draft needs no state: validation, rolls, recipes, node names. Where the slot has a
// window, the search runs on a snapshot; under the lock the slot that was found is
// planned once more, and searched again if it is gone. A plan is in flight from then until
// its command has been applied or given up: what it holds beyond what its
// owner holds already is laid over the timelines, and taken off when the state has it.
// So 64 concurrent reserves place one after another, never choose the same thing
// twice, and share the latency of the Raft log. Offers, nearest, explain and calendar
// work on snapshots.
//
// A slot that starts at once has no lead. Any other is provisioned lead time before,
// and may not start before its lead has passed: what would be in between holds more than
// the slot that starts now, which was tried first. Starts that are chosen are rounded
// up to the minute where that fits, too.
//
// # Fairness
//
// The waitlist is served first come, first served, whenever something changed or a
// minute has passed. Who does not fit lets others pass. Whoever came later, directly or by the
// list, and is booked in the window (earliest start to latest end) of one
// that waits, has passed it; after fsm.PassedMax of them nobody's slot may overlap that
// window before it is booked, has run out of its time, or is withdrawn. Searches,
// offers and the dates of series leave such windows out. Changes of what is booked already, and
// parked clusters that come back, do not count; those that come back respect the windows.
// What could not fit if all hosts were there and free is refused, not put into the list.
//
// # Bounds
//
// A command is placed at most replanTriesMax times; the binder begins bindAtOnce
// promises in one look, and one that failed waits bindRetryEvery without holding
// up others; one look moves reseatAtOnce promises and tries reseatTriesMax, the next one goes on behind
// them; a page of events is tellPage, and its receivers are waited for tellWait.
//
// # Decisions and trade-offs
//
//   - Rejected: planning and applying under one lock (throughput is then 1 / commit
//     latency). Rejected: planning without a lock and trying again on conflict: all
//     planners see the same free hosts, so of 64 concurrent ones 63 fail in the
//     first round. Conflicts still happen, when something other than a
//     plan moved the state; then the plan is placed again.
//   - The inventory follows the state change by change. Rejected: one that is made
//     anew each second: making it walks every booking (see BenchmarkCalendar's scan).
//   - A change in flight holds what it wants beyond what it has, at each
//     instant. Rejected: both (a full host would refuse others for a rename), and the new alone (what
//     is given up could be promised before the change is made).
//   - Apply re-checks everything. The lock and the flights are only a
//     means to propose well.
//   - A promise that is renamed, shortened or prolonged keeps its seats and its lead
//     time. Rejected: learning the lead anew; a rename could then be refused.
//   - An offer that was to start at once and is taken minutes later starts then, and keeps
//     its end: only that is held. Rejected: moving the end, which may not be free.
//   - A dead host keeps promises for reseatAfter, unless they begin within
//     reseatSoon: a restart is no reason to move. A host that shrank gives up promises, first
//     booked first moved, until the rest fits.
//   - Direct reservations count as passing. Rejected: only those from the waitlist: then
//     whoever waits starves behind people who try again and again. The price: in a busy time one
//     large request blocks its window after ten others; its length is bounded by --wait-for.
//   - The dates of a series change one after another, and those that cannot are named.
//     Rejected: all or nothing; one date in a full week would forbid an edit of the year.
//   - Owners are told at least once, in order: an event that was under way when the leader changed is
//     told again. Rejected: a log entry for each message. Where nobody wants to be told,
//     the log gets an entry each tellQuiet indexes at most.
//   - Identifiers of what runs in parallel are random (UUID version 7, RFC 9562);
//     scarce ones (VLAN, subnet, address, MAC) are given by the FSM when provisioning begins.
//   - The lead time is learned from the last provisionings of the same images (see
//     lead.go) out of what is in the state, so that every leader plans alike.
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
