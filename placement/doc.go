// Package placement decides which host carries which node and which volume of
// a reservation, over time. It is pure: plain structs in, a plan or an
// explanation out; no clock, no randomness, no I/O, and nothing of ours is
// imported.
//
//	hosts + bookings ──New──▶ Inventory ──Plan(Request)──▶ Plan
//	                              │             └────────▶ *NoFit{Reasons}
//	                              └──Earliest(Request, last)──▶ start, Plan
//
// Every host has a timeline: a step function of what is booked, as sorted
// instants with the amounts held from each on. What a request may use of a host
// is capacity minus the peak over its whole slot:
//
//	cores ┤      ┌───┐
//	      │  ┌───┘   └──┐        peak over [From, Until) by binary search
//	      └──┴──[───────]──▶ t   to From, then a walk to Until
//
// Frontends go first (on gateway hosts), then workers (compute hosts), large
// before small, then volumes (storage hosts), large before small. Nodes of one
// shape are laid by a heap of hosts, so that N nodes over H hosts cost
// H + N log H.
//
// # Policies
//
// Spread takes the host that is emptiest after it: by the larger of its cores'
// and memory's booked shares, in steps of 1/32; among equals the failure domain,
// then the host, with fewest workers of this request; then the exact share; then the
// host's ID. Pack takes the host that is fullest after it, and among equals the
// same failure-domain order.
//
// # Decisions and trade-offs
//
//   - Greedy, not optimal: packing several resources is NP-hard. For nodes of one
//     shape (nearly every request) any greedy order is exact. Where the policy's
//     order finds no place, the request is tried packed, and packed with the
//     frontends on each other gateway in turn, before it is refused; so a request with
//     mixed shapes may, rarely, be refused although a cleverer order exists. A request of
//     one node is never refused wrongly. Rejected: an integer-programming solver.
//   - A node keeps its host for the whole slot: the peak counts, not the sum.
//     Rejected: plans that move nodes half-way.
//   - Volumes are not drawn to their node's host. A local disk saves the network;
//     but then one lost host takes node and disk together, and compute hosts fill with
//     disks that outlive their nodes. Rejected until measured.
//   - Shares are quantised only for the order, never for whether something fits.
package placement
