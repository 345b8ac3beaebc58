// Package cluster makes many hosts one: gossip says who is here, a small Raft
// group among them keeps the replicated log, and one mutually authenticated
// listener carries Raft and the internal HTTP. It knows nothing of what the
// log means: commands are bytes, the state machine is a raft.FSM handed in.
//
// It may import raft, memberlist, autopilot, cluster/pki and internal leaves.
// It never imports fsm, placement, hostops or api.
//
//	                 every host
//	┌───────────────────────────────────────────────────────────┐
//	│ gossip (memberlist, own key)                              │
//	│   liveness ─▶ members ◀─ adverts (chunks + push/pull)     │
//	│                  │            ▲ leader hint, term, role   │
//	│                  ▼            │                           │
//	│   Members, WatchMembers, Leader        RunAsLeader        │
//	│                  │                          ▲ term ctx    │
//	│   ┌──────────────▼──────── only at peers ───┴──────────┐  │
//	│   │ raft: boltdb log, file snapshots, Apply            │  │
//	│   │ leader: autopilot (our promoter) + grow and shrink │  │
//	│   └──────────────┬─────────────────────────────────────┘  │
//	│                  │  vcn-raft/1         h2, http/1.1       │
//	│   ┌──────────────▼─────────────────────────▼───────────┐  │
//	│   │ one TCP listener: TLS 1.3, both ends show a host   │  │
//	│   │ certificate vcn://<cluster>/host/<host>            │  │
//	│   └────────────────────────────────────────────────────┘  │
//	└───────────────────────────────────────────────────────────┘
//
// # How the Raft group lives
//
// Exactly one host is ever started with Config.Bootstrap, the one that made
// the cluster CA. It starts a group of one and gives it a random group id.
// Every other host starts as a follower, without Raft storage. The leader
// picks VotersMax voters and Spares non-voters among the hosts that are alive,
// spread over failure domains; it asks a host over the internal listener to
// start its Raft (that request carries the group id), adds it as a non-voter,
// and autopilot promotes it once it is stable. A voter that has been dead for
// Timing.DeadAfter is demoted as soon as a stable spare can take its place,
// then removed. A removed host that lives on is told to stop its Raft: it sets
// its data aside and is a follower again. A restart resumes with the data.
//
// # Decisions and trade-offs
//
//   - Bootstrapping by expectation ("three hosts see each other, so they start")
//     can split when two sets of three do not see each other. One host with the
//     CA cannot. The price: that host must be up to begin with.
//   - A Raft address is "<host id>@<ip:port>", so that Raft's dialer knows whom
//     it must find at the other end. Adverts override a stale ip:port; the host
//     id can never be overridden. Every Raft connection opens with the group id:
//     a second group under the same CA is refused before Raft sees a byte.
//   - Two healthy hosts make one voter and one non-voter: two voters would stop
//     with the loss of either. Three make three voters.
//   - memberlist 0.6.0 never fills Node.State (a field of the embedding type
//     shadows it), so "left" cannot be told from "dead" there. A host that leaves
//     says so in its advert first. Suspicion is not visible either.
//   - memberlist forgets the dead after 30 s, and two halves that have forgotten
//     each other never meet again by themselves. We remember hosts (KnownHosts,
//     and a file of gossip addresses) and keep trying to join them.
//   - Adverts are not signed: whoever holds the gossip key can lie about
//     addresses and capacity. Such a lie can misdirect a dial, never
//     impersonate: the certificate is pinned to the host id. Raft needs a
//     certificate.
//   - Raft starts over with an empty directory when a host comes back as a peer.
//     The state machine still holds what it had applied; the wrapper in fsm.go
//     skips entries it has already seen instead of asking for a reset.
package cluster
