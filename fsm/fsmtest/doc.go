// Package fsmtest applies commands to a real FSM without Raft, for tests and
// benchmarks of whatever proposes commands. It imports fsm and, for the type of
// a log entry, raft.
//
//	Encode(command) ──▶ Local.Apply ──(Delay)──▶ FSM.Apply with the next index
package fsmtest
