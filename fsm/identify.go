package fsm

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
)

const (
	frontendNumber = 1  // the frontend's address in the subnet: its first, the cluster's gateway
	workersFrom    = 10 // the first worker's; those between are for virtual addresses to come
)

// identify gives the reservation, and each of its nodes that has none, its
// identifiers and leases them: the next free ones after those given last, so
// that one just given back rests as long as the pool allows. It is done here,
// and not by the leader, because it needs nothing but the state, and so never
// conflicts.
func (t *tx) identify(r *Reservation) error {
	m, err := t.meta()
	if err != nil {
		return err
	}
	pools, err := m.Pools.all()
	if err != nil {
		return err
	}
	if r.VLAN == 0 {
		vlan, err := t.next(pools.vlans, strconv.Itoa(t.state.LastVLAN), 1)
		if err != nil {
			return err
		}
		if r.VLAN, err = strconv.Atoi(vlan[0]); err != nil {
			return fmt.Errorf("read VLAN: %w", err)
		}
		subnet, err := t.next(pools.subnets, t.state.LastSubnet, 1)
		if err != nil {
			return err
		}
		r.Subnet = subnet[0]
		t.state.LastVLAN, t.state.LastSubnet = r.VLAN, r.Subnet
		t.put(tabLeases, &Lease{Kind: LeaseVLAN, Value: strconv.Itoa(r.VLAN), Reservation: r.ID})
		t.put(tabLeases, &Lease{Kind: LeaseSubnet, Value: r.Subnet, Reservation: r.ID})
	}
	if r.Nodes[0].PublicIP == "" {
		public, err := t.next(pools.publics, t.state.LastPublic, 1)
		if err != nil {
			return err
		}
		r.Nodes[0].PublicIP, t.state.LastPublic = public[0], public[0]
		t.put(tabLeases, &Lease{Kind: LeasePublic, Value: public[0], Reservation: r.ID, Node: r.Nodes[0].Name})
	}
	if err := t.giveMACs(r, pools.macs); err != nil {
		return err
	}
	return giveAddresses(r)
}

func (t *tx) giveMACs(r *Reservation, macs pool) error {
	var want []*string
	var nodes []string
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.PrivateMAC == "" {
			want, nodes = append(want, &n.PrivateMAC), append(nodes, n.Name)
		}
		if i == 0 && n.PublicMAC == "" {
			want, nodes = append(want, &n.PublicMAC), append(nodes, n.Name)
		}
	}
	if len(want) == 0 {
		return nil
	}
	cards, err := t.next(macs, t.state.LastMAC, len(want))
	if err != nil {
		return err
	}
	for i, c := range cards {
		*want[i] = c
		t.put(tabLeases, &Lease{Kind: LeaseMAC, Value: c, Reservation: r.ID, Node: nodes[i]})
	}
	t.state.LastMAC = cmp.Or(cards[len(cards)-1], t.state.LastMAC)
	return nil
}

// giveAddresses gives each node without one the lowest free address of the subnet.
func giveAddresses(r *Reservation) error {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return invalid("subnet %q", r.Subnet)
	}
	base, last := ip4(subnet.Addr()), uint64(1)<<(32-subnet.Bits())-1 // the last is the broadcast address
	taken := make(map[string]bool, len(r.Nodes))
	for i := range r.Nodes {
		taken[r.Nodes[i].PrivateIP] = true
	}
	number := uint64(workersFrom)
	for i := range r.Nodes {
		n := &r.Nodes[i]
		switch {
		case n.PrivateIP != "":
			continue
		case i == 0:
			n.PrivateIP = addr4(base + frontendNumber).String()
			continue
		}
		for taken[addr4(base+number).String()] {
			number++
		}
		if number >= last {
			return fmt.Errorf("%d nodes in a subnet of /%d: %w", len(r.Nodes), subnet.Bits(), ErrPoolEmpty)
		}
		n.PrivateIP = addr4(base + number).String()
		number++
	}
	return nil
}

// NodesFit is how many nodes one cluster's subnet has addresses for.
func (p Pools) NodesFit() int { return max(1<<(32-p.SubnetBits)-1-workersFrom, 0) + 1 }

// Clusters is how many clusters may exist at once: each has a VLAN, a subnet and
// a public address. Zero if the pools are wrong.
func (p Pools) Clusters() int {
	subnets, err1 := p.subnets()
	publics, err2 := p.publics()
	if err1 != nil || err2 != nil {
		return 0
	}
	return int(min(p.vlans().size, subnets.size, publics.size))
}

// poolSet is every pool that identifiers are taken from.
type poolSet struct{ vlans, subnets, publics, macs pool }

func (p Pools) all() (s poolSet, err error) {
	s.vlans = p.vlans()
	if s.subnets, err = p.subnets(); err != nil {
		return s, err
	}
	if s.publics, err = p.publics(); err != nil {
		return s, err
	}
	s.macs, err = p.macs()
	return s, err
}

// free gives leases of the reservation back: of one node, or all with "".
func (t *tx) unlease(reservation, node string) {
	for _, l := range all(scan[Lease](t.reader, tabLeases, "reservation", key(reservation))) {
		if node == "" || l.Node == node {
			t.del(tabLeases, l)
		}
	}
}
