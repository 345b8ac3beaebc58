// Package hostops says what vcn does to a physical host, as narrow interfaces:
// domains (virtual machines), guests (commands inside them), networks, volumes,
// targets (iSCSI exports), initiators (exports of other hosts attached here),
// images and facts. Real drivers are in the sub-packages; hostops/fake is a stateful fake host with
// faults and delays; hostops/hosttest is the one conformance suite that both
// must pass.
//
// Every driver keeps the same contract: Ensure and Publish make it so and are
// idempotent, with all fields compared and repaired; Remove and Withdraw of
// what is absent succeed; List returns only what carries our mark, and a
// partial read is an error, never a short list.
//
// It may import rolls, and nothing else of ours.
//
//	agent ──▶ Images ──▶ Volumes ──▶ Targets ─ ─iSCSI─ ─▶ Domains ◀── Networks
//	                                          └ ─ ─▶ Initiators ──▶ ┘ (or the domain's own)
package hostops
