// Package e2e holds the tests of the whole: real vcnd processes on four hosts
// of one testbed, real QEMU guests, a real Slurm. They run with the build tag
// rooted, as root, on the programs that "make build" made.
//
// It may import api and its client, hostops for names and the target's client,
// and test/testbed.
//
//	         operator: vcnctl, ssh
//	───┬──────────────┬──────────────┬──────────────┬── private LAN 198.18.1.0/24
//	  h1             h2             h3             h4
//	gateway        storage        storage         (large, never a Raft peer)
//	compute        compute        compute        compute
//	voter          voter          voter          follower
//	  │ public LAN 198.19.1.0/24
//
//	time ─▶
//	alpha 1+2   ├ provisioning ┤ active ───────────────────────────────────┤ ending │
//	beta  1+1                    ├ booked ┤ provisioning ┤ active ┤ ending │
//	faults      ▲ leader                ▲ leader     ▲ target ▲ h4      ▲ each    ▲ follower
//	            killed                  killed       killed   cut off   vcnd      killed
//
// TestLife is one sequence, because guests take most of the time: two clusters
// are booted in all, and what waits for a clock (beta is reserved for a time in
// the future) waits while alpha is being hurt.
//
// # Decisions and trade-offs
//
//   - The pool of VLANs has two, so that a third reservation is refused while two
//     are leased, and the next one gets exactly the VLAN that came back.
//   - The fourth host is twice as large as the others: the spreading planner puts
//     alpha's first worker there, whose disk is then on another host, as h4 has no
//     class storage. Cutting it off cuts a guest from its disk.
//   - Every wait is for a condition, with a limit several times what an idle
//     machine needs. Times that matter are logged, and bounded only loosely.
//   - Images and packages live in $VCN_CACHE and survive; everything else must be
//     gone at the end, which TestMain checks.
package e2e
