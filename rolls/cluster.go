package rolls

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// Numbers a user may have: below are the image's own (Debian Policy 9.2), above
// are the dynamic ranges of systemd.
const (
	UIDMin = 1000
	UIDMax = 59999
)

var reNode = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`) // RFC 1123 label, letter first

// check refuses a cluster whose values would end up in files as something else
// than they are: every value here is written into configuration of the guest.
func (c *Cluster) check(m Manifest) error {
	bad := func(field, value, want string) error {
		return fmt.Errorf("%w: %s: %q: want %s", ErrCluster, field, value, want)
	}
	for _, s := range []struct{ field, value string }{{"id", c.ID}, {"name", c.Name}, {"project", c.Project}} {
		if len(s.value) > 100 || strings.ContainsFunc(s.value, control) {
			return bad(s.field, s.value, "up to 100 characters, none of them control")
		}
	}
	if p, err := netip.ParsePrefix(c.Subnet); err != nil || p.Masked() != p {
		return bad("subnet", c.Subnet, "a network in CIDR form, such as 10.1.0.0/16")
	}
	if len(c.Nodes) == 0 || c.Nodes[0].Role != ApplianceFrontend {
		return bad("nodes", "", "the frontend first")
	}
	seen := map[string]bool{}
	for i, n := range c.Nodes {
		field := fmt.Sprintf("nodes[%d]", i)
		switch {
		case !reNode.MatchString(n.Name) || seen[n.Name]:
			return bad(field+".name", n.Name, "a host name, each once")
		case i > 0 && n.Role != ApplianceWorker:
			return bad(field+".role", n.Role, ApplianceWorker)
		}
		seen[n.Name] = true
		if n.Private.Gateway != "" && n.Public != nil && n.Public.Gateway != "" {
			return bad(field+".gateway", n.Private.Gateway, "one gateway in all")
		}
		for _, nic := range []*NIC{&n.Private, n.Public} {
			if nic == nil {
				continue
			}
			if f, v, want := nic.fault(); want != "" {
				return bad(field+"."+f, v, want)
			}
		}
	}
	return c.checkUsers(m)
}

func (c *Cluster) checkUsers(m Manifest) error {
	names, ids := map[string]bool{}, map[int]bool{}
	for _, id := range m.Users {
		ids[id.UID] = true
	}
	for i, u := range c.Users {
		field := fmt.Sprintf("users[%d]", i)
		_, inPasswd := m.Users[u.Name]
		_, inGroup := m.Groups[u.Name]
		switch {
		case !reAccount.MatchString(u.Name) || names[u.Name]:
			return fmt.Errorf("%w: %s.name: %q: want a user's name, each once", ErrCluster, field, u.Name)
		case inPasswd || inGroup || u.Name == "root":
			return fmt.Errorf("%w: %s.name: %q: want a name that the image does not use itself", ErrCluster, field, u.Name)
		case u.UID < UIDMin || u.UID > UIDMax || ids[u.UID]:
			return fmt.Errorf("%w: %s.uid: %d: want %d-%d, each once", ErrCluster, field, u.UID, UIDMin, UIDMax)
		}
		for _, k := range u.Keys {
			if strings.ContainsFunc(k, control) || len(k) > 16<<10 {
				return fmt.Errorf("%w: %s.keys: want one line each, at most 16 KiB", ErrCluster, field)
			}
		}
		names[u.Name], ids[u.UID] = true, true
	}
	return nil
}

func (n *NIC) fault() (field, value, want string) {
	if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 || hw.String() != n.MAC {
		return "mac", n.MAC, "six bytes as 02:00:00:00:00:01, in lower case"
	}
	p, err := netip.ParsePrefix(n.Address)
	if err != nil || !p.Addr().Is4() {
		return "address", n.Address, "an IPv4 address in CIDR form, such as 10.1.0.1/16"
	}
	if n.Gateway != "" {
		if gw, err := netip.ParseAddr(n.Gateway); err != nil || !p.Contains(gw) {
			return "gateway", n.Gateway, "an address within " + p.Masked().String() + ", or nothing"
		}
	}
	for _, d := range n.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return "dns", d, "an address"
		}
	}
	return "", "", ""
}

func control(r rune) bool { return r < ' ' || r == 0x7f }
