package notify

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

const nameBytesMax = 253

// namePattern is a host name (RFC 1123) whose last label starts with a letter, so
// that no spelling of an IPv4 address ("127.1", "0x7f.1", "2130706433") is one.
var namePattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// reach is how far an address is from being public.
type reach int

const (
	reachPublic reach = iota
	reachPrivate
	reachLocal // of this machine or link
	reachNever // cannot be a receiver
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// special are the special-purpose addresses of IANA's registries (RFC 6890),
// as far as they are not globally reachable or no place for a server.
var special = []struct {
	reach reach
	of    []netip.Prefix
}{
	{reachNever, prefixes("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8")},
	{reachLocal, prefixes("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")},
	{reachPrivate, prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24")},
	// 2001::/23 has Teredo and ORCHID in it.
	{reachPrivate, prefixes("2001::/23", "2001:db8::/32", "3fff::/20", "fc00::/7", "fec0::/10")},
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour     = netip.MustParsePrefix("2002::/16")    // RFC 3056
	v4Compatible  = netip.MustParsePrefix("::/96")        // RFC 4291, deprecated
)

// embedded is the IPv4 address that a packet to an IPv6 one may end at.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return a, false
	}
	b := a.As16()
	low := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(a), v4Compatible.Contains(a):
		return low, true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214
		return low, true
	}
	return a, false
}

func reachOf(a netip.Addr) reach {
	for _, s := range special {
		if slices.ContainsFunc(s.of, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return s.reach
		}
	}
	out := reachPublic
	if a.Is6() && !globalUnicast.Contains(a) && !nat64.Contains(a) {
		out = reachPrivate
	}
	if in, ok := embedded(a); ok {
		out = max(out, reachOf(in))
	}
	return out
}

// policy says what webhooks may reach.
type policy struct {
	names    []string // exact
	below    []string // ".example.com"
	nets     []netip.Prefix
	internal func(netip.Addr) bool
	own      func() []netip.Addr
}

func newPolicy(allow []string, internal func(netip.Addr) bool) (policy, error) {
	p := policy{internal: internal, own: ownAddresses}
	if len(allow) > allowEntriesMax {
		return p, fmt.Errorf("WebhookAllow: %d entries: want at most %d", len(allow), allowEntriesMax)
	}
	for _, e := range allow {
		e = strings.ToLower(e)
		name, star := strings.CutPrefix(e, "*.")
		if n, err := netip.ParsePrefix(e); err == nil && !n.Addr().Is4In6() {
			p.nets = append(p.nets, n.Masked())
		} else if a, err := netip.ParseAddr(e); err == nil && a.Zone() == "" {
			a = a.Unmap()
			p.nets = append(p.nets, netip.PrefixFrom(a, a.BitLen()))
		} else if isName(name) && !star {
			p.names = append(p.names, name)
		} else if isName(name) && strings.Contains(name, ".") { // "*.com" opens too much to be meant
			p.below = append(p.below, "."+name)
		} else {
			return p, fmt.Errorf("WebhookAllow: %q: want a host name, *.example.com, an address or a CIDR", e)
		}
	}
	return p, nil
}

func isName(s string) bool { return len(s) <= nameBytesMax && namePattern.MatchString(s) }

// named tells whether the operator has allowed a host by its name.
func (p *policy) named(host string) bool {
	return slices.Contains(p.names, host) || slices.ContainsFunc(p.below, func(s string) bool { return strings.HasSuffix(host, s) })
}

// ownAddresses are this machine's. They may be public, and behind them may
// listen what trusts the machine itself.
func ownAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			out = append(out, p.Addr().Unmap().WithZone(""))
		}
	}
	return out
}

// check returns nil if an address, found for a host, may be dialled; plain is
// for http.
func (p *policy) check(host string, a netip.Addr, plain bool) error {
	if !a.IsValid() || a.Zone() != "" {
		return fmt.Errorf("no plain address: %w", ErrRefused)
	}
	a = a.Unmap()
	r := reachOf(a)
	if r == reachNever {
		return fmt.Errorf("its address cannot be a receiver's: %w", ErrRefused)
	}
	if slices.ContainsFunc(p.nets, func(n netip.Prefix) bool { return n.Contains(a) }) {
		return nil
	}
	if r == reachLocal {
		return fmt.Errorf("its address is local, and no CIDR in the operator's list has it: %w", ErrRefused)
	}
	if p.named(host) {
		return nil
	}
	if r != reachPublic || p.isInternal(a) {
		return fmt.Errorf("its address is not public, and not in the operator's list: %w", ErrRefused)
	}
	if plain {
		return fmt.Errorf("http is only for what is in the operator's list, others need https: %w", ErrRefused)
	}
	return nil
}

func (p *policy) isInternal(a netip.Addr) bool {
	ends := []netip.Addr{a}
	if in, ok := embedded(a); ok {
		ends = append(ends, in)
	}
	own := p.own()
	return slices.ContainsFunc(ends, func(e netip.Addr) bool {
		return slices.Contains(own, e) || p.internal != nil && p.internal(e)
	})
}
