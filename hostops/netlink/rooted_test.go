//go:build rooted

package netlink

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

func TestConformance(t *testing.T) { conform(t, VXLAN) }

func TestFramesCrossHostsAndNeverClusters(t *testing.T) { framesCrossHostsAndNeverClusters(t, VXLAN) }

func TestLinksOfAnotherClusterAreForeign(t *testing.T) { linksOfAnotherClusterAreForeign(t, VXLAN) }

func TestHalfMadeAndLeftOver(t *testing.T) { halfMadeAndLeftOver(t, VXLAN) }

func TestTaggedFramesGoNowhere(t *testing.T) { taggedFramesGoNowhere(t, VXLAN) }

func TestGuestsSurviveRepair(t *testing.T) { guestsSurviveRepair(t, VXLAN) }

func TestARivalIsNamed(t *testing.T) { aRivalIsNamed(t, VXLAN) }

func TestListIsNeverPartial(t *testing.T) { listIsNeverPartial(t, VXLAN) }

func BenchmarkEnsure(b *testing.B) { benchmarkEnsure(b, VXLAN) }

func BenchmarkList(b *testing.B) { benchmarkList(b, VXLAN) }

// TestAutoSaysWhatTheKernelCan compares with what the ip command can do.
func TestAutoSaysWhatTheKernelCan(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	want := VXLAN
	if exec.Command("ip", "-n", h, "link", "add", "link", "eth0", "name", "try", "type", "vlan", "id", "5").Run() == nil {
		want = VLAN
	}
	name, why := driverIn(t, VXLAN, h, 1, func(c *Config) { c.Driver = "auto"; c.Underlay = "eth0" }).Driver()
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

func TestRepair(t *testing.T) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, VXLAN, h, 1, nil)
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

func TestSmallUnderlay(t *testing.T) {
	h := hosts(t, 1, 1500)[0]
	s := hostops.NetworkSpec{Reservation: "r", VLAN: 20}
	if _, err := driverIn(t, VXLAN, h, 1, nil).Ensure(t.Context(), s); !errors.Is(err, hostops.ErrInvalid) || !strings.Contains(err.Error(), "1450") {
		t.Errorf("Ensure: %v", err)
	}
	if out := ip(t, "-n", h, "-br", "link"); strings.Contains(out, "vcn") {
		t.Errorf("made in spite of it:\n%s", out)
	}
	if _, err := driverIn(t, VXLAN, h, 1, func(c *Config) { c.MTU = 1450 }).Ensure(t.Context(), s); err != nil {
		t.Errorf("with a fitting MTU: %v", err)
	}
}
