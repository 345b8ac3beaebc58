package netlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	nl "github.com/vishvananda/netlink"
	nlmsg "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

// view is what List has read, all of it or nothing.
type view struct {
	links []nl.Link
	// addrs counts the addresses on each link.
	addrs map[int]int
	// vlans are those of each bridge port; nil where bridges do not filter.
	vlans map[int32][]*nlmsg.BridgeVlanInfo
	// unguarded are those of our links without their guard.
	unguarded map[int]bool
	// wants is the port that a network should have; nil while noUnderlay says
	// why that cannot be known.
	wants      func(vlan int) nl.Link
	noUnderlay string
	can        kernelCan
}

// List is hostops.Networks, ordered by VLAN.
func (d *Driver) List(ctx context.Context) ([]hostops.Network, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var v view
	err := inNetns(d.cfg.Netns, func(h *nl.Handle) (err error) {
		v, err = d.observe(h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	return d.mark().summarize(v), nil
}

func (d *Driver) observe(h *nl.Handle) (view, error) {
	v := view{addrs: map[int]int{}, unguarded: map[int]bool{}, can: d.can}
	var err error
	if v.links, err = dump(h.LinkList); err != nil {
		return view{}, fmt.Errorf("read links: %w", err)
	}
	addrs, err := dump(func() ([]nl.Addr, error) { return h.AddrList(nil, nl.FAMILY_ALL) })
	if err != nil {
		return view{}, fmt.Errorf("read addresses: %w", err)
	}
	for _, a := range addrs {
		v.addrs[a.LinkIndex]++
	}
	if d.can.filterWhy == "" {
		if v.vlans, err = dump(h.BridgeVlanList); err != nil {
			return view{}, fmt.Errorf("read VLANs of bridge ports: %w", err)
		}
		if v.links, err = withoutGone(h, v.links, v.vlans); err != nil {
			return view{}, err
		}
	}
	for _, l := range v.links {
		_, bridge, ok := vlanOf(l.Attrs().Name)
		if !ok || d.can.guardWhy != "" || d.mark().whose(l, "") == ownerForeign {
			continue
		}
		g := d.can.tags
		if bridge {
			g = d.can.hosts
		}
		stands, err := g.stands(h, l)
		if err != nil {
			return view{}, err
		}
		v.unguarded[l.Attrs().Index] = !stands
	}
	u, err := d.underlay(h)
	if errors.Is(err, hostops.ErrNotFound) {
		v.noUnderlay = err.Error()
	} else if err != nil {
		return view{}, err
	}
	v.wants = func(vlan int) nl.Link { return d.desiredPort(hostops.NetworkSpec{VLAN: vlan}, u) }
	return v, nil
}

// withoutGone leaves out ports that went away after the links were read: that
// they have no VLAN is no damage.
func withoutGone(h *nl.Handle, links []nl.Link, vlans map[int32][]*nlmsg.BridgeVlanInfo) ([]nl.Link, error) {
	var out []nl.Link
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex != 0 && len(vlans[int32(a.Index)]) == 0 {
			_, err := h.LinkByIndex(a.Index)
			if absent := (nl.LinkNotFoundError{}); errors.As(err, &absent) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("read link %s: %w", a.Name, err)
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// vlanOf reads the VLAN out of a bridge's or port's name.
func vlanOf(name string) (vlan int, bridge, ok bool) {
	for _, prefix := range []string{hostops.Mark + "b", hostops.Mark + "v"} {
		digits, cut := strings.CutPrefix(name, prefix)
		if !cut {
			continue
		}
		vlan, err := strconv.Atoi(digits)
		if err != nil || hostops.CheckVLAN(vlan) != nil || strconv.Itoa(vlan) != digits {
			continue
		}
		return vlan, prefix == hostops.Mark+"b", true
	}
	return 0, false, false
}

// summarize turns what is on a host into the networks of ours among it.
func (m mark) summarize(v view) []hostops.Network {
	type pair struct{ bridge, port nl.Link }
	found := map[int]*pair{}
	for _, l := range v.links {
		vlan, bridge, ok := vlanOf(l.Attrs().Name)
		if !ok || m.whose(l, "") == ownerForeign {
			continue
		}
		p := found[vlan]
		if p == nil {
			p = &pair{}
			found[vlan] = p
		}
		if bridge {
			p.bridge = l
		} else {
			p.port = l
		}
	}
	var out []hostops.Network
	for vlan, p := range found {
		n := hostops.Network{VLAN: vlan, Bridge: hostops.BridgeName(vlan)}
		n.Reservation, n.Detail = m.judge(p.bridge, p.port)
		if n.Detail == "" {
			n.Detail = v.differs(vlan, p.bridge, p.port)
		}
		n.Healthy = n.Detail == ""
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b hostops.Network) int { return a.VLAN - b.VLAN })
	return out
}

// judge says whose network it is and whether it is whole and up.
func (m mark) judge(bridge, port nl.Link) (reservation, detail string) {
	for _, l := range []nl.Link{port, bridge} { // the bridge's word counts
		if l == nil {
			continue
		}
		if r, ok := strings.CutPrefix(l.Attrs().Alias, string(m)); ok {
			reservation = r
		}
	}
	switch {
	case bridge == nil:
		return reservation, "the bridge is missing"
	case port == nil:
		return reservation, "the port to the other hosts is missing"
	case bridge.Attrs().Alias == "" || port.Attrs().Alias == "":
		return reservation, "half-made"
	case bridge.Attrs().Alias != port.Attrs().Alias:
		return reservation, "bridge and port belong to different reservations"
	case bridge.Type() != "bridge":
		return reservation, "the bridge is a " + bridge.Type() + " link"
	case port.Attrs().MasterIndex != bridge.Attrs().Index:
		return reservation, "the port is not on the bridge"
	case bridge.Attrs().Flags&net.FlagUp == 0:
		return reservation, "the bridge is down"
	case port.Attrs().Flags&net.FlagUp == 0:
		return reservation, "the port is down"
	case port.Attrs().OperState == nl.OperDown || port.Attrs().OperState == nl.OperLowerLayerDown:
		return reservation, "the underlay is down"
	}
	return reservation, ""
}

// differs says what Ensure would repair in a network that is whole and up.
func (v view) differs(vlan int, bridge, port nl.Link) string {
	b, p := bridge.Attrs(), port.Attrs()
	if v.noUnderlay != "" {
		return v.noUnderlay
	}
	if why := portDiffers(port, v.wants(vlan)); why != "" {
		return "the port is wrong: " + why
	}
	if why, _ := v.can.bridgeDiffers(bridge.(*nl.Bridge)); why != "" {
		return why
	}
	switch {
	case b.MTU != p.MTU:
		return fmt.Sprintf("the bridge has MTU %d, its port %d", b.MTU, p.MTU)
	case v.addrs[b.Index]+v.addrs[p.Index] > 0:
		return "the host has an address in the network"
	case b.RawFlags&unix.IFF_NOARP == 0:
		return "the host asks for addresses in the network"
	case v.unguarded[b.Index]:
		return "the host can be reached from the network"
	case v.unguarded[p.Index]:
		return "tagged frames can leave the host"
	}
	if v.can.filterWhy != "" {
		return ""
	}
	for _, l := range v.links {
		if l.Attrs().MasterIndex != b.Index {
			continue
		}
		if why := memberWhy(v.vlans[int32(l.Attrs().Index)]); why != "" {
			return "bridge port " + l.Attrs().Name + " " + why
		}
	}
	return ""
}
