package netlink

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	nl "github.com/vishvananda/netlink"
	nlmsg "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

func bridgeLink(vlan, index int, alias string) *nl.Bridge {
	off, on, pvid := false, true, uint16(untaggedVLAN)
	return &nl.Bridge{
		LinkAttrs:         nl.LinkAttrs{Name: hostops.BridgeName(vlan), Index: index, Alias: alias, Flags: net.FlagUp, RawFlags: unix.IFF_NOARP, MTU: 1500},
		MulticastSnooping: &off, VlanFiltering: &on, VlanDefaultPVID: &pvid,
	}
}

// portLink's index is 100 more than its VLAN.
func portLink(vlan, master int, alias string) *nl.Vlan {
	reorder := true
	return &nl.Vlan{
		LinkAttrs: nl.LinkAttrs{
			Name: hostops.PortName(vlan), Index: 100 + vlan, MasterIndex: master, Alias: alias,
			Flags: net.FlagUp, MTU: 1500, ParentIndex: 7, NetNsID: -1,
		},
		VlanId: vlan, VlanProtocol: nl.VLAN_PROTOCOL_8021Q, ReorderHdr: &reorder,
	}
}

func member(vids ...uint16) (out []*nlmsg.BridgeVlanInfo) {
	for _, v := range vids {
		out = append(out, &nlmsg.BridgeVlanInfo{Vid: v, Flags: nlmsg.BRIDGE_VLAN_INFO_PVID | nlmsg.BRIDGE_VLAN_INFO_UNTAGGED})
	}
	return out
}

// goodView has nothing to complain of but what is in the links.
func goodView(links ...nl.Link) view {
	v := view{links: links, addrs: map[int]int{}, unguarded: map[int]bool{}, vlans: map[int32][]*nlmsg.BridgeVlanInfo{}}
	for _, l := range links {
		v.vlans[int32(l.Attrs().Index)] = member(untaggedVLAN)
	}
	v.wants = func(vlan int) nl.Link {
		return fakeDriver(VLAN, "192.0.2.1").desiredPort(hostops.NetworkSpec{VLAN: vlan}, underlay{index: 7})
	}
	return v
}

func TestSummarize(t *testing.T) {
	down := portLink(22, 3, "vcn:c-1:r-3")
	down.Flags = 0
	half := bridgeLink(24, 9, "")
	half.Group = linkGroup
	got := markOf("c-1").summarize(goodView(
		bridgeLink(20, 1, "vcn:c-1:r-1"), portLink(20, 1, "vcn:c-1:r-1"),
		bridgeLink(21, 2, "vcn:c-1:r-2"),
		bridgeLink(22, 3, "vcn:c-1:r-3"), down,
		portLink(23, 0, "vcn:c-1:r-4"),
		half,
		bridgeLink(28, 7, "vcn:c-2:r-1"), portLink(28, 7, "vcn:c-2:r-1"),
		bridgeLink(25, 4, "somebody's"), portLink(25, 4, ""),
		bridgeLink(26, 5, "vcn:c-1:r-6"), portLink(26, 4, "vcn:c-1:r-6"),
		bridgeLink(27, 6, "vcn:c-1:r-7"), portLink(27, 6, "vcn:c-1:r-8"),
		&nl.Dummy{LinkAttrs: nl.LinkAttrs{Name: "vcnb020", Alias: "vcn:c-1:r-9"}},
		&nl.Dummy{LinkAttrs: nl.LinkAttrs{Name: "vcntabcdefghijk", Alias: ""}},
	))
	var lines []string
	for _, n := range got {
		lines = append(lines, fmt.Sprintf("%d %s %v %s", n.VLAN, n.Reservation, n.Healthy, n.Detail))
	}
	want := []string{
		"20 r-1 true ",
		"21 r-2 false the port to the other hosts is missing",
		"22 r-3 false the port is down",
		"23 r-4 false the bridge is missing",
		"24  false the port to the other hosts is missing",
		"26 r-6 false the port is not on the bridge",
		"27 r-7 false bridge and port belong to different reservations",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// TestDamageThatEnsureRepairsIsSeen: the agent ensures again only what List
// calls unhealthy.
func TestDamageThatEnsureRepairsIsSeen(t *testing.T) {
	on, other := true, uint16(5)
	tap := &nl.Tuntap{LinkAttrs: nl.LinkAttrs{Name: "vcntabcdefghijk", Index: 50, MasterIndex: 1}}
	for want, spoil := range map[string]func(*view, *nl.Bridge, *nl.Vlan){
		"":                         func(*view, *nl.Bridge, *nl.Vlan) {},
		"VLAN 21, not 20":          func(_ *view, _ *nl.Bridge, p *nl.Vlan) { p.VlanId = 21 },
		"no link has":              func(v *view, _ *nl.Bridge, _ *nl.Vlan) { v.noUnderlay = "no link has address" },
		"snooping":                 func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.MulticastSnooping = &on },
		"filtering is off":         func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.VlanFiltering = new(bool) },
		"new ports get":            func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.VlanDefaultPVID = &other },
		"meant for switches":       func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.GroupFwdMask = &other },
		"MTU 1400, its port 1500":  func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.MTU = 1400 },
		"has an address":           func(v *view, b *nl.Bridge, _ *nl.Vlan) { v.addrs[b.Index] = 1 },
		"asks for addresses":       func(_ *view, b *nl.Bridge, _ *nl.Vlan) { b.RawFlags = 0 },
		"host can be reached":      func(v *view, b *nl.Bridge, _ *nl.Vlan) { v.unguarded[b.Index] = true },
		"tagged frames can leave":  func(v *view, _ *nl.Bridge, p *nl.Vlan) { v.unguarded[p.Index] = true },
		"ijk takes no frames":      func(v *view, _ *nl.Bridge, _ *nl.Vlan) { delete(v.vlans, 50) },
		"takes tagged frames":      func(v *view, _ *nl.Bridge, p *nl.Vlan) { v.vlans[int32(p.Index)] = member(1, 21) },
		"takes no untagged frames": func(v *view, _ *nl.Bridge, p *nl.Vlan) { v.vlans[int32(p.Index)][0].Flags = 0 },
	} {
		b, p := bridgeLink(20, 1, "vcn:c-1:r"), portLink(20, 1, "vcn:c-1:r")
		v := goodView(b, p, tap)
		spoil(&v, b, p)
		got := markOf("c-1").summarize(v)
		if len(got) != 1 || got[0].Healthy != (want == "") || !strings.Contains(got[0].Detail, want) {
			t.Errorf("%s: %+v", want, got)
		}
	}
}

