package netlink

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vcn/hostops"
)

func fakeDriver(driver string, local string) *Driver {
	return &Driver{driver: driver, cfg: Config{Local: netip.MustParseAddr(local), MTU: defaultMTU, Port: defaultPort, VNIBase: 1 << 20}}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
		why  string
	}{
		{"works", nil, VLAN, "eth0"},
		{"the probe's VLAN is in use", unix.EEXIST, VLAN, "in use"},
		{"no module", unix.EOPNOTSUPP, VXLAN, "8021q"},
		{"something else", unix.EINVAL, VXLAN, "invalid argument"},
		{"not allowed", unix.EPERM, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := verdict(c.err, "eth0")
			if got.driver != c.want || !strings.Contains(got.why, c.why) || (err != nil) != (c.want == "") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestMTUErrorNamesBothSizesAndTheWayOut(t *testing.T) {
	for _, c := range []struct {
		driver, local string
		mtu, underlay int
		want          []string // empty: fits
	}{
		{VXLAN, "192.0.2.1", 1500, 1550, nil},
		{VXLAN, "192.0.2.1", 1500, 1549, []string{"1500", "1549", "1550", "1499"}},
		{VXLAN, "2001:db8::1", 1500, 1550, []string{"1570", "1480"}},
		{VLAN, "192.0.2.1", 1500, 1500, nil},
		{VLAN, "192.0.2.1", 1501, 1500, []string{"1501", "1500"}},
	} {
		err := fakeDriver(c.driver, c.local).checkMTU(c.mtu, underlay{1, "eth0", c.underlay})
		if (err != nil) != (c.want != nil) {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) || !errors.Is(err, hostops.ErrInvalid) {
				t.Errorf("%+v: %v lacks %s", c, err, w)
			}
		}
	}
}

func TestDesiredPort(t *testing.T) {
	s := hostops.NetworkSpec{Reservation: "r", VLAN: 20, MTU: 1400}
	u := underlay{index: 7, name: "eth0", mtu: 9000}
	v, ok := fakeDriver(VLAN, "192.0.2.1").desiredPort(s, u).(*nl.Vlan)
	if !ok || v.VlanId != 20 || v.ParentIndex != 7 || v.MTU != 1400 || v.Name != "vcnv20" || v.Group != linkGroup {
		t.Errorf("vlan: %+v", v)
	}
	x, ok := fakeDriver(VXLAN, "192.0.2.1").desiredPort(s, u).(*nl.Vxlan)
	if !ok || x.VxlanId != 1<<20+20 || x.VtepDevIndex != 7 || !x.SrcAddr.Equal(net.IPv4(192, 0, 2, 1)) || x.Port != 4789 || !x.Learning {
		t.Errorf("vxlan: %+v", x)
	}
}

func TestPortDiffers(t *testing.T) {
	s := hostops.NetworkSpec{Reservation: "r", VLAN: 20}
	u := underlay{index: 7}
	vlan := func(change func(*nl.Vlan)) nl.Link {
		l := fakeDriver(VLAN, "192.0.2.1").desiredPort(s, u).(*nl.Vlan)
		change(l)
		return l
	}
	vxlan := func(change func(*nl.Vxlan)) nl.Link {
		l := fakeDriver(VXLAN, "192.0.2.1").desiredPort(s, u).(*nl.Vxlan)
		change(l)
		return l
	}
	on := true
	wantVLAN, wantVXLAN := vlan(func(*nl.Vlan) {}), vxlan(func(*nl.Vxlan) {})
	for _, same := range [][2]nl.Link{{wantVLAN, vlan(func(*nl.Vlan) {})}, {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.MTU = 9 })}} {
		if why := portDiffers(same[1], same[0]); why != "" {
			t.Errorf("the same link differs: %s", why)
		}
	}
	for name, pair := range map[string][2]nl.Link{
		"kind":      {wantVLAN, wantVXLAN},
		"VLAN":      {wantVLAN, vlan(func(l *nl.Vlan) { l.VlanId = 21 })},
		"802.1ad":   {wantVLAN, vlan(func(l *nl.Vlan) { l.VlanProtocol = nl.VLAN_PROTOCOL_8021AD })},
		"namespace": {wantVLAN, vlan(func(l *nl.Vlan) { l.NetNsID = 3 })},
		"reorder":   {wantVLAN, vlan(func(l *nl.Vlan) { l.ReorderHdr = nil })},
		"loose":     {wantVLAN, vlan(func(l *nl.Vlan) { l.LooseBinding = &on })},
		"GVRP":      {wantVLAN, vlan(func(l *nl.Vlan) { l.Gvrp = &on })},
		"MVRP":      {wantVLAN, vlan(func(l *nl.Vlan) { l.Mvrp = &on })},
		"parent":    {wantVLAN, vlan(func(l *nl.Vlan) { l.ParentIndex = 8 })},
		"VNI":       {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.VxlanId++ })},
		"underlay":  {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.VtepDevIndex = 8 })},
		"source":    {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.SrcAddr = net.IPv4(192, 0, 2, 9) })},
		"port":      {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.Port = 8472 })},
		"learning":  {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.Learning = false })},
		"multicast": {wantVXLAN, vxlan(func(l *nl.Vxlan) { l.Group = net.IPv4(239, 1, 1, 1) })},
	} {
		if portDiffers(pair[1], pair[0]) == "" {
			t.Errorf("%s: no difference seen", name)
		}
	}
}

