package netlink

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	nl "github.com/vishvananda/netlink"
	nlmsg "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

const (
	// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
	addrGenNone = 1
	// untaggedVLAN is what a filtering bridge calls frames without a tag, inside
	// itself only. It is the kernel's default, so a tap that is plugged in has it
	// from the first frame on.
	untaggedVLAN = 1
)

func (d *Driver) ensureBridge(h *nl.Handle, s hostops.NetworkSpec) (nl.Link, error) {
	name := hostops.BridgeName(s.VLAN)
	if err := d.remark(h, s); err != nil {
		return nil, err
	}
	have, err := d.mark().claim(h, name, s.Reservation)
	if err != nil {
		return nil, err
	}
	if have != nil && have.Type() != "bridge" {
		d.log.Warn("make link anew", "link", name, "why", "it is a "+have.Type()+" link")
		if err := del(h, have); err != nil {
			return nil, err
		}
		have = nil
	}
	if have == nil {
		if have, err = d.createBridge(h, s); err != nil {
			return nil, err
		}
	} else if err := d.repairBridge(have.(*nl.Bridge)); err != nil {
		return nil, err
	}
	if err := isolate(h, have); err != nil {
		return nil, err
	}
	if d.can.guardWhy == "" {
		if err := d.can.hosts.ensure(h, have); err != nil {
			return nil, err
		}
	}
	return have, settle(h, have, d.mtu(s))
}

// remark gives a bridge its alias back that lost it while guests are on it:
// made anew, it would be without their taps. A bridge whose maker died before
// it was marked has none. Its port says whose it is.
func (d *Driver) remark(h *nl.Handle, s hostops.NetworkSpec) error {
	bridge, err := link(h, hostops.BridgeName(s.VLAN))
	if err != nil || bridge == nil || d.mark().whose(bridge, s.Reservation) != ownerHalfMade {
		return err
	}
	taps, err := tapsOn(h, bridge)
	if err != nil || len(taps) == 0 {
		return err
	}
	port, err := link(h, hostops.PortName(s.VLAN))
	if err != nil {
		return err
	}
	name := bridge.Attrs().Name
	if port == nil || port.Attrs().MasterIndex != bridge.Attrs().Index || d.mark().whose(port, s.Reservation) != ownerOurs {
		return fmt.Errorf("link %s has lost its alias and carries %d taps, and nothing says whose: stop those guests, or set the alias %q: %w",
			name, len(taps), d.mark().alias(s.Reservation), hostops.ErrBusy)
	}
	d.log.Warn("mark link again", "link", name, "why", "it has lost its alias")
	if err := h.LinkSetAlias(bridge, d.mark().alias(s.Reservation)); err != nil {
		return fmt.Errorf("mark link %s: %w", name, err)
	}
	return nil
}

func (d *Driver) createBridge(h *nl.Handle, s hostops.NetworkSpec) (nl.Link, error) {
	attrs := nl.NewLinkAttrs()
	// One byte less than it should have: the kernel takes the least MTU of all
	// ports unless somebody changed the bridge's.
	attrs.Name, attrs.MTU, attrs.Group = hostops.BridgeName(s.VLAN), d.mtu(s)-1, linkGroup
	var err error
	if attrs.HardwareAddr, err = fixedMAC(); err != nil {
		return nil, err
	}
	made, err := d.mark().create(h, d.can.bridge(attrs), s.Reservation)
	if err != nil {
		return nil, err
	}
	if err := h.LinkSetMTU(made, d.mtu(s)); err != nil {
		return nil, fmt.Errorf("set MTU %d of %s: %w", d.mtu(s), attrs.Name, err)
	}
	return made, nil
}

// bridge is a bridge with all attributes as they should be.
func (c kernelCan) bridge(attrs nl.LinkAttrs) *nl.Bridge {
	off, forwardMask := false, uint16(0)
	b := &nl.Bridge{LinkAttrs: attrs, MulticastSnooping: &off, GroupFwdMask: &forwardMask}
	if c.filterWhy == "" {
		on, pvid := true, uint16(untaggedVLAN)
		b.VlanFiltering, b.VlanDefaultPVID = &on, &pvid
	}
	return b
}

// bridgeAttr is one attribute of a bridge to set, linux/if_link.h.
type bridgeAttr struct {
	kind  int
	value []byte
}

// bridgeDiffers says what is wrong with the attributes of a bridge, and what to
// set.
func (c kernelCan) bridgeDiffers(have *nl.Bridge) (why string, fix []bridgeAttr) {
	want := c.bridge(nl.LinkAttrs{})
	var whys []string
	add := func(why string, kind int, value []byte) {
		whys = append(whys, why)
		fix = append(fix, bridgeAttr{kind, value})
	}
	if have.MulticastSnooping == nil || *have.MulticastSnooping {
		add("multicast snooping is on", nlmsg.IFLA_BR_MCAST_SNOOPING, []byte{0})
	}
	if have.GroupFwdMask != nil && *have.GroupFwdMask != 0 {
		add("the bridge forwards what is meant for switches", nlmsg.IFLA_BR_GROUP_FWD_MASK, nlmsg.Uint16Attr(0))
	}
	if want.VlanDefaultPVID != nil && (have.VlanDefaultPVID == nil || *have.VlanDefaultPVID != *want.VlanDefaultPVID) {
		add("new ports get another VLAN", nlmsg.IFLA_BR_VLAN_DEFAULT_PVID, nlmsg.Uint16Attr(*want.VlanDefaultPVID))
	}
	if want.VlanFiltering != nil && !isSet(have.VlanFiltering, true) {
		add("VLAN filtering is off", nlmsg.IFLA_BR_VLAN_FILTERING, []byte{1})
	}
	return strings.Join(whys, ", "), fix
}

