//go:build rooted

package netlink

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

var serial atomic.Int64

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newNetns makes a throw-away namespace.
func newNetns(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("vcnnl-%d-%d", unix.Getpid(), serial.Add(1))
	ip(t, "netns", "add", name)
	t.Cleanup(func() { ip(t, "netns", "del", name) })
	ip(t, "-n", name, "link", "set", "lo", "up")
	return name
}

// hosts are namespaces joined by an underlay of that MTU: 192.0.2.1, .2, …
func hosts(t *testing.T, n, mtu int) []string {
	t.Helper()
	wire := newNetns(t)
	ip(t, "-n", wire, "link", "add", "sw", "mtu", fmt.Sprint(mtu), "type", "bridge")
	ip(t, "-n", wire, "link", "set", "sw", "up")
	var names []string
	for i := range n {
		h := newNetns(t)
		port := fmt.Sprintf("p%d", i)
		ip(t, "-n", wire, "link", "add", port, "mtu", fmt.Sprint(mtu), "type", "veth", "peer", "name", "eth0", "mtu", fmt.Sprint(mtu), "netns", h)
		ip(t, "-n", wire, "link", "set", port, "master", "sw", "up")
		ip(t, "-n", h, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		ip(t, "-n", h, "link", "set", "eth0", "up")
		names = append(names, h)
	}
	return names
}

func driverIn(t *testing.T, ns string, host int, change func(*Config)) *Driver {
	t.Helper()
	c := Config{Driver: VXLAN, Cluster: "c-1", Local: netip.AddrFrom4([4]byte{192, 0, 2, byte(host)}), VNIBase: 0x760000, Netns: "/run/netns/" + ns}
	if change != nil {
		change(&c)
	}
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) {
	hosttest.TestNetworks(t, func(t *testing.T) hosttest.NetworksEnv {
		h := hosts(t, 1, 9000)[0]
		return hosttest.NetworksEnv{
			Networks: driverIn(t, h, 1, nil),
			Foreign: func(t *testing.T, vlan int) {
				ip(t, "-n", h, "link", "add", hostops.BridgeName(vlan), "type", "bridge")
				t.Cleanup(func() { ip(t, "-n", h, "link", "show", hostops.BridgeName(vlan)) })
			},
			Break: func(t *testing.T, vlan int) {
				ip(t, "-n", h, "link", "set", hostops.PortName(vlan), "nomaster", "down")
			},
		}
	})
}

// TestAutoSaysWhatTheKernelCan compares with what the ip command can do.
func TestAutoSaysWhatTheKernelCan(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	want := VXLAN
	if exec.Command("ip", "-n", h, "link", "add", "link", "eth0", "name", "try", "type", "vlan", "id", "5").Run() == nil {
		want = VLAN
	}
	name, why := driverIn(t, h, 1, func(c *Config) { c.Driver = "auto"; c.Underlay = "eth0" }).Driver()
	t.Logf("auto chose %s: %s", name, why)
	if name != want || !strings.Contains(why, "802.1Q") || !strings.Contains(why, "eth0") {
		t.Errorf("%s because %q, want %s", name, why, want)
	}
	if out := ip(t, "-n", h, "-br", "link"); strings.Contains(out, probeName) {
		t.Errorf("the probe is still there:\n%s", out)
	}
	if _, err := New(Config{Driver: VXLAN, Underlay: "eth0", Netns: "/run/netns/" + h}); err == nil {
		t.Error("vxlan without an address was taken")
	}
	if _, err := New(Config{Driver: VXLAN, Local: netip.MustParseAddr("192.0.2.77"), Netns: "/run/netns/" + h}); !errors.Is(err, hostops.ErrNotFound) {
		t.Errorf("an address that no link has: %v", err)
	}
}

// guest is a namespace with a NIC on a bridge.
func guest(t *testing.T, host string, vlan int, addr string) string {
	t.Helper()
	g := newNetns(t)
	tap := fmt.Sprintf("vcntx%d", serial.Add(1))
	ip(t, "-n", host, "link", "add", tap, "type", "veth", "peer", "name", "eth0", "netns", g)
	ip(t, "-n", host, "link", "set", tap, "master", hostops.BridgeName(vlan), "up")
	ip(t, "-n", g, "addr", "add", addr, "dev", "eth0")
	ip(t, "-n", g, "link", "set", "eth0", "up")
	return g
}

// listen opens a UDP socket in a namespace; it hears broadcasts too.
func listen(t *testing.T, ns string) *net.UDPConn {
	t.Helper()
	type answer struct {
		c   *net.UDPConn
		err error
	}
	ch := make(chan answer)
	go func() {
		runtime.LockOSThread() // ends with its thread
		h, err := netns.GetFromName(ns)
		if err == nil {
			defer h.Close()
			err = netns.Set(h)
		}
		var c *net.UDPConn
		if err == nil {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000})
		}
		if err == nil {
			raw, _ := c.SyscallConn()
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
		}
		ch <- answer{c, err}
	}()
	a := <-ch
	if a.err != nil {
		t.Fatal(a.err)
	}
	t.Cleanup(func() { a.c.Close() })
	return a.c
}

