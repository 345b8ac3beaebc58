//go:build lab

package netlink

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vcn/hostops"
)

// The kernel of these tests has everything: 802.1Q and filtering bridges.

func TestLabVLANConformance(t *testing.T) { conform(t, VLAN) }

func TestLabVLANFramesCrossHostsAndNeverClusters(t *testing.T) {
	framesCrossHostsAndNeverClusters(t, VLAN)
}

func TestLabVLANLinksOfAnotherClusterAreForeign(t *testing.T) {
	linksOfAnotherClusterAreForeign(t, VLAN)
}

func TestLabVLANHalfMadeAndLeftOver(t *testing.T) { halfMadeAndLeftOver(t, VLAN) }

func TestLabVLANTaggedFramesGoNowhere(t *testing.T) { taggedFramesGoNowhere(t, VLAN) }

func TestLabVXLANTaggedFramesGoNowhere(t *testing.T) { taggedFramesGoNowhere(t, VXLAN) }

func TestLabVLANGuestsSurviveRepair(t *testing.T) { guestsSurviveRepair(t, VLAN) }

func TestLabVLANARivalIsNamed(t *testing.T) { aRivalIsNamed(t, VLAN) }

func TestLabVLANListIsNeverPartial(t *testing.T) { listIsNeverPartial(t, VLAN) }

func BenchmarkLabEnsureVLAN(b *testing.B) { benchmarkEnsure(b, VLAN) }

func BenchmarkLabEnsureVXLAN(b *testing.B) { benchmarkEnsure(b, VXLAN) }

func BenchmarkLabListVLAN(b *testing.B) { benchmarkList(b, VLAN) }

func TestLabAutoTakesVLAN(t *testing.T) {
	h := hosts(t, 1, 1500)[0]
	for _, change := range []func(*Config){
		func(c *Config) { c.Driver = "auto" },
		func(c *Config) { c.Driver = ""; c.Underlay = "eth0" },
	} {
		name, why := driverIn(t, VLAN, h, 1, change).Driver()
		t.Logf("%s: %s", name, why)
		if name != VLAN || !strings.Contains(why, "802.1Q") || !strings.Contains(why, "eth0") || !strings.Contains(why, "dropped where they come in") {
			t.Errorf("%s because %q", name, why)
		}
	}
	// Another link has the VLAN that auto tries with.
	run(t, h, "ip link add link eth0 name taken type vlan id 4094")
	if name, why := driverIn(t, "auto", h, 1, nil).Driver(); name != VLAN || !strings.Contains(why, "4094") {
		t.Errorf("with VLAN 4094 taken: %s because %q", name, why)
	}
	// A link that takes no tags.
	run(t, h, "ip link add tunnel type ipip local 192.0.2.1 remote 192.0.2.2")
	name, why := driverIn(t, "auto", h, 1, func(c *Config) { c.Underlay = "tunnel" }).Driver()
	t.Logf("%s: %s", name, why)
	if name != VXLAN || !strings.Contains(why, "tunnel") {
		t.Errorf("on a tunnel: %s because %q", name, why)
	}
	if out, err := exec.Command("ip", "-n", h, "link", "show", probeName).CombinedOutput(); err == nil {
		t.Errorf("the probe is still there: %s", out)
	}
}

// TestLabVLANNeedsNoLargerUnderlay: the tag is not counted in an MTU.
func TestLabVLANNeedsNoLargerUnderlay(t *testing.T) {
	h := hosts(t, 2, 1500)
	for i := range h {
		if _, err := driverIn(t, VLAN, h[i], i+1, nil).Ensure(t.Context(), specOf(20)); err != nil {
			t.Fatal(err)
		}
	}
	a := guest(t, h[0], 20, "10.0.0.1/24")
	guest(t, h[1], 20, "10.0.0.2/24")
	pings(t, a, "10.0.0.2", "1472") // and 28 bytes of headers
	s := specOf(21)
	s.MTU = 1501
	_, err := driverIn(t, VLAN, h[0], 1, nil).Ensure(t.Context(), s)
	if !errors.Is(err, hostops.ErrInvalid) || !strings.Contains(err.Error(), "1501") || !strings.Contains(err.Error(), "1500") {
		t.Errorf("more than the underlay takes: %v", err)
	}
	if out := ip(t, "-n", h[0], "-br", "link"); strings.Contains(out, "vcnb21") {
		t.Errorf("made in spite of it:\n%s", out)
	}
	run(t, h[0], "ip link set eth0 mtu 9000")
	if _, err := driverIn(t, VLAN, h[0], 1, nil).Ensure(t.Context(), s); err != nil {
		t.Errorf("after the underlay has grown: %v", err)
	}
}

// pings without fragments, with a body of so many bytes, until there is an
// answer.
func pings(t *testing.T, ns, to, size string) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", ns, "ping", "-n", "-c", "1", "-w", "20", "-i", "0.2", "-M", "do", "-s", size, to).CombinedOutput()
	if err != nil {
		t.Errorf("ping %s: %v: %s", to, err, out)
	}
}

