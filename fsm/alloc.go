package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"vcn/api"
)

// ErrPoolEmpty: every identifier of the pool is leased.
var ErrPoolEmpty = errors.New("pool is empty")

// pool is a numbered range of identifiers.
type pool struct {
	kind string
	size uint64
	name func(n uint64) string
	// number is the inverse of name; false for what is not of this pool.
	number func(s string) (uint64, bool)
}

func (p pool) has(value string) bool {
	n, ok := p.number(value)
	return ok && p.name(n) == value
}

// next returns n free identifiers after the last one used.
func (r reader) next(p pool, last string, n int) ([]string, error) {
	start := uint64(0)
	if i, ok := p.number(last); ok {
		start = i + 1
	}
	var out []string
	for i := uint64(0); i < p.size && len(out) < n; i++ {
		v := p.name((start + i) % p.size)
		if _, held := first[Lease](r, tabLeases, "id", key(p.kind, v)); !held {
			out = append(out, v)
		}
	}
	if len(out) < n {
		return nil, fmt.Errorf("find %d free of %s: %w", n, p.kind, ErrPoolEmpty)
	}
	return out, nil
}

// FreeVLANs counts the free ones.
func (v *View) FreeVLANs() int {
	m, ok := v.Meta()
	if !ok {
		return 0
	}
	n := m.Pools.VLANLast - m.Pools.VLANFirst + 1
	for range scan[Lease](v.reader, tabLeases, "id", key(LeaseVLAN)) {
		n--
	}
	return n
}

func (p Pools) vlans() pool {
	return pool{
		kind: LeaseVLAN,
		size: uint64(p.VLANLast - p.VLANFirst + 1),
		name: func(n uint64) string { return strconv.Itoa(p.VLANFirst + int(n)) },
		number: func(s string) (uint64, bool) {
			n, err := strconv.Atoi(s)
			return uint64(n - p.VLANFirst), err == nil && n >= p.VLANFirst && n <= p.VLANLast
		},
	}
}

func ip4(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func addr4(n uint64) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b)
}

func (p Pools) subnets() (pool, error) {
	all, err := netip.ParsePrefix(p.Subnets)
	if err != nil || !all.Addr().Is4() || all != all.Masked() {
		return pool{}, wrongPool("subnets", p.Subnets, "an IPv4 network, such as 10.64.0.0/12")
	}
	if p.SubnetBits < all.Bits() || p.SubnetBits > 29 || p.SubnetBits < 8 {
		return pool{}, wrongPool("subnet-bits", strconv.Itoa(p.SubnetBits), fmt.Sprintf("%d-29", max(8, all.Bits())))
	}
	base, shift := ip4(all.Addr()), 32-p.SubnetBits
	return pool{
		kind: LeaseSubnet,
		size: 1 << (p.SubnetBits - all.Bits()),
		name: func(n uint64) string { return netip.PrefixFrom(addr4(base+n<<shift), p.SubnetBits).String() },
		number: func(s string) (uint64, bool) {
			q, err := netip.ParsePrefix(s)
			if err != nil || !q.Addr().Is4() || q.Bits() != p.SubnetBits || !all.Contains(q.Addr()) {
				return 0, false
			}
			return (ip4(q.Addr()) - base) >> shift, true
		},
	}, nil
}

func (p Pools) publics() (pool, error) {
	lo, hi, err := p.publicSpan()
	if err != nil {
		return pool{}, err
	}
	return pool{
		kind: LeasePublic,
		size: ip4(hi) - ip4(lo) + 1,
		name: func(n uint64) string { return addr4(ip4(lo) + n).String() },
		number: func(s string) (uint64, bool) {
			a, err := netip.ParseAddr(s)
			if err != nil || !a.Is4() || a.Less(lo) || hi.Less(a) {
				return 0, false
			}
			return ip4(a) - ip4(lo), true
		},
	}, nil
}

func (p Pools) macs() (pool, error) {
	prefix := strings.ToLower(p.MACPrefix)
	var a, b, c uint8
	if n, err := fmt.Sscanf(prefix, "%02x:%02x:%02x", &a, &b, &c); err != nil || n != 3 || len(prefix) != 8 {
		return pool{}, invalid("MAC prefix %q: want three octets such as 52:54:00", p.MACPrefix)
	}
	if a&1 != 0 || a&2 == 0 {
		return pool{}, invalid("MAC prefix %q: want a locally administered unicast one, such as 52:54:00", p.MACPrefix)
	}
	return pool{
		kind: LeaseMAC,
		size: 1 << 24,
		name: func(n uint64) string {
			return fmt.Sprintf("%s:%02x:%02x:%02x", prefix, byte(n>>16), byte(n>>8), byte(n))
		},
		number: func(s string) (uint64, bool) {
			if len(s) != 17 || s[:8] != prefix {
				return 0, false
			}
			var x, y, z uint8
			if n, err := fmt.Sscanf(s[8:], ":%02x:%02x:%02x", &x, &y, &z); err != nil || n != 3 {
				return 0, false
			}
			return uint64(x)<<16 | uint64(y)<<8 | uint64(z), true
		},
	}, nil
}

