// Labnet runs inside a lab machine: it makes private networks with the real
// driver, as a host would, and sends and hears raw frames where a guest is.
//
//	labnet ensure ──▶ hostops/netlink ──▶ bridges and ports, on the machine's card
//	labnet send ──▶ AF_PACKET ──▶ guest's link ──▶ … ──▶ AF_PACKET ──▶ labnet hear
//
//	labnet ensure UNDERLAY ADDRESS VLAN...   make networks r-VLAN, say how long each took
//	labnet send LINK TIMES FRAME...          send frames (hexadecimal), TIMES times
//	labnet hear LINK                         print the <words> in frames, "VLAN 20 <word>" if tagged,
//	                                         until "<end>" comes untagged
//
// It may import hostops and hostops/netlink. It has no state: what it made stays.
package main
