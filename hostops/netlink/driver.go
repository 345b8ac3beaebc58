package netlink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1

// Driver makes private networks in one network namespace. It is safe for
// concurrent use; changes follow each other.
type Driver struct {
	cfg    Config
	driver string
	why    string
	log    *slog.Logger
	mu     sync.Mutex
}

var _ hostops.Networks = (*Driver)(nil)

// New chooses the driver, which for auto means to try what the kernel can do,
// and looks at the underlay.
func New(c Config) (*Driver, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.Port == 0 {
		c.Port = defaultPort
	}
	c.Local = c.Local.Unmap()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("set up networks: %w", err)
	}
	d := &Driver{cfg: c, log: c.Log}
	err := inNetns(c.Netns, func(h *nl.Handle) error {
		u, err := d.underlay(h)
		if err != nil {
			return err
		}
		return d.choose(h, u)
	})
	if err != nil {
		return nil, fmt.Errorf("set up networks: %w", err)
	}
	c.Log.Info("private networks", "driver", d.driver, "why", d.why)
	return d, nil
}

func (c Config) check() error {
	switch {
	case c.Driver != "" && c.Driver != "auto" && c.Driver != VLAN && c.Driver != VXLAN:
		return fmt.Errorf("driver %q is not auto, vlan or vxlan", c.Driver)
	case strings.Trim(c.Cluster, "-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || len(c.Cluster) > clusterBytesMax:
		return fmt.Errorf("cluster %q: want at most %d letters, digits and '-'", c.Cluster, clusterBytesMax)
	case c.VNIBase < 0 || c.VNIBase+hostops.VLANMax > vniMax:
		return fmt.Errorf("VNI base %d is not within 0-%d", c.VNIBase, vniMax-hostops.VLANMax)
	case c.MTU < hostops.MTUMin || c.MTU > hostops.MTUMax:
		return fmt.Errorf("MTU %d is not within %d-%d", c.MTU, hostops.MTUMin, hostops.MTUMax)
	case c.Port < 1 || c.Port > 65535:
		return fmt.Errorf("UDP port %d", c.Port)
	case c.Underlay == "" && !c.Local.IsValid():
		return errors.New("neither an underlay link nor an address of it is given")
	}
	return nil
}

func (d *Driver) mark() mark { return markOf(d.cfg.Cluster) }

// Driver is hostops.Networks.
func (d *Driver) Driver() (name, why string) { return d.driver, d.why }

// underlay finds the link by its name or by our address on it.
func (d *Driver) underlay(h *nl.Handle) (underlay, error) {
	if d.cfg.Underlay != "" {
		l, err := link(h, d.cfg.Underlay)
		if err != nil {
			return underlay{}, err
		}
		if l == nil {
			return underlay{}, fmt.Errorf("underlay link %s: %w", d.cfg.Underlay, hostops.ErrNotFound)
		}
		return underlay{l.Attrs().Index, l.Attrs().Name, l.Attrs().MTU}, nil
	}
	addrs, err := dump(func() ([]nl.Addr, error) { return h.AddrList(nil, nl.FAMILY_ALL) })
	if err != nil {
		return underlay{}, fmt.Errorf("read addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || ip.Unmap() != d.cfg.Local {
			continue
		}
		l, err := h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return underlay{}, fmt.Errorf("read underlay link: %w", err)
		}
		return underlay{l.Attrs().Index, l.Attrs().Name, l.Attrs().MTU}, nil
	}
	return underlay{}, fmt.Errorf("no link has address %s: %w", d.cfg.Local, hostops.ErrNotFound)
}

// Ensure is hostops.Networks. Errors: hostops.ErrInvalid (also an underlay too
// small), ErrForeign, ErrBusy (the VLAN is another reservation's here).
func (d *Driver) Ensure(ctx context.Context, s hostops.NetworkSpec) (string, error) {
	if err := s.Validate(); err != nil {
		return "", fmt.Errorf("ensure network: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := inNetns(d.cfg.Netns, func(h *nl.Handle) error {
		u, err := d.underlay(h)
		if err != nil {
			return err
		}
		if err := d.checkMTU(d.mtu(s), u); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		bridge, err := d.ensureBridge(h, s)
		if err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.ensurePort(h, s, u, bridge); err != nil {
			return fmt.Errorf("port: %w", err)
		}
		return quietTaps(h, bridge)
	})
	if err != nil {
		return "", fmt.Errorf("ensure network %d: %w", s.VLAN, err)
	}
	return hostops.BridgeName(s.VLAN), nil
}

