package netlink

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	nl "github.com/vishvananda/netlink"

	"vcn/hostops"
)

const (
	// VLAN and VXLAN are the drivers' names.
	VLAN  = "vlan"
	VXLAN = "vxlan"

	// clusterBytesMax keeps aliases below the kernel's 255 bytes: hostops allows
	// reservations of 63.
	clusterBytesMax = 64
	// linkGroup marks links that were created by us, from their first instant:
	// "vcn" in ASCII.
	linkGroup = 0x76636e
	// tapPrefix begins the name of every tap of ours, see hostops.TapName.
	tapPrefix = hostops.Mark + "t"

	defaultMTU  = 1500
	defaultPort = 4789 // RFC 7348 section 8
	vniMax      = 1<<24 - 1
	// Outer headers of VXLAN (RFC 7348 section 5): inner Ethernet 14, VXLAN 8,
	// UDP 8, and IPv4 20 or IPv6 40.
	overheadIPv4 = 50
	overheadIPv6 = 70
)

// mark begins the alias of every link of ours, of this cluster of hosts, and
// the reservation ends it. The kernel takes aliases of up to 255 bytes.
type mark string

func markOf(cluster string) mark { return mark(hostops.Mark + ":" + cluster + ":") }

func (m mark) alias(reservation string) string { return string(m) + reservation }

// owner says whose a link is.
type owner int

const (
	ownerForeign  owner = iota
	ownerOurs           // of the reservation asked for
	ownerOther          // of another reservation
	ownerHalfMade       // ours, but its maker died before it was marked
)

func (m mark) whose(l nl.Link, reservation string) owner {
	a := l.Attrs()
	switch {
	case a.Alias == m.alias(reservation):
		return ownerOurs
	case strings.HasPrefix(a.Alias, string(m)):
		return ownerOther
	case a.Alias == "" && a.Group == linkGroup:
		return ownerHalfMade
	}
	return ownerForeign
}

// underlay is what the network's frames travel on.
type underlay struct {
	index int
	name  string
	mtu   int
}

// desiredPort is the link that carries the network between hosts.
func (d *Driver) desiredPort(s hostops.NetworkSpec, u underlay) nl.Link {
	attrs := nl.NewLinkAttrs()
	attrs.Name = hostops.PortName(s.VLAN)
	attrs.MTU = d.mtu(s)
	attrs.Group = linkGroup
	if d.driver == VLAN {
		attrs.ParentIndex = u.index
		reorder := true // takes the tag out of frames that come in
		return &nl.Vlan{LinkAttrs: attrs, VlanId: s.VLAN, VlanProtocol: nl.VLAN_PROTOCOL_8021Q, ReorderHdr: &reorder}
	}
	return &nl.Vxlan{
		LinkAttrs:    attrs,
		VxlanId:      d.cfg.VNIBase + s.VLAN,
		VtepDevIndex: u.index,
		SrcAddr:      d.cfg.Local.AsSlice(),
		Port:         d.cfg.Port,
		Learning:     true,
		UDPCSum:      true,
	}
}

func (d *Driver) mtu(s hostops.NetworkSpec) int {
	if s.MTU != 0 {
		return s.MTU
	}
	return d.cfg.MTU
}

// checkMTU says which sizes do not fit, and what would.
func (d *Driver) checkMTU(mtu int, u underlay) error {
	overhead := 0 // the tag of 802.1Q is not counted in a link's MTU
	if d.driver == VXLAN {
		overhead = overheadIPv4
		if d.cfg.Local.Is6() {
			overhead = overheadIPv6
		}
	}
	if mtu+overhead <= u.mtu {
		return nil
	}
	return fmt.Errorf("network MTU %d needs %d bytes on underlay %s, which has MTU %d: raise that to %d, or set the network's to %d: %w",
		mtu, mtu+overhead, u.name, u.mtu, mtu+overhead, u.mtu-overhead, hostops.ErrInvalid)
}

// portDiffers says why a port cannot be repaired in place; empty means that it
// is what was wanted, up to what can be set on a living link.
func portDiffers(have, want nl.Link) string {
	if have.Type() != want.Type() {
		return "it is a " + have.Type() + " link, not " + want.Type()
	}
	switch w := want.(type) {
	case *nl.Vlan:
		h := have.(*nl.Vlan)
		switch {
		case h.VlanId != w.VlanId:
			return fmt.Sprintf("VLAN %d, not %d", h.VlanId, w.VlanId)
		case h.VlanProtocol != w.VlanProtocol:
			return fmt.Sprintf("protocol %s, not %s", h.VlanProtocol, w.VlanProtocol)
		case h.NetNsID >= 0:
			return "on a link of another network namespace"
		case h.ParentIndex != w.ParentIndex:
			return fmt.Sprintf("on link %d, not %d", h.ParentIndex, w.ParentIndex)
		case !isSet(h.ReorderHdr, true): // a link without any flag shows none
			return "it leaves tags in the frames"
		case isSet(h.LooseBinding, true):
			return "it does not follow its underlay"
		case isSet(h.Gvrp, true) || isSet(h.Mvrp, true):
			return "it announces its VLAN to switches"
		}
	case *nl.Vxlan:
		h := have.(*nl.Vxlan)
		switch {
		case h.VxlanId != w.VxlanId:
			return fmt.Sprintf("VNI %d, not %d", h.VxlanId, w.VxlanId)
		case h.VtepDevIndex != w.VtepDevIndex:
			return fmt.Sprintf("on link %d, not %d", h.VtepDevIndex, w.VtepDevIndex)
		case !h.SrcAddr.Equal(w.SrcAddr):
			return fmt.Sprintf("from %s, not %s", h.SrcAddr, w.SrcAddr)
		case h.Port != w.Port:
			return fmt.Sprintf("port %d, not %d", h.Port, w.Port)
		case h.Learning != w.Learning:
			return "learning is off"
		case len(h.Group) != 0 && !h.Group.IsUnspecified():
			return "it uses multicast group " + h.Group.String()
		}
	}
	return ""
}

func isSet(have *bool, to bool) bool { return have != nil && *have == to }

// zeroMAC is the forwarding entry for frames that go to everybody.
var zeroMAC = net.HardwareAddr{0, 0, 0, 0, 0, 0}

// fdbDiff compares the forwarding entries of a VXLAN link with its peers: flood
// entries to add, and entries to hosts that are no peers (flood or learned) to
// remove.
func fdbDiff(have []nl.Neigh, peers []netip.Addr, local netip.Addr) (add []netip.Addr, remove []nl.Neigh) {
	want := map[netip.Addr]bool{}
	for _, p := range peers {
		if p = p.Unmap(); p != local {
			want[p] = true
		}
	}
	flooded := map[netip.Addr]bool{}
	for _, n := range have {
		dst, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue // an entry of the bridge, or without a remote
		}
		dst = dst.Unmap()
		if !want[dst] {
			remove = append(remove, n)
		} else if slices.Equal(n.HardwareAddr, zeroMAC) {
			flooded[dst] = true
		}
	}
	for p := range want {
		if !flooded[p] {
			add = append(add, p)
		}
	}
	slices.SortFunc(add, netip.Addr.Compare)
	return add, remove
}