// TestAKernelWithoutFiltersIsNoDamage: what cannot be repaired is not reported
// for ever.
func TestAKernelWithoutFiltersIsNoDamage(t *testing.T) {
	b, p := bridgeLink(20, 1, "vcn:c-1:r"), portLink(20, 1, "vcn:c-1:r")
	b.VlanFiltering, b.VlanDefaultPVID = nil, nil
	v := goodView(b, p)
	v.can.filterWhy, v.vlans = "not in this kernel", nil
	if got := markOf("c-1").summarize(v); len(got) != 1 || !got[0].Healthy {
		t.Errorf("%+v", got)
	}
}

func TestWhatTheKernelCanIsSaid(t *testing.T) {
	for _, c := range []struct {
		can  kernelCan
		want string
	}{
		{kernelCan{}, "dropped where they come in"},
		{kernelCan{filterWhy: "F"}, "dropped where they would leave the host (F)"},
		{kernelCan{guardWhy: "G"}, "unless they have two tags (G)"},
		{kernelCan{filterWhy: "F", guardWhy: "G"}, "not dropped (F; G)"},
	} {
		d := &Driver{driver: VLAN, why: "because", can: c.can}
		if name, why := d.Driver(); name != VLAN || !strings.HasPrefix(why, "because; ") || !strings.HasSuffix(why, c.want) {
			t.Errorf("%+v: %s", c.can, why)
		}
	}
}

func TestRival(t *testing.T) {
	want := portLink(20, 0, "")
	named := func(name string, change func(*nl.Vlan)) *nl.Vlan {
		l := portLink(20, 0, "")
		l.Name = name
		change(l)
		return l
	}
	links := []nl.Link{
		&nl.Dummy{LinkAttrs: nl.LinkAttrs{Name: "dummy"}},
		named("other-vlan", func(l *nl.Vlan) { l.VlanId = 21 }),
		named("other-parent", func(l *nl.Vlan) { l.ParentIndex = 8 }),
		named("other-namespace", func(l *nl.Vlan) { l.NetNsID = 1 }),
		named("802.1ad", func(l *nl.Vlan) { l.VlanProtocol = nl.VLAN_PROTOCOL_8021AD }),
		&nl.Vxlan{LinkAttrs: nl.LinkAttrs{Name: "vxlan"}, VxlanId: 20, Port: 4789},
	}
	if l := rival(links, want); l != nil {
		t.Errorf("%s is taken for a rival", l.Attrs().Name)
	}
	if l := rival(append(links, named("storage", func(*nl.Vlan) {})), want); l == nil || l.Attrs().Name != "storage" {
		t.Errorf("rival %v", l)
	}
	if l := rival(links, &nl.Vxlan{VxlanId: 20, Port: 4789}); l == nil || l.Attrs().Name != "vxlan" {
		t.Errorf("rival %v", l)
	}
}
