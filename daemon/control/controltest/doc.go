// Package controltest is a control on a real FSM without Raft and without other
// hosts, for the tests and benchmarks of daemon/control and daemon/httpapi.
//
// It imports api, control, fsm, fsm/fsmtest, cluster/pki and rolls.
//
//	Rig: Control ──▶ fsmtest.Local ──▶ FSM;  Gossip is what the test says it is
package controltest
