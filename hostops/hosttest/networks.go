package hosttest

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"vcn/hostops"
)

// NetworksEnv is what one case needs.
type NetworksEnv struct {
	Networks hostops.Networks
	// Foreign puts somebody else's link where that network's bridge would be.
	Foreign func(t *testing.T, vlan int)
	// Break damages a network so that it is no longer healthy.
	Break func(t *testing.T, vlan int)
	// Damages are more ways to break one, by name. Each must be seen by List and
	// repaired by Ensure, or the agent would never know of it.
	Damages map[string]func(t *testing.T, vlan int)
}

// TestNetworks checks the contract of hostops.Networks.
func TestNetworks(t *testing.T, factory func(t *testing.T) NetworksEnv) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, context.Context, NetworksEnv)
	}{
		{"the driver says its name and why", networkDriver},
		{"ensure makes, and again changes nothing", networkEnsure},
		{"damage is seen and repaired", networkRepair},
		{"every kind of damage is seen and repaired", networkDamages},
		{"remove leaves nothing, twice", networkRemove},
		{"foreign links are left alone", networkForeign},
		{"a VLAN is never taken from another reservation", networkTaken},
		{"nonsense is refused and changes nothing", networkInvalid},
		{"an ended context ends the call", networkContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			c.run(t, ctx, factory(t))
		})
	}
}

func networkSpec(vlan int) hostops.NetworkSpec {
	return hostops.NetworkSpec{
		Reservation: "r-conformance", VLAN: vlan,
		Peers: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")},
	}
}

func ensureNetwork(t *testing.T, ctx context.Context, e NetworksEnv, s hostops.NetworkSpec) {
	t.Helper()
	bridge, err := e.Networks.Ensure(ctx, s)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	if bridge != hostops.BridgeName(s.VLAN) {
		t.Errorf("the bridge is %q", bridge)
	}
	n := network(t, ctx, e, s.VLAN)
	if n == nil || !n.Healthy || n.Reservation != s.Reservation || n.Bridge != bridge {
		t.Fatalf("after Ensure: %+v", n)
	}
}

func network(t *testing.T, ctx context.Context, e NetworksEnv, vlan int) *hostops.Network {
	t.Helper()
	all, err := e.Networks.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, n := range all {
		if n.VLAN == vlan {
			return &n
		}
	}
	return nil
}

func networkDriver(t *testing.T, ctx context.Context, e NetworksEnv) {
	if name, why := e.Networks.Driver(); name == "" || why == "" {
		t.Errorf("driver %q because %q", name, why)
	}
}

func networkEnsure(t *testing.T, ctx context.Context, e NetworksEnv) {
	for range 2 {
		ensureNetwork(t, ctx, e, networkSpec(20))
	}
	ensureNetwork(t, ctx, e, networkSpec(hostops.VLANMax))
	ensureNetwork(t, ctx, e, networkSpec(hostops.VLANMin))
	all, err := e.Networks.List(ctx)
	if err != nil || len(all) != 3 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func networkRepair(t *testing.T, ctx context.Context, e NetworksEnv) {
	ensureNetwork(t, ctx, e, networkSpec(20))
	e.Break(t, 20)
	if n := network(t, ctx, e, 20); n == nil || n.Healthy || n.Detail == "" {
		t.Errorf("damaged: %+v", n)
	}
	ensureNetwork(t, ctx, e, networkSpec(20))
}

func networkDamages(t *testing.T, ctx context.Context, e NetworksEnv) {
	ensureNetwork(t, ctx, e, networkSpec(20))
	ensureNetwork(t, ctx, e, networkSpec(21))
	for name, damage := range e.Damages {
		damage(t, 20)
		if n := network(t, ctx, e, 20); n == nil || n.Healthy || n.Detail == "" {
			t.Errorf("%s: not seen: %+v", name, n)
		}
		if _, err := e.Networks.Ensure(ctx, networkSpec(20)); err != nil {
			t.Errorf("%s: Ensure: %v", name, err)
		}
		if n := network(t, ctx, e, 20); n == nil || !n.Healthy {
			t.Errorf("%s: not repaired: %+v", name, n)
		}
		if n := network(t, ctx, e, 21); n == nil || !n.Healthy {
			t.Fatalf("%s: another network was touched: %+v", name, n)
		}
	}
}

func networkRemove(t *testing.T, ctx context.Context, e NetworksEnv) {
	ensureNetwork(t, ctx, e, networkSpec(20))
	ensureNetwork(t, ctx, e, networkSpec(21))
	for range 2 {
		if err := e.Networks.Remove(ctx, 20); err != nil {
			t.Fatalf("Remove: %v", err)
		}
		if n := network(t, ctx, e, 20); n != nil {
			t.Fatalf("after Remove: %+v", *n)
		}
	}
	if n := network(t, ctx, e, 21); n == nil || !n.Healthy {
		t.Errorf("Remove of one network touched another: %+v", n)
	}
}

func networkForeign(t *testing.T, ctx context.Context, e NetworksEnv) {
	e.Foreign(t, 20)
	if _, err := e.Networks.Ensure(ctx, networkSpec(20)); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Ensure: %v, want ErrForeign", err)
	}
	if err := e.Networks.Remove(ctx, 20); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Remove: %v, want ErrForeign", err)
	}
	if n := network(t, ctx, e, 20); n != nil {
		t.Errorf("List shows it: %+v", *n)
	}
}

func networkTaken(t *testing.T, ctx context.Context, e NetworksEnv) {
	ensureNetwork(t, ctx, e, networkSpec(20))
	other := networkSpec(20)
	other.Reservation = "r-other"
	if _, err := e.Networks.Ensure(ctx, other); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("Ensure: %v, want ErrBusy", err)
	}
	if n := network(t, ctx, e, 20); n == nil || n.Reservation != "r-conformance" || !n.Healthy {
		t.Errorf("it changed: %+v", n)
	}
	if err := e.Networks.Remove(ctx, 20); err != nil {
		t.Fatal(err)
	}
	ensureNetwork(t, ctx, e, other)
}

func networkInvalid(t *testing.T, ctx context.Context, e NetworksEnv) {
	for name, spoil := range map[string]func(*hostops.NetworkSpec){
		"VLAN 0":         func(s *hostops.NetworkSpec) { s.VLAN = 0 },
		"VLAN 4095":      func(s *hostops.NetworkSpec) { s.VLAN = 4095 },
		"no reservation": func(s *hostops.NetworkSpec) { s.Reservation = "" },
		"tiny MTU":       func(s *hostops.NetworkSpec) { s.MTU = 68 },
		"multicast peer": func(s *hostops.NetworkSpec) { s.Peers = []netip.Addr{netip.MustParseAddr("239.1.1.1")} },
	} {
		s := networkSpec(20)
		spoil(&s)
		if _, err := e.Networks.Ensure(ctx, s); !errors.Is(err, hostops.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if all, err := e.Networks.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("List: %+v, %v", all, err)
	}
}

func networkContext(t *testing.T, ctx context.Context, e NetworksEnv) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Networks.Ensure(ended, networkSpec(20)); !errors.Is(err, context.Canceled) {
		t.Errorf("Ensure: %v", err)
	}
	if _, err := e.Networks.List(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	ensureNetwork(t, ctx, e, networkSpec(20))
}
