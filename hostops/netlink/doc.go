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
// # Tagged frames of guests
//
// The only tag on the underlay is ours. What a guest tags itself (802.1Q, 802.1ad,
// 0x9100, 0x9200, one tag or several) is dropped twice, for both drivers:
//
//	tap ─▶ bridge: VLAN filtering, each port in VLAN 1 untagged ─▶ port: guard ─▶ underlay
//	                 └─▶ the host's own end: guard, drops all
//
// Why both:
//
//   - The guard is an eBPF program of 23 instructions on the clsact queue of the port,
//     in and out. It is there before the port joins the bridge, so that taps, which
//     the hypervisor plugs in later, are safe from their first frame on. It also drops
//     what is meant for switches (01:80:c2:00:00:xx, Cisco's 01:00:0c:cc:cc:cc and
//     :cd): a spanning-tree frame of a guest could make a switch close the host's port.
//   - VLAN filtering stops tagged frames where they come in. It is the kernel's default
//     for each new port (vlan_default_pvid), so again from the first frame on. Alone it
//     is not enough: of a frame whose outer tag is VLAN 0 or the port's own, it takes
//     off the outer tag and passes the inner one on; with our tag around it, a switch
//     whose native VLAN is ours would let that frame into any other VLAN. And it does
//     not know 802.1ad tags. A frame with a single tag of VLAN 0 or 1 goes on without it.
//   - A kernel without one of the two is used all the same: Driver says what is missing,
//     the log warns when it is the guard. Without filtering, guests beside each other
//     on one host, of one cluster, do exchange tagged frames; they go no further.
//
// What no host can see: a trunk port whose native VLAN is a cluster's puts
// that cluster into the network of the hosts. Keep it out of the pool of VLANs.
//
// # Decisions and trade-offs
//
//   - The host is no member of the network: the guard on the bridge drops what goes
//     up to the host or comes from it. Where the kernel takes no guard, no address, no ARP,
//     no IPv6, a strict reverse-path filter and no forwarding on the bridge remain.
//     So a guest cannot reach the host through it, even with the bridge's MAC address in hand.
//   - VXLAN floods to a list of peers, never to a multicast group: no demands on
//     the underlay, and a frame goes only to hosts that carry the cluster. The list
//     is repaired, entries of hosts that left are removed.
//   - Multicast snooping is off: without a querier on the bridge, snooping
//     loses IPv6 neighbour discovery after some minutes.
//   - An underlay too small for the network is an error that names both sizes.
//     Rejected: a smaller MTU on our own account, which guests would not know of.
//   - The network of one reservation is never taken over for another: ErrBusy
//     until the old one has been removed.
//   - List compares all that Ensure would repair, not only that links are there and
//     up: the agent ensures again only what List calls unhealthy. Not compared are sysctls (the
//     guard stands before them) and the flood list (List does not know the peers).
//   - A bridge that lost its alias is marked again if its port says whose it is; if nothing
//     does and taps are on it, it is ErrBusy. Made anew, it would lose its guests.
//   - The kernel has one link per tag and underlay. If that is somebody's, under any name,
//     ErrForeign names it; if it is ours and was renamed, it is made anew.
//   - Underlay gone: its tagged links go with it, the network is unhealthy, Ensure fails with
//     the underlay's name until it is back, and then makes the port anew. Guests stay on the bridge.
//   - Rejected: nftables rules for the guard (one table for all networks, which others flush),
//     tc's u32 and flower (not in every kernel), filters on taps (they come after Ensure).
package netlink
