//go:build rooted

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
	"vcn/hostops"
)

// isolation asks from inside the guests, and from the hosts, whether the two
// clusters meet anywhere.
func (l *life) isolation(t *testing.T) {
	a, b := l.alpha, l.beta
	if a.VLAN == b.VLAN || a.Subnet == b.Subnet || a.Frontend.Address == b.Frontend.Address || a.Frontend.HostKey == b.Frontend.HostKey {
		t.Errorf("alpha and beta share something: VLANs %d and %d, subnets %s and %s, public addresses %s and %s",
			a.VLAN, b.VLAN, a.Subnet, b.Subnet, a.Frontend.Address, b.Frontend.Address)
	}
	l.notReached(t, b, a)
	l.notReached(t, a, b)
	l.stranger(t, b, a)
	l.noTakeover(t, b, a)
	disjoint(t, a, b)
}

func privateOf(r api.Reservation) (addrs []string) {
	for _, n := range r.Nodes {
		addrs = append(addrs, n.PrivateIP)
	}
	return addrs
}

// pings tries addresses and prints a line for each: yes or no.
func pings(addrs []string) string {
	return fmt.Sprintf("for a in %s; do ping -c2 -i0.3 -W1 $a > /dev/null 2>&1 && echo yes $a || echo no $a; done\n", strings.Join(addrs, " "))
}

func lines(what string, addrs []string) (text string) {
	for _, a := range addrs {
		text += what + " " + a + "\n"
	}
	return text
}

// notReached: from no node of one cluster is a private address of the other
// reached, while its own are.
func (l *life) notReached(t *testing.T, from, to api.Reservation) {
	t.Helper()
	own, foreign := privateOf(from), privateOf(to)
	for _, node := range []string{api.FrontendName, "compute-0"} {
		got := l.run(t, 2*time.Minute, from.Name, node, pings(own)+pings(foreign))
		if want := lines("yes", own) + lines("no", foreign); got != want {
			t.Errorf("from %s of %s:\n%swant:\n%s", node, from.Name, got, want)
		}
	}
}

// stranger gives a worker an address of the other cluster's subnet: nobody
// there answers, not even to ARP.
func (l *life) stranger(t *testing.T, from, to api.Reservation) {
	t.Helper()
	subnet, err := netip.ParsePrefix(to.Subnet)
	if err != nil {
		t.Fatal(err)
	}
	b := subnet.Addr().As4()
	b[3] = 200
	alias := netip.AddrFrom4(b)
	if slices.Contains(privateOf(to), alias.String()) || !subnet.Contains(alias) {
		t.Fatalf("%s is not free in %s", alias, subnet)
	}
	foreign := privateOf(to)
	script := fmt.Sprintf("sudo ip addr add %s/%d dev eth0\n", alias, subnet.Bits()) + pings(foreign)
	for _, a := range foreign {
		script += fmt.Sprintf("echo arp %s $(ip neigh show to %s dev eth0 | grep -c lladdr)\n", a, a)
	}
	// The same by broadcast: who answers is in the table of neighbours.
	script += fmt.Sprintf("ping -b -c2 -W1 %s > /dev/null 2>&1 && echo yes broadcast || echo no broadcast\n", broadcast(subnet))
	script += fmt.Sprintf("sudo ip addr del %s/%d dev eth0\n", alias, subnet.Bits())
	want := lines("no", foreign)
	for _, a := range foreign {
		want += "arp " + a + " 0\n"
	}
	want += "no broadcast\n"
	if got := l.run(t, 2*time.Minute, from.Name, "compute-0", script); got != want {
		t.Errorf("compute-0 of %s as %s:\n%swant:\n%s", from.Name, alias, got, want)
	}
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// noTakeover gives a worker the very address of a worker of the other cluster:
// its frontend goes on to reach the right one.
func (l *life) noTakeover(t *testing.T, from, to api.Reservation) {
	t.Helper()
	n := nodeOf(t, to, "compute-0")
	l.run(t, askMax, from.Name, "compute-0", "sudo ip addr add "+n.PrivateIP+"/32 dev eth0\nping -c1 -W1 -b -I "+n.PrivateIP+" 255.255.255.255 > /dev/null 2>&1 || true\n")
	got := l.run(t, askMax, to.Name, api.FrontendName,
		"sudo ip neigh flush to "+n.PrivateIP+" dev eth0\nping -c2 -W2 "+n.PrivateIP+" > /dev/null || exit 1\nip neigh show to "+n.PrivateIP+" dev eth0\n")
	if !strings.Contains(got, "lladdr "+n.MAC) {
		t.Errorf("%s of %s is at %q, want %s", n.Name, to.Name, got, n.MAC)
	}
	l.run(t, askMax, from.Name, "compute-0", "sudo ip addr del "+n.PrivateIP+"/32 dev eth0\n")
}

// fdbEntry is a line of bridge(8)'s forwarding table.
type fdbEntry struct {
	MAC    string `json:"mac"`
	Port   string `json:"ifname"`
	Master string `json:"master"`
}

// disjoint: on no host has a bridge a port, a network identifier or a learned
// address of the other cluster.
func disjoint(t *testing.T, clusters ...api.Reservation) {
	t.Helper()
	owner, bridge := map[string]string{}, map[string]string{}
	for _, r := range clusters {
		bridge[hostops.BridgeName(r.VLAN)] = r.Name
		for _, n := range r.Nodes {
			owner[n.MAC] = r.Name
		}
	}
	learned := map[string]bool{}
	for _, h := range bed.Hosts {
		ids := map[int]string{}
		for _, l := range linksOf(t, h) {
			cluster := bridge[l.Master]
			if cluster == "" || l.LinkInfo.Data.ID == 0 {
				continue
			}
			if other := ids[l.LinkInfo.Data.ID]; other != "" {
				t.Errorf("at %s %s and %s share the network identifier %d", h.Name, other, cluster, l.LinkInfo.Data.ID)
			}
			ids[l.LinkInfo.Data.ID] = cluster
		}
		var fdb []fdbEntry
		readJSON(t, &fdb, "bridge", "-n", h.NS, "-j", "fdb", "show")
		for _, e := range fdb {
			on, of := bridge[e.Master], owner[e.MAC]
			if on != "" && of != "" {
				learned[of] = true
				if on != of {
					t.Errorf("at %s the bridge of %s knows %s of %s at %s", h.Name, on, e.MAC, of, e.Port)
				}
			}
		}
	}
	for _, r := range clusters {
		if !learned[r.Name] {
			t.Errorf("no bridge knows any address of %s: this test sees nothing", r.Name)
		}
	}
}
