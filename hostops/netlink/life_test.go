//go:build rooted || lab

package netlink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	nl "github.com/vishvananda/netlink"

	"vcn/hostops"
)

const (
	churnTime  = 3 * time.Second
	churnLinks = 40
	stableNets = 8
)

func specOf(vlan int) hostops.NetworkSpec {
	return hostops.NetworkSpec{
		Reservation: fmt.Sprintf("r-%d", vlan), VLAN: vlan,
		Peers: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	}
}

// health is List's word on one network.
func health(t *testing.T, d *Driver, vlan int) hostops.Network {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, n := range all {
		if n.VLAN == vlan {
			return n
		}
	}
	return hostops.Network{Detail: "not listed"}
}

// guestsSurviveRepair: whatever is repaired, the tap of a running guest stays
// on its bridge; and what cannot be repaired without it is refused.
func guestsSurviveRepair(t *testing.T, driver string) {
	h := hosts(t, 2, 9000)
	var ds []*Driver
	for i := range h {
		d := driverIn(t, driver, h[i], i+1, nil)
		if _, err := d.Ensure(t.Context(), specOf(20)); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	a, b := wiretapOn(t, guest(t, h[0], 20, "10.0.0.1/24"), "eth0"), wiretapOn(t, guest(t, h[1], 20, "10.0.0.2/24"), "eth0")
	if !a.awaits(t, b) {
		t.Fatal("guests do not hear each other")
	}
	for _, line := range []string{
		"ip link set vcnb20 alias ", "ip link set vcnv20 alias ", "ip link del vcnv20", "ip link set vcnb20 down", "ip link set vcnv20 nomaster",
	} {
		run(t, h[0], line)
		if n := health(t, ds[0], 20); n.Healthy || n.Reservation != "r-20" {
			t.Errorf("%s: %+v", line, n)
		}
		if _, err := ds[0].Ensure(t.Context(), specOf(20)); err != nil {
			t.Errorf("%s: Ensure: %v", line, err)
		}
		if !a.awaits(t, b) || !b.awaits(t, a) {
			t.Errorf("%s: guests do not hear each other after the repair", line)
		}
	}
	// Nothing says whose it is: it could be another cluster's guest.
	run(t, h[0], "ip link set vcnb20 alias ")
	run(t, h[0], "ip link set vcnv20 alias ")
	if _, err := ds[0].Ensure(t.Context(), specOf(20)); !errors.Is(err, hostops.ErrBusy) || !strings.Contains(err.Error(), "vcn:c-1:r-20") {
		t.Errorf("a bridge of nobody with a tap on it: %v", err)
	}
	if !a.awaits(t, b) {
		t.Error("what was refused was changed")
	}
	run(t, h[0], "ip link set vcnv20 alias vcn:c-1:r-other")
	if _, err := ds[0].Ensure(t.Context(), specOf(20)); !errors.Is(err, hostops.ErrBusy) {
		t.Errorf("a bridge whose port is another reservation's: %v", err)
	}
}

// aRivalIsNamed: the kernel has one link per tag and underlay, whatever its
// name, and says "file exists" without saying which.
func aRivalIsNamed(t *testing.T, driver string) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, driver, h, 1, nil)
	add := "ip link add link eth0 name storage type vlan id 20"
	if driver == VXLAN {
		add = "ip link add storage type vxlan id 7733268 dstport 4789 dev eth0 local 192.0.2.1"
	}
	run(t, h, add)
	_, err := d.Ensure(t.Context(), specOf(20))
	if !errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("somebody's link with our tag: %v", err)
	}
	t.Logf("the error: %v", err)
	run(t, h, "ip link show storage")
	run(t, h, "ip link set storage alias vcn:c-1:r-other")
	if _, err = d.Ensure(t.Context(), specOf(20)); !errors.Is(err, hostops.ErrBusy) || !strings.Contains(err.Error(), "storage") {
		t.Errorf("a link of another reservation with our tag: %v", err)
	}
	elsewhere := newNetns(t)
	run(t, h, "ip link set storage netns "+elsewhere)
	if _, err = d.Ensure(t.Context(), specOf(20)); driver == VLAN && (!errors.Is(err, hostops.ErrForeign) || !strings.Contains(err.Error(), "namespace")) {
		t.Errorf("a link in another namespace with our tag: %v", err)
	}
	t.Logf("from another namespace: %v", err)
	run(t, elsewhere, "ip link del storage")
	if _, err := d.Ensure(t.Context(), specOf(20)); err != nil {
		t.Errorf("after it has gone: %v", err)
	}
}

// listIsNeverPartial: while links come and go, each List has all networks, or
// is an error.
func listIsNeverPartial(t *testing.T, driver string) {
	h := hosts(t, 1, 9000)[0]
	d := driverIn(t, driver, h, 1, nil)
	for vlan := range stableNets {
		if _, err := d.Ensure(t.Context(), specOf(100+vlan)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), churnTime)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { in(t, h, func(h *nl.Handle) { churn(ctx, t, h) }) })
	lists, refused, interrupted := 0, 0, 0
	for ctx.Err() == nil {
		in(t, h, func(h *nl.Handle) { // what the kernel says to one plain read
			if _, err := h.LinkList(); errors.Is(err, nl.ErrDumpInterrupted) {
				interrupted++
			}
		})
		all, err := d.List(context.WithoutCancel(ctx))
		lists++
		if errors.Is(err, nl.ErrDumpInterrupted) {
			refused++
		} else if err != nil {
			t.Errorf("List: %v", err)
		} else if len(all) != stableNets {
			t.Fatalf("%d networks, want %d", len(all), stableNets)
		}
		for _, n := range all {
			if !n.Healthy {
				t.Errorf("%+v", n)
			}
		}
	}
	wg.Wait()
	t.Logf("%d lists, %d of them refused; of as many plain reads the kernel called %d inconsistent", lists, refused, interrupted)
	if refused == lists {
		t.Error("no List came through")
	}
}

// churn makes and removes links as fast as it can.
func churn(ctx context.Context, t *testing.T, h *nl.Handle) {
	for ctx.Err() == nil {
		for i := range churnLinks {
			attrs := nl.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("churn%d", i)
			if err := h.LinkAdd(&nl.Bridge{LinkAttrs: attrs}); err != nil {
				t.Errorf("churn: %v", err)
				return
			}
		}
		for i := range churnLinks {
			attrs := nl.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("churn%d", i)
			if err := h.LinkDel(&nl.Bridge{LinkAttrs: attrs}); err != nil {
				t.Errorf("churn: %v", err)
				return
			}
		}
	}
}

// benchmarkEnsure measures from nothing to a network that is up.
func benchmarkEnsure(b *testing.B, driver string) {
	h := hosts(b, 1, 9000)[0]
	d := driverIn(b, driver, h, 1, nil)
	for b.Loop() {
		if _, err := d.Ensure(b.Context(), specOf(20)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		all, err := d.List(b.Context())
		if err != nil || len(all) != 1 || !all[0].Healthy {
			b.Fatalf("%+v, %v", all, err)
		}
		if err := d.Remove(b.Context(), 20); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// benchmarkList measures what the agent does every round, with 50 networks.
func benchmarkList(b *testing.B, driver string) {
	const networks = 50
	h := hosts(b, 1, 9000)[0]
	d := driverIn(b, driver, h, 1, nil)
	for vlan := range networks {
		if _, err := d.Ensure(b.Context(), specOf(100+vlan)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if all, err := d.List(b.Context()); err != nil || len(all) != networks {
			b.Fatalf("%d networks, %v", len(all), err)
		}
	}
}
