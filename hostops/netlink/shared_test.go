//go:build rooted || lab

package netlink

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/hosttest"
)

// conform runs the suite that every hostops.Networks passes.
func conform(t *testing.T, driver string) {
	hosttest.TestNetworks(t, func(t *testing.T) hosttest.NetworksEnv {
		h := hosts(t, 1, 9000)[0]
		d := driverIn(t, driver, h, 1, nil)
		return hosttest.NetworksEnv{
			Networks: d,
			Foreign: func(t *testing.T, vlan int) {
				ip(t, "-n", h, "link", "add", hostops.BridgeName(vlan), "type", "bridge")
				t.Cleanup(func() { ip(t, "-n", h, "link", "show", hostops.BridgeName(vlan)) })
			},
			Break: func(t *testing.T, vlan int) {
				ip(t, "-n", h, "link", "set", hostops.PortName(vlan), "nomaster", "down")
			},
			Damages: damages(d, h),
		}
	})
}

// damages are commands that an operator, or another program, could run.
// B and P are the network's bridge and port, V its VLAN.
func damages(d *Driver, ns string) map[string]func(*testing.T, int) {
	lines := map[string]string{
		"bridge down":               "ip link set B down",
		"bridge's MTU":              "ip link set B mtu 1400",
		"bridge's address":          "ip addr add 10.0.0.1/24 dev B",
		"bridge's ARP":              "ip link set B arp on",
		"bridge's alias":            "ip link set B alias ",
		"bridge removed":            "ip link del B",
		"bridge is another kind":    "ip link del B; ip link add B type veth peer name b2; ip link set B alias vcn:c-1:r-conformance",
		"snooping":                  "ip link set B type bridge mcast_snooping 1",
		"forwarding to switches":    "ip link set B type bridge group_fwd_mask 0x4000",
		"port down":                 "ip link set P down",
		"port's MTU":                "ip link set P mtu 1400",
		"port's master":             "ip link set P nomaster",
		"port's alias":              "ip link set P alias ",
		"port's address":            "ip addr add 10.0.0.1/24 dev P",
		"port removed":              "ip link del P",
		"port renamed":              "ip link set P down; ip link set P name renamed",
		"port is another kind":      "ip link del P; ip link add P type veth peer name p2; ip link set P alias vcn:c-1:r-conformance",
		"guard of port":             "tc qdisc del dev P clsact",
		"guard of bridge":           "tc qdisc del dev B clsact",
		"guard of port's way out":   "tc filter del dev P egress",
		"filter beside the guard":   "tc filter add dev P ingress protocol ip prio 7 u32 match u32 0 0",
		"filter in place of guard":  "tc filter del dev P egress; tc filter add dev P egress protocol all prio 1 u32 match u32 0 0",
		"ingress queue, not clsact": "tc qdisc del dev P clsact; tc qdisc add dev P ingress",
	}
	switch d.driver {
	case VLAN:
		add := "; ip link set P alias vcn:c-1:r-conformance; ip link set P master B up"
		lines["port's VLAN"] = "ip link del P; ip link add link eth0 name P type vlan id 99" + add
		lines["port's protocol"] = "ip link del P; ip link add link eth0 name P type vlan id V protocol 802.1ad" + add
		lines["port's underlay"] = "ip link del P; ip link add other type veth peer name other2; ip link set other up; ip link add link other name P type vlan id V" + add
		lines["port leaves tags"] = "ip link set P type vlan reorder_hdr off"
		lines["port binds loosely"] = "ip link set P type vlan loose_binding on"
		lines["port announces itself"] = "ip link set P type vlan mvrp on"
	case VXLAN:
		add := "; ip link set P alias vcn:c-1:r-conformance; ip link set P master B up"
		lines["port's VNI"] = "ip link del P; ip link add P type vxlan id 99 dstport 4789 dev eth0 local 192.0.2.1" + add
		lines["port's UDP port"] = "ip link del P; ip link add P type vxlan id 7733268 dstport 8472 dev eth0 local 192.0.2.1" + add
	}
	if d.can.filterWhy == "" {
		lines["filtering off"] = "ip link set B type bridge vlan_filtering 0"
		lines["default VLAN"] = "ip link set B type bridge vlan_filtering 0; ip link set B type bridge vlan_default_pvid 5; ip link set B type bridge vlan_filtering 1"
		lines["port takes a tag"] = "bridge vlan add dev P vid 21"
		lines["port has no VLAN"] = "bridge vlan del dev P vid 1"
		lines["port gives out tags"] = "bridge vlan add dev P vid 1 pvid"
	}
	out := map[string]func(*testing.T, int){}
	for name, line := range lines {
		out[name] = func(t *testing.T, vlan int) {
			t.Helper()
			for _, command := range strings.Split(line, "; ") {
				run(t, ns, strings.NewReplacer("B", hostops.BridgeName(vlan), "P", hostops.PortName(vlan), "V", fmt.Sprint(vlan)).Replace(command))
			}
		}
	}
	return out
}

func framesCrossHostsAndNeverClusters(t *testing.T, driver string) {
	h := hosts(t, 2, 9000)
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	var ds []*Driver
	began := time.Now()
	for i := range h {
		d := driverIn(t, driver, h[i], i+1, nil)
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
	if driver != VXLAN {
		return
	}
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

// linksOfAnotherClusterAreForeign: two clusters of hosts on one machine
// never touch each other's networks.
func linksOfAnotherClusterAreForeign(t *testing.T, driver string) {
	h := hosts(t, 1, 9000)[0]
	theirs := driverIn(t, driver, h, 1, func(c *Config) { c.Cluster = "c-2" })
	ours := driverIn(t, driver, h, 1, nil)
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

func halfMadeAndLeftOver(t *testing.T, driver string) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, driver, h, 1, nil)
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
