// Package netlink is hostops.Networks: private networks of clusters as kernel
// links, without any program.
//
//	        host A                                host B
//	guests ─ taps ─ bridge vcnb20                 bridge vcnb20 ─ taps ─ guests
//	                  └ port vcnv20 ══ underlay ══ port vcnv20 ┘
//	          vlan driver:  802.1Q link of the underlay, VLAN 20
//	          vxlan driver: VXLAN link, VNI base + 20, one flood entry per peer
//
// Both links carry the alias vcn:<cluster of hosts>:<reservation>, and that
// alone makes them ours: those of another cluster of hosts are foreign.
// The kernel cannot set an alias while it creates a link, so they are created
// in our link group; a link of that group and name without an alias is
// half-made, and is made anew.
//
// It may import hostops, and nothing else of ours.
//
// # Decisions and trade-offs
//
//   - The host is no member of the network: no address, no ARP, no IPv6, strict
//     reverse-path filter and no forwarding on the bridge. So a guest cannot reach
//     the host through it, even with the bridge's MAC address in hand.
//   - VXLAN floods to a list of peers, never to a multicast group: no demands on
//     the underlay, and a frame goes only to hosts that carry the cluster. The list
//     is repaired, entries of hosts that left are removed.
//   - Multicast snooping is off: without a querier on the bridge, snooping
//     loses IPv6 neighbour discovery after some minutes.
//   - An underlay too small for the network is an error that names both sizes.
//     Rejected: a smaller MTU on our own account, which guests would not know of.
//   - The network of one reservation is never taken over for another: ErrBusy
//     until the old one has been removed.
//   - The vlan driver needs the kernel's 8021q; its link handling is tested on
//     kernels that have it, its decisions everywhere.
package netlink
