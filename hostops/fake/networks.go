package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"vcn/hostops"
)

type network struct {
	spec    hostops.NetworkSpec
	foreign bool
	broken  string
}

type networks struct{ h *Host }

func (f networks) Driver() (name, why string) {
	return f.h.cfg.NetworkDriver, "fake host"
}

func (f networks) Ensure(ctx context.Context, s hostops.NetworkSpec) (string, error) {
	if err := s.Validate(); err != nil {
		return "", fmt.Errorf("ensure network: %w", err)
	}
	if err := f.h.enter(ctx, "Networks", "Ensure", fmt.Sprint(s.VLAN)); err != nil {
		return "", err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	n := f.h.networks[s.VLAN]
	switch {
	case n != nil && n.foreign:
		return "", fmt.Errorf("ensure network %d: %w", s.VLAN, hostops.ErrForeign)
	case n != nil && n.spec.Reservation != s.Reservation:
		return "", fmt.Errorf("ensure network %d: it carries reservation %s: %w", s.VLAN, n.spec.Reservation, hostops.ErrBusy)
	}
	s.Peers = slices.Clone(s.Peers)
	f.h.networks[s.VLAN] = &network{spec: s}
	return hostops.BridgeName(s.VLAN), nil
}

func (f networks) Remove(ctx context.Context, vlan int) error {
	if err := hostops.CheckVLAN(vlan); err != nil {
		return fmt.Errorf("remove network: %w", err)
	}
	if err := f.h.enter(ctx, "Networks", "Remove", fmt.Sprint(vlan)); err != nil {
		return err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if n := f.h.networks[vlan]; n != nil && n.foreign {
		return fmt.Errorf("remove network %d: %w", vlan, hostops.ErrForeign)
	}
	delete(f.h.networks, vlan)
	return nil
}

func (f networks) List(ctx context.Context) ([]hostops.Network, error) {
	if err := f.h.enter(ctx, "Networks", "List", ""); err != nil {
		return nil, err
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	var out []hostops.Network
	for _, vlan := range slices.Sorted(maps.Keys(f.h.networks)) {
		if n := f.h.networks[vlan]; !n.foreign {
			out = append(out, hostops.Network{
				Reservation: n.spec.Reservation, VLAN: vlan, Bridge: hostops.BridgeName(vlan),
				Healthy: n.broken == "", Detail: n.broken,
			})
		}
	}
	return out, nil
}

// AddForeignNetwork puts a link of somebody else where that network would be.
func (h *Host) AddForeignNetwork(vlan int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[vlan] = &network{foreign: true}
}

// BreakNetwork damages a network until it is ensured again.
func (h *Host) BreakNetwork(vlan int, detail string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.networks[vlan]; n != nil {
		n.broken = detail
	}
}

// Peers returns the hosts a network's frames are sent to.
func (h *Host) Peers(vlan int) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.networks[vlan]
	if n == nil {
		return nil
	}
	var out []string
	for _, p := range n.spec.Peers {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}