// wrongPool is ErrInvalid about one of the pools. The field is the flag of
// "vcnd init" that gave it, so that init can tell what Check says as it stands.
func wrongPool(field, value, want string) error {
	return fmt.Errorf("%w: %w", ErrInvalid, api.FieldError{Field: field, Value: value, Want: want})
}

// Check says what is wrong with the pools, as ErrInvalid with an api.FieldError
// in it. Init asks too: what the state machine refuses must not become the
// first command of a cluster.
func (p Pools) Check() error {
	if p.VLANFirst < 1 || p.VLANLast > 4094 || p.VLANLast < p.VLANFirst {
		return wrongPool("vlans", fmt.Sprintf("%d-%d", p.VLANFirst, p.VLANLast), "a range within 1-4094, such as 100-1099")
	}
	if _, err := p.subnets(); err != nil {
		return err
	}
	public, err := p.checkPublic()
	if err != nil {
		return err
	}
	if err := p.checkGateway(public); err != nil {
		return err
	}
	// A frontend has one foot in each: with an overlap it could not tell them apart.
	if all, err := netip.ParsePrefix(p.Subnets); err != nil || all.Overlaps(public) {
		return wrongPool("subnets", p.Subnets, fmt.Sprintf("a network that does not overlap the public one, %s", public))
	}
	_, err = p.macs()
	return err
}

// publicSpan is the first and the last public address.
func (p Pools) publicSpan() (lo, hi netip.Addr, err error) {
	lo, err1 := netip.ParseAddr(p.PublicFirst)
	hi, err2 := netip.ParseAddr(p.PublicLast)
	if err1 != nil || err2 != nil || !lo.Is4() || !hi.Is4() || hi.Less(lo) {
		return lo, hi, wrongPool("public-pool", p.publicText(), "two IPv4 addresses in order, such as 192.0.2.10-192.0.2.99/24")
	}
	return lo, hi, nil
}

func (p Pools) publicText() string {
	return fmt.Sprintf("%s-%s/%d", p.PublicFirst, p.PublicLast, p.PublicBits)
}

// checkPublic says whether every address of the public pool is one that a
// frontend can have, and returns the network they are in.
func (p Pools) checkPublic() (netip.Prefix, error) {
	lo, hi, err := p.publicSpan()
	if err != nil {
		return netip.Prefix{}, err
	}
	if p.PublicBits < 1 || p.PublicBits > 32 {
		return netip.Prefix{}, wrongPool("public-pool", p.publicText(), "a prefix length of 1-32")
	}
	public := netip.PrefixFrom(lo, p.PublicBits).Masked()
	if !public.Contains(hi) {
		return public, wrongPool("public-pool", p.publicText(), fmt.Sprintf("both ends in one network: %s is not in %s", hi, public))
	}
	first, last := usable(public)
	if lo.Less(first) || last.Less(hi) {
		return public, wrongPool("public-pool", p.publicText(), fmt.Sprintf(
			"addresses within %s-%s: the first and the last of %s are the network's own and its broadcast address", first, last, public))
	}
	return public, nil
}

// checkGateway says whether the gateway is in the public network, and no
// address that a frontend could be given.
func (p Pools) checkGateway(public netip.Prefix) error {
	if p.PublicGateway == "" {
		return nil
	}
	first, last := usable(public)
	gw, err := netip.ParseAddr(p.PublicGateway)
	if err != nil || !gw.Is4() || gw.Less(first) || last.Less(gw) {
		return wrongPool("public-gateway", p.PublicGateway, fmt.Sprintf("an address of the public network, within %s-%s", first, last))
	}
	publics, err := p.publics()
	if err != nil {
		return err
	}
	if publics.has(gw.String()) {
		return wrongPool("public-gateway", p.PublicGateway, fmt.Sprintf(
			"an address of %s outside the pool %s-%s: a frontend would be given it too", public, p.PublicFirst, p.PublicLast))
	}
	return nil
}

// usable is the first and the last address that something in a network may
// have. Networks of two addresses or one have no others (RFC 3021).
func usable(n netip.Prefix) (first, last netip.Addr) {
	lo := ip4(n.Addr())
	hi := lo | (1<<(32-n.Bits()) - 1)
	if n.Bits() <= 30 {
		lo, hi = lo+1, hi-1
	}
	return addr4(lo), addr4(hi)
}

// leasesOf returns the leases that a bound reservation holds, in order.
func leasesOf(r *Reservation) []Lease {
	if r.VLAN == 0 {
		return nil
	}
	out := []Lease{
		{Kind: LeaseVLAN, Value: strconv.Itoa(r.VLAN), Reservation: r.ID},
		{Kind: LeaseSubnet, Value: r.Subnet, Reservation: r.ID},
	}
	for _, n := range r.Nodes {
		out = append(out, Lease{Kind: LeaseMAC, Value: n.PrivateMAC, Reservation: r.ID, Node: n.Name})
		if n.PublicMAC != "" {
			out = append(out, Lease{Kind: LeaseMAC, Value: n.PublicMAC, Reservation: r.ID, Node: n.Name})
		}
		if n.PublicIP != "" {
			out = append(out, Lease{Kind: LeasePublic, Value: n.PublicIP, Reservation: r.ID, Node: n.Name})
		}
	}
	return out
}
