// Package initiator is a small iSCSI initiator for tests and benchmarks of the
// target. One command at a time, no recovery; every PDU can also be sent by
// hand, so that it can be made wrong. It imports nothing of ours, so that both
// sides do not share a mistake.
//
//	Dial ─▶ Login (CHAP) ─▶ Command(cdb, out, inMax) ─▶ Answer
//	  └─▶ Send / Receive: bare PDUs
package initiator