// hears repeats a datagram until it arrives, or is sure that it does not.
func hears(t *testing.T, from, to *net.UDPConn, addr string, tries int) bool {
	t.Helper()
	word := fmt.Sprintf("word %d", serial.Add(1))
	buf := make([]byte, 100)
	for range tries {
		// Sending may fail: no answer to ARP is a failure that is wanted.
		from.WriteToUDP([]byte(word), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		to.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
		for {
			n, _, err := to.ReadFromUDP(buf)
			if err != nil {
				break
			}
			if string(buf[:n]) == word {
				return true
			}
		}
	}
	return false
}

func TestFramesCrossHostsAndNeverClusters(t *testing.T) {
	h := hosts(t, 2, 9000)
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	var ds []*Driver
	began := time.Now()
	for i := range h {
		d := driverIn(t, h[i], i+1, nil)
		for _, vlan := range []int{20, 21} {
			if _, err := d.Ensure(t.Context(), hostops.NetworkSpec{Reservation: fmt.Sprintf("r-%d", vlan), VLAN: vlan, Peers: peers}); err != nil {
				t.Fatal(err)
			}
		}
		ds = append(ds, d)
	}
	t.Logf("2 networks on 2 hosts in %v", time.Since(began))
	// Both clusters use the same addresses: nothing but the network separates them.
	a20, b20 := listen(t, guest(t, h[0], 20, "10.0.0.1/24")), listen(t, guest(t, h[1], 20, "10.0.0.2/24"))
	g21 := guest(t, h[0], 21, "10.0.0.1/24")
	a21, b21 := listen(t, g21), listen(t, guest(t, h[1], 21, "10.0.0.2/24"))
	const patience, quiet = 60, 5
	if !hears(t, a20, b20, "10.0.0.2:7000", patience) || !hears(t, b20, a20, "10.0.0.1:7000", patience) {
		t.Error("guests of one cluster do not hear each other across hosts")
	}
	if !hears(t, a21, b21, "10.0.0.2:7000", patience) {
		t.Error("guests of the second cluster do not hear each other")
	}
	if hears(t, a20, b21, "10.0.0.2:7000", quiet) || hears(t, a20, b21, "10.0.0.255:7000", quiet) || hears(t, a20, a21, "10.0.0.255:7000", quiet) {
		t.Error("a frame leaked from one cluster into the other")
	}
	if !hears(t, a20, b20, "10.0.0.255:7000", patience) {
		t.Error("broadcasts do not cross hosts")
	}
	hostIsDeaf(t, h[0], g21, a21)
	// A host that left hears nothing more, not even what was learned. It lets go
	// first: while it still sends, its guests are learned anew.
	for _, i := range []int{1, 0} {
		if _, err := ds[i].Ensure(t.Context(), hostops.NetworkSpec{Reservation: "r-20", VLAN: 20, Peers: peers[i : i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	if hears(t, a20, b20, "10.0.0.2:7000", quiet) || hears(t, a20, b20, "10.0.0.255:7000", quiet) {
		t.Error("a host that is no peer any more still gets frames")
	}
}

// hostIsDeaf sends to the host with its bridge's MAC address in hand, which a
// guest could only guess.
func hostIsDeaf(t *testing.T, host, g string, from *net.UDPConn) {
	t.Helper()
	to := listen(t, host)
	if hears(t, from, to, "10.0.0.255:7000", 3) {
		t.Error("the host hears a guest's broadcast")
	}
	var links []struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal([]byte(ip(t, "-n", host, "-j", "link", "show", hostops.BridgeName(21))), &links); err != nil {
		t.Fatal(err)
	}
	ip(t, "-n", g, "neigh", "replace", "10.0.0.77", "lladdr", links[0].Address, "dev", "eth0")
	ip(t, "-n", g, "route", "add", "192.0.2.1/32", "via", "10.0.0.77")
	if hears(t, from, to, "192.0.2.1:7000", 5) {
		t.Error("a guest reaches the host through the bridge")
	}
	if out := ip(t, "-n", host, "-6", "addr", "show", "dev", hostops.BridgeName(21)); strings.Contains(out, "inet6") {
		t.Errorf("the bridge has an address: %s", out)
	}
	if out := ip(t, "-n", host, "-6", "addr", "show", "dev", hostops.PortName(21)); strings.Contains(out, "inet6") {
		t.Errorf("the port has an address: %s", out)
	}
}

func in(t *testing.T, ns string, do func(h *nl.Handle)) {
	t.Helper()
	if err := inNetns("/run/netns/"+ns, func(h *nl.Handle) error { do(h); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestRepair(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, h, 1, nil)
	s := hostops.NetworkSpec{Reservation: "r", VLAN: 20, Peers: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}}
	ensure := func() {
		t.Helper()
		if _, err := d.Ensure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	before := ip(t, "-n", h, "-br", "link", "show", "vcnv20")
	ensure()
	if after := ip(t, "-n", h, "-br", "link", "show", "vcnv20"); after != before {
		t.Errorf("a second Ensure made the port anew: %s then %s", before, after)
	}
	ip(t, "-n", h, "link", "set", "vcnb20", "mtu", "1400", "arp", "on", "type", "bridge", "mcast_snooping", "1")
	ip(t, "-n", h, "addr", "add", "10.0.0.1/24", "dev", "vcnb20")
	ip(t, "-n", h, "link", "set", "vcnv20", "mtu", "1300")
	ensure()
	in(t, h, func(h *nl.Handle) {
		b, _ := h.LinkByName("vcnb20")
		p, _ := h.LinkByName("vcnv20")
		if b.Attrs().MTU != 1500 || p.Attrs().MTU != 1500 || b.Attrs().RawFlags&unix.IFF_NOARP == 0 || *b.(*nl.Bridge).MulticastSnooping {
			t.Errorf("not repaired: %+v, %+v", b, p)
		}
		if addrs, err := h.AddrList(b, nl.FAMILY_ALL); err != nil || len(addrs) != 0 {
			t.Errorf("addresses: %v, %v", addrs, err)
		}
	})
	// Another port number cannot be set on a living link.
	ip(t, "-n", h, "link", "del", "vcnv20")
	ip(t, "-n", h, "link", "add", "vcnv20", "type", "vxlan", "id", "99", "dstport", "8472", "dev", "eth0")
	ip(t, "-n", h, "link", "set", "vcnv20", "alias", "vcn:c-1:r")
	s.Peers = s.Peers[1:]
	ensure()
	in(t, h, func(h *nl.Handle) {
		p, _ := h.LinkByName("vcnv20")
		if x := p.(*nl.Vxlan); x.VxlanId != 0x760000+20 || x.Port != 4789 {
			t.Errorf("not made anew: %+v", x)
		}
		have, err := h.NeighList(p.Attrs().Index, unix.AF_BRIDGE)
		if add, remove := fdbDiff(have, s.Peers, d.cfg.Local); err != nil || len(add)+len(remove) != 0 {
			t.Errorf("forwarding entries: %v, add %v, remove %v, %v", have, add, remove, err)
		}
	})
}

// TestLinksOfAnotherClusterAreForeign: two clusters of hosts on one machine
// never touch each other's networks.
func TestLinksOfAnotherClusterAreForeign(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	theirs := driverIn(t, h, 1, func(c *Config) { c.Cluster = "c-2" })
	ours := driverIn(t, h, 1, nil)
	spec := hostops.NetworkSpec{Reservation: "r", VLAN: 20}
	if _, err := theirs.Ensure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if all, err := ours.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("the other cluster's networks are listed: %+v, %v", all, err)
	}
	if _, err := ours.Ensure(t.Context(), spec); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Ensure: %v, want ErrForeign", err)
	}
	if err := ours.Remove(t.Context(), 20); !errors.Is(err, hostops.ErrForeign) {
		t.Errorf("Remove: %v, want ErrForeign", err)
	}
	if all, err := theirs.List(t.Context()); err != nil || len(all) != 1 || !all[0].Healthy {
		t.Errorf("their network: %+v, %v", all, err)
	}
}

func TestHalfMadeAndLeftOver(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, h, 1, nil)
	ip(t, "-n", h, "link", "add", "vcnb20", "group", fmt.Sprint(linkGroup), "type", "bridge")
	if all, err := d.List(t.Context()); err != nil || len(all) != 1 || all[0].Healthy {
		t.Errorf("half-made: %+v, %v", all, err)
	}
	if _, err := d.Ensure(t.Context(), hostops.NetworkSpec{Reservation: "r", VLAN: 20}); err != nil {
		t.Fatal(err)
	}
	ip(t, "-n", h, "tuntap", "add", "vcntleftover", "mode", "tap")
	ip(t, "-n", h, "link", "set", "vcntleftover", "master", "vcnb20")
	ip(t, "-n", h, "link", "add", "somebodys", "type", "veth", "peer", "name", "somebodys2")
	ip(t, "-n", h, "link", "set", "somebodys", "master", "vcnb20")
	if err := d.Remove(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	out := ip(t, "-n", h, "-br", "link")
	if strings.Contains(out, "vcn") {
		t.Errorf("left behind:\n%s", out)
	}
	if !strings.Contains(out, "somebodys") {
		t.Error("Remove took a link that is not ours")
	}
}

func TestSmallUnderlay(t *testing.T) {
	h := hosts(t, 1, 1500)[0]
	s := hostops.NetworkSpec{Reservation: "r", VLAN: 20}
	if _, err := driverIn(t, h, 1, nil).Ensure(t.Context(), s); !errors.Is(err, hostops.ErrInvalid) || !strings.Contains(err.Error(), "1450") {
		t.Errorf("Ensure: %v", err)
	}
	if out := ip(t, "-n", h, "-br", "link"); strings.Contains(out, "vcn") {
		t.Errorf("made in spite of it:\n%s", out)
	}
	if _, err := driverIn(t, h, 1, func(c *Config) { c.MTU = 1450 }).Ensure(t.Context(), s); err != nil {
		t.Errorf("with a fitting MTU: %v", err)
	}
}
