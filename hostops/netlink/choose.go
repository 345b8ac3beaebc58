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
