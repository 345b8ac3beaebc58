package netlink

import (
	"errors"
	"fmt"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

// probeName is a link that exists for a moment while auto tries 802.1Q.
const probeName = hostops.Mark + "probe"

// choose fixes the driver and says why.
func (d *Driver) choose(h *nl.Handle, u underlay) error {
	d.driver, d.why = d.cfg.Driver, "set in the configuration"
	if d.driver == "" || d.driver == "auto" {
		verdict, err := verdict(probe(h, u), u.name)
		if err != nil {
			return err
		}
		d.driver, d.why = verdict.driver, verdict.why
	}
	if d.driver == VXLAN && !d.cfg.Local.IsValid() {
		return fmt.Errorf("driver vxlan (%s) wants this host's address on the underlay", d.why)
	}
	return nil
}

// probe makes and removes an 802.1Q link on the underlay.
func probe(h *nl.Handle, u underlay) error {
	old, err := link(h, probeName)
	if err != nil {
		return err
	}
	if old != nil { // of a process that died while it tried
		if old.Attrs().Group != linkGroup {
			return fmt.Errorf("link %s: %w", probeName, hostops.ErrForeign)
		}
		if err := del(h, old); err != nil {
			return err
		}
	}
	attrs := nl.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Group = probeName, u.index, linkGroup
	l := &nl.Vlan{LinkAttrs: attrs, VlanId: hostops.VLANMax, VlanProtocol: nl.VLAN_PROTOCOL_8021Q}
	if err := h.LinkAdd(l); err != nil {
		return err
	}
	return del(h, l)
}

// kernelCan is what the kernel can do against tagged frames of guests.
type kernelCan struct {
	// filterWhy says why bridges cannot filter by VLAN; empty if they can.
	filterWhy string
	// guardWhy says why links cannot be guarded; empty if they can.
	guardWhy    string
	tags, hosts *guard
}

func (c kernelCan) String() string {
	switch {
	case c.guardWhy == "" && c.filterWhy == "":
		return "tagged frames of guests are dropped where they come in"
	case c.guardWhy == "":
		return "tagged frames of guests are dropped where they would leave the host (" + c.filterWhy + ")"
	case c.filterWhy == "":
		return "tagged frames of guests are dropped where they come in, unless they have two tags (" + c.guardWhy + ")"
	}
	return "tagged frames of guests are not dropped (" + c.filterWhy + "; " + c.guardWhy + ")"
}

// probeKernel tries bridges and guards in a network namespace that goes away
// with them.
func probeKernel() (kernelCan, error) {
	c := kernelCan{tags: newTagGuard(), hosts: newHostGuard()}
	err := inNewNetns(func(h *nl.Handle) error {
		on, attrs := true, nl.NewLinkAttrs()
		attrs.Name = probeName
		err := h.LinkAdd(&nl.Bridge{LinkAttrs: attrs, VlanFiltering: &on})
		if err == nil { // a kernel may also take the attribute and forget it
			l, readErr := link(h, probeName)
			if b, ok := l.(*nl.Bridge); readErr != nil || !ok || !isSet(b.VlanFiltering, true) {
				err = errors.Join(readErr, unix.EOPNOTSUPP)
			}
		} else if addErr := h.LinkAdd(&nl.Bridge{LinkAttrs: attrs}); addErr != nil {
			return fmt.Errorf("add bridge: %w", addErr)
		}
		if err != nil {
			c.filterWhy = fmt.Sprintf("the kernel's bridges do not filter by VLAN: %v", err)
		}
		l, err := link(h, probeName)
		if err != nil || l == nil {
			return fmt.Errorf("read bridge: %w", errors.Join(err, hostops.ErrNotFound))
		}
		for _, g := range []*guard{c.tags, c.hosts} {
			if err = errors.Join(g.learn(), g.ensure(h, l)); err != nil {
				c.guardWhy = fmt.Sprintf("the kernel takes no filter on a link: %v", err)
			}
		}
		return nil
	})
	if err != nil {
		return kernelCan{}, fmt.Errorf("try what the kernel can: %w", err)
	}
	return c, nil
}

type choice struct{ driver, why string }

// verdict turns the outcome of the probe into a choice.
func verdict(err error, underlay string) (choice, error) {
	switch {
	case err == nil:
		return choice{VLAN, "the kernel makes 802.1Q links on " + underlay}, nil
	case errors.Is(err, unix.EEXIST):
		return choice{VLAN, fmt.Sprintf("the kernel has 802.1Q links: VLAN %d is in use on %s", hostops.VLANMax, underlay)}, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return choice{VXLAN, "the kernel cannot make 802.1Q links on " + underlay + " (no 8021q module, or the link takes no tags)"}, nil
	case errors.Is(err, unix.EPERM):
		return choice{}, fmt.Errorf("try 802.1Q on %s: %w", underlay, err)
	}
	return choice{VXLAN, fmt.Sprintf("802.1Q does not work on %s: %v", underlay, err)}, nil
}