// TestLabVLANUnderlayComesAndGoes: down, smaller, unplugged, and back as
// another link. The network says what is wrong, and is well after Ensure.
func TestLabVLANUnderlayComesAndGoes(t *testing.T) {
	wire, h := wired(t, 2, 1500)
	var ds []*Driver
	for i := range h {
		d := driverIn(t, VLAN, h[i], i+1, func(c *Config) { c.Underlay = "eth0" })
		if _, err := d.Ensure(t.Context(), specOf(20)); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	a, b := wiretapOn(t, guest(t, h[0], 20, "10.0.0.1/24"), "eth0"), wiretapOn(t, guest(t, h[1], 20, "10.0.0.2/24"), "eth0")
	check := func(what, detail string, refused bool, repair func()) {
		t.Helper()
		if n := health(t, ds[0], 20); n.Healthy || !strings.Contains(n.Detail, detail) {
			t.Errorf("%s: %+v", what, n)
		}
		_, err := ds[0].Ensure(t.Context(), specOf(20))
		if (err != nil) != refused || err != nil && !strings.Contains(err.Error(), "eth0") {
			t.Errorf("%s: Ensure: %v", what, err)
		}
		t.Logf("%s: %q, Ensure: %v", what, health(t, ds[0], 20).Detail, err)
		repair()
		if _, err := ds[0].Ensure(t.Context(), specOf(20)); err != nil {
			t.Errorf("%s, and back: %v", what, err)
		}
		awaitHealthy(t, what, ds[0])
		if !a.awaits(t, b) || !b.awaits(t, a) {
			t.Errorf("%s, and back: guests do not hear each other", what)
		}
	}
	run(t, wire, "ip link set p0 down")
	awaitDetail(t, ds[0], "underlay is down")
	check("cable pulled", "underlay is down", false, func() { run(t, wire, "ip link set p0 up") })
	run(t, h[0], "ip link set eth0 down")
	check("link down", "port is down", true, func() { run(t, h[0], "ip link set eth0 up") })
	run(t, h[0], "ip link set eth0 down")
	run(t, h[0], "ip link set eth0 up") // the kernel takes its tagged links along
	awaitHealthy(t, "link down and up", ds[0])
	run(t, h[0], "ip link set eth0 mtu 1400")
	check("smaller", "MTU", true, func() { run(t, h[0], "ip link set eth0 mtu 1500") })
	run(t, h[0], "ip link del eth0")
	check("unplugged", "port to the other hosts is missing", true, func() {
		run(t, h[0], "ip link add filler type veth peer name filler2") // so that the index is another
		run(t, wire, "ip link add p0 type veth peer name eth0 netns "+h[0])
		run(t, wire, "ip link set p0 master sw up")
		run(t, h[0], "ip link set eth0 up")
	})
	run(t, h[0], "ip link set eth0 down")
	run(t, h[0], "ip link set eth0 name old0")
	run(t, h[0], "ip link set filler name eth0")
	run(t, h[0], "ip link set eth0 up")
	run(t, h[0], "ip link set filler2 up")
	run(t, h[0], "ip link set old0 up")
	awaitDetail(t, ds[0], "on link")
	check("another link has its name", "on link", false, func() {
		run(t, h[0], "ip link set eth0 down")
		run(t, h[0], "ip link set old0 down")
		run(t, h[0], "ip link set eth0 name filler")
		run(t, h[0], "ip link set old0 name eth0")
		run(t, h[0], "ip link set eth0 up")
	})
}

const settleTries = 100

func awaitDetail(t *testing.T, d *Driver, detail string) {
	t.Helper()
	for range settleTries {
		if strings.Contains(health(t, d, 20).Detail, detail) {
			return
		}
		time.Sleep(framePoll)
	}
	t.Errorf("the network never says %q: %+v", detail, health(t, d, 20))
}

func awaitHealthy(t *testing.T, what string, d *Driver) {
	t.Helper()
	for range settleTries {
		if health(t, d, 20).Healthy {
			return
		}
		time.Sleep(framePoll)
	}
	t.Errorf("%s, and back: %+v", what, health(t, d, 20))
}

// TestLabVLANAfterACrash: whatever step the maker died after, the next Ensure
// ends it, and Remove without it leaves nothing.
func TestLabVLANAfterACrash(t *testing.T) {
	h := hosts(t, 1, 1500)[0]
	d := driverIn(t, VLAN, h, 1, nil)
	group := fmt.Sprintf("group %d ", linkGroup)
	steps := []string{
		"ip link add vcnb20 " + group + "type bridge",
		"ip link set vcnb20 alias vcn:c-1:r-20",
		"ip link add link eth0 name vcnv20 " + group + "type vlan id 20",
		"ip link set vcnv20 alias vcn:c-1:r-20",
		"ip link set vcnv20 master vcnb20",
	}
	for done := 1; done <= len(steps); done++ {
		for _, repair := range []bool{true, false} {
			for _, s := range steps[:done] {
				run(t, h, s)
			}
			if n := health(t, d, 20); n.Healthy || n.Detail == "not listed" {
				t.Errorf("after %d steps: %+v", done, n)
			}
			if repair {
				if _, err := d.Ensure(t.Context(), specOf(20)); err != nil {
					t.Errorf("after %d steps: %v", done, err)
				}
				if n := health(t, d, 20); !n.Healthy || n.Reservation != "r-20" {
					t.Errorf("after %d steps and Ensure: %+v", done, n)
				}
			}
			if err := d.Remove(t.Context(), 20); err != nil {
				t.Errorf("after %d steps: %v", done, err)
			}
			if out := ip(t, "-n", h, "-br", "link"); strings.Contains(out, "vcn") {
				t.Fatalf("after %d steps, left behind:\n%s", done, out)
			}
		}
	}
}
