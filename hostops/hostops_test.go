package hostops

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestTapNames(t *testing.T) {
	seen := map[string]string{}
	for _, reservation := range []string{"r-1", "r-2"} {
		for _, node := range []string{"frontend", "compute-0"} {
			for generation := range uint64(3) {
				for nic := range 2 {
					for attempt := range 3 {
						name := TapName(reservation, node, generation, nic, attempt)
						if len(name) != ifnameMax || !strings.HasPrefix(name, "vcnt") || name != strings.ToLower(name) {
							t.Errorf("tap %q", name)
						}
						if other := seen[name]; other != "" {
							t.Errorf("tap %q twice", name)
						}
						seen[name] = node
					}
				}
			}
		}
	}
	if again := TapName("r-1", "frontend", 1, 0, 0); seen[again] == "" {
		t.Errorf("tap name %s is another than before", again)
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	for _, name := range []string{BridgeName(VLANMax), PortName(VLANMax)} {
		if len(name) > ifnameMax {
			t.Errorf("%q has %d bytes", name, len(name))
		}
	}
}

func TestShortID(t *testing.T) {
	for in, want := range map[string]string{
		"0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e": "2b1a0f9e", "r-7": "r7", "RENDER-01": "render01",
	} {
		if got := ShortID(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if len(ShortID("-")) != 8 {
		t.Error("an identifier without letters has no short form")
	}
}

func TestIdentifiers(t *testing.T) {
	for _, id := range []string{"a", "node-1", "0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e", strings.Repeat("x", 63)} {
		if err := CheckVolumeID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "A", "-a", "a-", "a b", "a\n", "ä", "a.b", strings.Repeat("x", 64)} {
		if err := CheckVolumeID(id); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := CheckNode("r-1", "compute-0.local"); err != nil {
		t.Error(err)
	}
	if err := CheckNode("r..1", "n"); !errors.Is(err, ErrInvalid) {
		t.Errorf("two dots: %v", err)
	}
}

func TestDomainSpecValidate(t *testing.T) {
	good := func() DomainSpec {
		return DomainSpec{
			Reservation: "r-1", Node: "compute-0", CPUs: 1, MemoryBytes: 512 << 20, Kernel: "/k", Initrd: "/i", Cmdline: "x",
			NICs: []NIC{{MAC: "52:54:00:00:00:01", Bridge: "vcnb20", MTU: 1450}},
			Disk: Disk{ISCSI: &ISCSIDisk{
				Portal: netip.MustParseAddrPort("192.0.2.1:3260"), IQN: TargetIQN("v"), LUN: 1, Initiator: InitiatorIQN("h"), User: "u", Secret: "s",
			}},
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*DomainSpec){
		"CPUs":                           func(s *DomainSpec) { s.CPUs = 256 },
		"memory":                         func(s *DomainSpec) { s.MemoryBytes = -1 },
		"no kernel":                      func(s *DomainSpec) { s.Kernel = "" },
		"relative":                       func(s *DomainSpec) { s.Initrd = "i" },
		"bridge":                         func(s *DomainSpec) { s.NICs[0].Bridge = strings.Repeat("b", 16) },
		"no bridge":                      func(s *DomainSpec) { s.NICs[0].Bridge = "" },
		"InfiniBand MAC":                 func(s *DomainSpec) { s.NICs[0].MAC = "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01" },
		"MTU":                            func(s *DomainSpec) { s.NICs[0].MTU = 100 },
		"two disks":                      func(s *DomainSpec) { s.Disk.Path = "/d" },
		"no portal":                      func(s *DomainSpec) { s.Disk.ISCSI.Portal = netip.AddrPort{} },
		"IQN":                            func(s *DomainSpec) { s.Disk.ISCSI.IQN = "iqn.x/2" },
		"initiator":                      func(s *DomainSpec) { s.Disk.ISCSI.Initiator = "host" },
		"LUN":                            func(s *DomainSpec) { s.Disk.ISCSI.LUN = 256 },
		"CHAP user that libvirt refuses": func(s *DomainSpec) { s.Disk.ISCSI.User = ".user" },
		"half CHAP":                      func(s *DomainSpec) { s.Disk.ISCSI.Secret = "" },
	} {
		s := good()
		spoil(&s)
		if err := s.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
