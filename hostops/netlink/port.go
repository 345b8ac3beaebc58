package netlink

import (
	"errors"
	"fmt"
	"net/netip"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

func (d *Driver) ensurePort(h *nl.Handle, s hostops.NetworkSpec, u underlay, bridge nl.Link) error {
	have, err := d.findPort(h, s, u)
	if err != nil {
		return err
	}
	name := have.Attrs().Name
	// A port speaks for guests only: no address of its own, so no IPv6 noise
	// towards the other hosts. Before it comes up.
	if err := h.LinkSetIP6AddrGenMode(have, addrGenNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switch off address generation: %w", err)
	}
	if err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := removeAddrs(h, have); err != nil {
		return err
	}
	// Before it is on the bridge: no frame passes without it.
	if d.can.guardWhy == "" {
		if err := d.can.tags.ensure(h, have); err != nil {
			return err
		}
	}
	if have.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := h.LinkSetMaster(have, bridge); err != nil {
			return fmt.Errorf("put %s on %s: %w", name, bridge.Attrs().Name, err)
		}
	}
	if d.driver == VXLAN {
		if err := d.ensurePeers(h, have, s.Peers); err != nil {
			return err
		}
	}
	err = settle(h, have, d.mtu(s))
	if errors.Is(err, unix.ENETDOWN) { // a link of a link that is down cannot come up
		return fmt.Errorf("underlay link %s is down: %w", u.name, err)
	}
	return err
}

// findPort returns the port, made anew where it cannot be repaired.
func (d *Driver) findPort(h *nl.Handle, s hostops.NetworkSpec, u underlay) (nl.Link, error) {
	want := d.desiredPort(s, u)
	name := want.Attrs().Name
	have, err := d.mark().claim(h, name, s.Reservation)
	if err != nil {
		return nil, err
	}
	if have != nil {
		why := portDiffers(have, want)
		if why == "" {
			return have, nil
		}
		d.log.Warn("make link anew", "link", name, "why", why)
		if err := del(h, have); err != nil {
			return nil, err
		}
	}
	have, err = d.mark().create(h, want, s.Reservation)
	if errors.Is(err, unix.EEXIST) {
		return d.settleRival(h, s, u, want, err)
	}
	return have, err
}

// settleRival finds out which link the kernel means by "file exists": it has
// one with the same tag on the same underlay, whatever its name. One of ours
// was renamed, and goes; any other is somebody's.
func (d *Driver) settleRival(h *nl.Handle, s hostops.NetworkSpec, u underlay, want nl.Link, cause error) (nl.Link, error) {
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	l := rival(links, want)
	if l == nil {
		return nil, fmt.Errorf("%s on %s is in use by a link that cannot be seen from here, perhaps in another network namespace (%w): %w",
			tagOf(want), u.name, cause, hostops.ErrForeign)
	}
	name := l.Attrs().Name
	switch d.mark().whose(l, s.Reservation) {
	case ownerOther:
		return nil, fmt.Errorf("%s on %s is in use by link %s, which carries %s: %w", tagOf(want), u.name, name, l.Attrs().Alias, hostops.ErrBusy)
	case ownerForeign:
		return nil, fmt.Errorf("%s on %s is in use by link %s: %w", tagOf(want), u.name, name, hostops.ErrForeign)
	}
	d.log.Warn("make link anew", "link", want.Attrs().Name, "why", "it was renamed "+name)
	if err := del(h, l); err != nil {
		return nil, err
	}
	return d.mark().create(h, want, s.Reservation)
}

// rival is the link that has the tag of the wanted one; nil if there is none.
func rival(links []nl.Link, want nl.Link) nl.Link {
	for _, l := range links {
		switch w := want.(type) {
		case *nl.Vlan:
			v, ok := l.(*nl.Vlan)
			if ok && v.VlanId == w.VlanId && v.VlanProtocol == w.VlanProtocol && v.ParentIndex == w.ParentIndex && v.NetNsID < 0 {
				return l
			}
		case *nl.Vxlan:
			if v, ok := l.(*nl.Vxlan); ok && v.VxlanId == w.VxlanId && v.Port == w.Port {
				return l
			}
		}
	}
	return nil
}

func tagOf(l nl.Link) string {
	switch l := l.(type) {
	case *nl.Vlan:
		return fmt.Sprintf("VLAN %d", l.VlanId)
	case *nl.Vxlan:
		return fmt.Sprintf("VNI %d, port %d", l.VxlanId, l.Port)
	}
	return l.Attrs().Name
}

// ensurePeers makes the flood list what it should be, and forgets guests that
// were learned behind hosts that are no peers any more.
func (d *Driver) ensurePeers(h *nl.Handle, port nl.Link, peers []netip.Addr) error {
	index := port.Attrs().Index
	have, err := dump(func() ([]nl.Neigh, error) { return h.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("read forwarding entries: %w", err)
	}
	add, remove := fdbDiff(have, peers, d.cfg.Local)
	for _, n := range remove {
		n.Family, n.Flags = unix.AF_BRIDGE, nl.NTF_SELF
		n.MasterIndex, n.Vlan = 0, 0
		if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove forwarding entry to %s: %w", n.IP, err)
		}
	}
	for _, p := range add {
		err := h.NeighAppend(&nl.Neigh{
			LinkIndex: index, Family: unix.AF_BRIDGE, State: nl.NUD_PERMANENT | nl.NUD_NOARP,
			Flags: nl.NTF_SELF, IP: p.AsSlice(), HardwareAddr: zeroMAC,
		})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add forwarding entry to %s: %w", p, err)
		}
	}
	return nil
}