// claim decides what to do about a link that may be there: keep it, or nil to
// make it. Links of others are refused, half-made ones removed.
func (m mark) claim(h *nl.Handle, name, reservation string) (nl.Link, error) {
	l, err := link(h, name)
	if err != nil || l == nil {
		return nil, err
	}
	switch m.whose(l, reservation) {
	case ownerOurs:
		return l, nil
	case ownerOther:
		return nil, fmt.Errorf("link %s carries %s: %w", name, l.Attrs().Alias, hostops.ErrBusy)
	case ownerHalfMade:
		return nil, del(h, l)
	}
	return nil, fmt.Errorf("link %s: %w", name, hostops.ErrForeign)
}

// create adds a link and marks it.
func (m mark) create(h *nl.Handle, l nl.Link, reservation string) (nl.Link, error) {
	name := l.Attrs().Name
	if err := h.LinkAdd(l); err != nil {
		return nil, fmt.Errorf("add link %s: %w", name, err)
	}
	made, err := link(h, name)
	if err == nil && made == nil {
		err = fmt.Errorf("link %s went away: %w", name, hostops.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if err := h.LinkSetAlias(made, m.alias(reservation)); err != nil {
		return nil, fmt.Errorf("mark link %s: %w", name, err)
	}
	return made, nil
}

func del(h *nl.Handle, l nl.Link) error {
	err := h.LinkDel(l)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func (d *Driver) ensureBridge(h *nl.Handle, s hostops.NetworkSpec) (nl.Link, error) {
	name := hostops.BridgeName(s.VLAN)
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
	off := false
	if have == nil {
		attrs := nl.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Group = name, d.mtu(s), linkGroup
		if attrs.HardwareAddr, err = fixedMAC(); err != nil {
			return nil, err
		}
		if have, err = d.mark().create(h, &nl.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}, s.Reservation); err != nil {
			return nil, err
		}
	}
	if b, ok := have.(*nl.Bridge); ok && (b.MulticastSnooping == nil || *b.MulticastSnooping) {
		// Only this one attribute: sending back all that was read is refused.
		attrs := nl.NewLinkAttrs()
		attrs.Name, attrs.Index = name, have.Attrs().Index
		if err := h.LinkModify(&nl.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
			return nil, fmt.Errorf("switch off multicast snooping: %w", err)
		}
	}
	if err := isolate(h, have); err != nil {
		return nil, err
	}
	return have, settle(h, have, d.mtu(s))
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
	addrs, err := dump(func() ([]nl.Addr, error) { return h.AddrList(bridge, nl.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("read addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := h.AddrDel(bridge, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
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

func (d *Driver) ensurePort(h *nl.Handle, s hostops.NetworkSpec, u underlay, bridge nl.Link) error {
	want := d.desiredPort(s, u)
	name := want.Attrs().Name
	have, err := d.mark().claim(h, name, s.Reservation)
	if err != nil {
		return err
	}
	if have != nil {
		if why := portDiffers(have, want); why != "" {
			d.log.Warn("make link anew", "link", name, "why", why)
			if err := del(h, have); err != nil {
				return err
			}
			have = nil
		}
	}
	if have == nil {
		if have, err = d.mark().create(h, want, s.Reservation); err != nil {
			return err
		}
	}
	// A port speaks for guests only: no address of its own, so no IPv6 noise
	// towards the other hosts. Before it comes up.
	if err := h.LinkSetIP6AddrGenMode(have, addrGenNone); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switch off address generation: %w", err)
	}
	if err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
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
	return settle(h, have, d.mtu(s))
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

// Remove is hostops.Networks. Errors: hostops.ErrForeign.
func (d *Driver) Remove(ctx context.Context, vlan int) error {
	if err := hostops.CheckVLAN(vlan); err != nil {
		return fmt.Errorf("remove network: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := inNetns(d.cfg.Netns, func(h *nl.Handle) error {
		for _, name := range []string{hostops.PortName(vlan), hostops.BridgeName(vlan)} {
			if err := ctx.Err(); err != nil {
				return err
			}
			l, err := link(h, name)
			if err != nil {
				return err
			}
			if l == nil {
				continue
			}
			if d.mark().whose(l, "") == ownerForeign {
				return fmt.Errorf("link %s: %w", name, hostops.ErrForeign)
			}
			taps, err := tapsOn(h, l)
			if err != nil {
				return err
			}
			for _, t := range append(taps, l) {
				if err := del(h, t); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove network %d: %w", vlan, err)
	}
	return nil
}

// List is hostops.Networks, ordered by VLAN.
func (d *Driver) List(ctx context.Context) ([]hostops.Network, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var links []nl.Link
	err := inNetns(d.cfg.Netns, func(h *nl.Handle) (err error) {
		links, err = dump(h.LinkList)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	return d.mark().summarize(links), nil
}