func (d *Driver) repairBridge(have *nl.Bridge) error {
	why, fix := d.can.bridgeDiffers(have)
	if why == "" {
		return nil
	}
	d.log.Warn("repair bridge", "link", have.Name, "why", why)
	if err := modifyBridge(have.Index, fix); err != nil {
		return fmt.Errorf("repair (%s): %w", why, err)
	}
	return nil
}

// modifyBridge sets attributes of a bridge in this thread's network namespace.
// The library's way sends the link's name along, which Linux 6.1 takes
// for renaming a link that is up, and refuses: EBUSY.
func modifyBridge(index int, fix []bridgeAttr) error {
	req := nlmsg.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nlmsg.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nlmsg.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nlmsg.IFLA_INFO_KIND, nlmsg.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nlmsg.IFLA_INFO_DATA, nil)
	for _, a := range fix {
		data.AddRtAttr(a.kind, a.value)
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// fixedMAC is a locally administered unicast address. A bridge without one of
// its own takes the lowest of its ports', and changes it when guests come and go.
func fixedMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, fmt.Errorf("make MAC address: %w", err)
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}

// isolate keeps the host out of the network: it neither answers nor listens
// nor routes there.
func isolate(h *nl.Handle, bridge nl.Link) error {
	name := bridge.Attrs().Name
	if bridge.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := h.LinkSetARPOff(bridge); err != nil {
			return fmt.Errorf("switch off ARP: %w", err)
		}
	}
	for key, value := range map[string]string{
		"ipv6/conf/" + name + "/disable_ipv6": "1",
		"ipv4/conf/" + name + "/rp_filter":    "1", // no route leads back: drops all
		"ipv4/conf/" + name + "/forwarding":   "0",
		"ipv4/conf/" + name + "/proxy_arp":    "0",
	} {
		if err := sysctl(key, value); err != nil {
			return err
		}
	}
	return removeAddrs(h, bridge)
}

func removeAddrs(h *nl.Handle, l nl.Link) error {
	addrs, err := dump(func() ([]nl.Addr, error) { return h.AddrList(l, nl.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("read addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if err := h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// settle repairs what can be set on any living link, and brings it up.
func settle(h *nl.Handle, l nl.Link, mtu int) error {
	if l.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", mtu, l.Attrs().Name, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// ensureMembers gives each port the one VLAN that stands for frames without a
// tag. A tap has it by default; this is for what somebody changed since.
func (d *Driver) ensureMembers(h *nl.Handle, bridge nl.Link) error {
	if d.can.filterWhy != "" {
		return nil
	}
	links, err := dump(h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	vlans, err := dump(h.BridgeVlanList)
	if err != nil {
		return fmt.Errorf("read VLANs of bridge ports: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex != bridge.Attrs().Index || memberWhy(vlans[int32(a.Index)]) == "" {
			continue
		}
		d.log.Warn("repair VLANs of bridge port", "link", a.Name, "why", memberWhy(vlans[int32(a.Index)]))
		for _, v := range vlans[int32(a.Index)] {
			if err := h.BridgeVlanDel(l, v.Vid, false, false, false, true); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("take VLAN %d from %s: %w", v.Vid, a.Name, err)
			}
		}
		if err := h.BridgeVlanAdd(l, untaggedVLAN, true, true, false, true); err != nil {
			return fmt.Errorf("set VLAN of %s: %w", a.Name, err)
		}
	}
	return nil
}

// memberWhy says what is wrong with the VLANs of a bridge port.
func memberWhy(have []*nlmsg.BridgeVlanInfo) string {
	switch {
	case len(have) == 0:
		return "takes no frames"
	case slices.ContainsFunc(have, func(v *nlmsg.BridgeVlanInfo) bool { return v.Vid != untaggedVLAN }):
		return "takes tagged frames"
	case !have[0].PortVID() || !have[0].EngressUntag():
		return "takes no untagged frames, or gives out tagged ones"
	}
	return ""
}

// quietTaps switches off IPv6 on the taps that are on the bridge: the kernel
// would announce the host to the guest behind each.
func quietTaps(h *nl.Handle, bridge nl.Link) error {
	taps, err := tapsOn(h, bridge)
	if err != nil {
		return err
	}
	for _, t := range taps {
		if err := sysctl("ipv6/conf/"+t.Attrs().Name+"/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	return nil
}

func tapsOn(h *nl.Handle, bridge nl.Link) ([]nl.Link, error) {
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []nl.Link
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex == bridge.Attrs().Index && strings.HasPrefix(a.Name, tapPrefix) {
			out = append(out, l)
		}
	}
	return out, nil
}