func TestFDBDiff(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.1")
	b, c, gone := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.9")
	guest := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	have := []nl.Neigh{
		{IP: b.AsSlice(), HardwareAddr: zeroMAC},
		{IP: b.AsSlice(), HardwareAddr: guest},
		{IP: gone.AsSlice(), HardwareAddr: zeroMAC},
		{IP: gone.AsSlice(), HardwareAddr: guest},
		{HardwareAddr: guest}, // the bridge's own
	}
	add, remove := fdbDiff(have, []netip.Addr{b, c, local, c}, local)
	if !slices.Equal(add, []netip.Addr{c}) {
		t.Errorf("add %v", add)
	}
	if len(remove) != 2 || !remove[0].IP.Equal(gone.AsSlice()) || !remove[1].IP.Equal(gone.AsSlice()) {
		t.Errorf("remove %v", remove)
	}
	// A guest learned behind a peer is no flood entry.
	if add, _ := fdbDiff(have[1:2], []netip.Addr{b}, local); !slices.Equal(add, []netip.Addr{b}) {
		t.Errorf("add %v", add)
	}
}

func TestWhose(t *testing.T) {
	for _, c := range []struct {
		alias string
		group uint32
		want  owner
	}{
		{"vcn:c-1:r", 0, ownerOurs}, {"vcn:c-1:other", linkGroup, ownerOther},
		{"vcn:c-2:r", linkGroup, ownerForeign}, {"vcn:c-11:r", 0, ownerForeign}, {"vcn::r", 0, ownerForeign}, {"vcn:r", 0, ownerForeign}, {"", linkGroup, ownerHalfMade},
		{"", 0, ownerForeign}, {"vc:r", 0, ownerForeign}, {"somebody's", linkGroup, ownerForeign},
	} {
		l := &nl.Dummy{LinkAttrs: nl.LinkAttrs{Alias: c.alias, Group: c.group}}
		if got := markOf("c-1").whose(l, "r"); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestDumpIsRepeatedAndNeverPartial(t *testing.T) {
	tries := 0
	read := func(interrupted int) func() ([]int, error) {
		tries = 0
		return func() ([]int, error) {
			if tries++; tries <= interrupted {
				return []int{1}, nl.ErrDumpInterrupted
			}
			return []int{1, 2}, nil
		}
	}
	if got, err := dump(read(3)); err != nil || len(got) != 2 || tries != 4 {
		t.Errorf("%v, %v after %d", got, err, tries)
	}
	if got, err := dump(read(1000)); !errors.Is(err, nl.ErrDumpInterrupted) || got != nil || tries > dumpAttempts+1 {
		t.Errorf("%v, %v after %d", got, err, tries)
	}
}

func TestConfigRefusals(t *testing.T) {
	good := Config{Underlay: "eth0", MTU: defaultMTU, Port: defaultPort}
	if err := good.check(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for name, spoil := range map[string]func(*Config){
		"driver":   func(c *Config) { c.Driver = "gre" },
		"VNI base": func(c *Config) { c.VNIBase = vniMax - hostops.VLANMax + 1 },
		"cluster":  func(c *Config) { c.Cluster = "a:b" },
		"MTU":      func(c *Config) { c.MTU = 100 },
		"port":     func(c *Config) { c.Port = 70000 },
		"underlay": func(c *Config) { c.Underlay = "" },
	} {
		c := good
		spoil(&c)
		if err := c.check(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
