package netlink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

// Driver makes private networks in one network namespace. It is safe for
// concurrent use; changes follow each other.
type Driver struct {
	cfg    Config
	driver string
	why    string
	can    kernelCan
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
	can, err := probeKernel()
	if err != nil {
		return nil, fmt.Errorf("set up networks: %w", err)
	}
	d := &Driver{cfg: c, can: can, log: c.Log}
	err = inNetns(c.Netns, func(h *nl.Handle) error {
		u, err := d.underlay(h)
		if err != nil {
			return err
		}
		return d.choose(h, u)
	})
	if err != nil {
		return nil, fmt.Errorf("set up networks: %w", err)
	}
	c.Log.Info("private networks", "driver", d.driver, "why", d.why, "tags", can.String())
	if can.guardWhy != "" {
		c.Log.Warn("guests can send tagged frames to the underlay", "why", can.guardWhy)
	}
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
func (d *Driver) Driver() (name, why string) { return d.driver, d.why + "; " + d.can.String() }

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
		if err := d.ensureMembers(h, bridge); err != nil {
			return err
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
