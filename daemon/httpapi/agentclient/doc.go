// Package agentclient is how a host's agent speaks to the replicated state:
// it asks a Raft peer for its assignment, and hands reports and its
// registration to the leader, over the internal listener.
//
// It may import fsm (for the data) and the standard library.
//
//	agent ──Assignment(after)──▶ own state, where this host is a fresh Raft peer
//	                        └──▶ leader, or any other peer, GET /internal/assignment
//	agent ──Report, Register──▶ any peer, leader first: POST /internal/…
//	                            (a peer that does not lead passes it on, one hop)
//
// Decisions and trade-offs
//
//   - Which peer: the leader first, then the others in the order given. The
//     leader's state is never behind; the load is one long poll per host.
//   - A failed try moves to the next peer at once; after a round of all peers it
//     waits, 100 ms doubling to 3 s, with a random part so that hosts do not ask
//     in step. It goes on until the context ends: an agent has nothing better to
//     do, and keeps what it runs meanwhile.
//   - Refusals that repeating cannot cure (4xx but 408, 421 and 429) are returned
//     at once.
package agentclient
