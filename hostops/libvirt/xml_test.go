package libvirt

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"vcn/hostops"
	"vcn/hostops/facts"
)

var update = flag.Bool("update", false, "write the golden files")

func nodeSpec() hostops.DomainSpec {
	return hostops.DomainSpec{
		Reservation: "0192f0c1-7a5e-7bbb-8a4e-5d3c2b1a0f9e", Node: "compute-0", Generation: 7,
		CPUs: 4, MemoryBytes: 8 << 30,
		Kernel: "/var/lib/vcn/images/x/vmlinuz", Initrd: "/var/lib/vcn/images/x/initrd", Cmdline: "root=/dev/vda rw",
		Disk: hostops.Disk{ISCSI: &hostops.ISCSIDisk{
			Portal: netip.MustParseAddrPort("192.0.2.5:3260"), IQN: hostops.TargetIQN("v-1"), LUN: 1,
			Initiator: hostops.InitiatorIQN("host-2"), User: "host-2", Secret: "never-in-the-definition",
		}},
		SeedPath: "/var/lib/vcn/seeds/x.iso", ConsolePath: "/var/lib/vcn/console/x.log",
		NICs: []hostops.NIC{
			{MAC: "52:54:00:01:02:03", Bridge: hostops.BridgeName(20), MTU: 1450},
			{MAC: "52:54:00:01:02:04", Bridge: "br-public"},
		},
	}
}

func nodeInput(accel string, s hostops.DomainSpec) input {
	return input{DomainSpec: s, accel: accel, tscKHz: 2596134, meta: meta{
		Cluster: "0192f0c1-0000-7000-8000-00000000c1a5", Reservation: s.Reservation, Node: s.Node, Generation: s.Generation, Digest: "abc", Started: "2026-12-01T09:00:00Z",
	}}
}

func TestGoldenXML(t *testing.T) {
	local := nodeSpec()
	local.Disk = hostops.Disk{Path: "/srv/vcn/volumes/v-1.raw"}
	device := nodeSpec()
	device.Disk = hostops.Disk{Path: "/dev/vcn/vcn.v.v-1"}
	bare := hostops.DomainSpec{Reservation: "r", Node: "frontend", CPUs: 1, MemoryBytes: 64 << 20}
	for name, in := range map[string]input{
		"iscsi-tcg": nodeInput(facts.TCG, nodeSpec()),
		"local-kvm": nodeInput(facts.KVM, local),
		"device":    nodeInput(facts.TCG, device),
		"diskless":  nodeInput(facts.TCG, bare),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := buildXML(in)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".xml")
			if *update {
				if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got+"\n" != string(want) {
				t.Errorf("differs from %s (go test -update writes it anew):\n%s", path, got)
			}
			if strings.Contains(got, "never-in-the-definition") {
				t.Error("the CHAP secret is in the definition")
			}
		})
	}
}

func build(t *testing.T, in input) *libvirtxml.Domain {
	t.Helper()
	text, err := buildXML(in)
	if err != nil {
		t.Fatal(err)
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	return &d
}

func TestCPUAndCmdlineFollowTheAccelerator(t *testing.T) {
	tcg, kvm := build(t, nodeInput(facts.TCG, nodeSpec())), build(t, nodeInput(facts.KVM, nodeSpec()))
	if tcg.Type != "qemu" || tcg.CPU.Mode != "maximum" || len(tcg.CPU.Features) != 1 ||
		tcg.CPU.Features[0].Name != "erms" || tcg.CPU.Features[0].Policy != "disable" {
		t.Errorf("TCG: %s, %+v", tcg.Type, tcg.CPU)
	}
	if kvm.Type != "kvm" || kvm.CPU.Mode != "host-passthrough" || len(kvm.CPU.Features) != 0 {
		t.Errorf("KVM: %s, %+v", kvm.Type, kvm.CPU)
	}
	for _, word := range []string{"mitigations=off", "modprobe.blacklist="} {
		if !strings.Contains(tcg.OS.Cmdline, word) || strings.Contains(kvm.OS.Cmdline, word) {
			t.Errorf("%s is for TCG only:\n%s\n%s", word, tcg.OS.Cmdline, kvm.OS.Cmdline)
		}
	}
	if strings.Contains(tcg.OS.Cmdline, "ata_piix") {
		t.Error("the driver of the seed's CD-ROM is blacklisted")
	}
	for _, c := range []string{tcg.OS.Cmdline, kvm.OS.Cmdline} {
		if !strings.HasPrefix(c, baseCmdline) || !strings.HasSuffix(c, " root=/dev/vda rw") {
			t.Errorf("command line: %s", c)
		}
	}
}

func TestDiskNeedsNoSecretWithoutCHAP(t *testing.T) {
	s := nodeSpec()
	s.Disk.ISCSI.User, s.Disk.ISCSI.Secret = "", ""
	if src := build(t, nodeInput(facts.TCG, s)).Devices.Disks[0].Source.Network; src.Auth != nil {
		t.Errorf("auth without a user: %+v", src.Auth)
	}
}

func TestTapNamesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, generation := range []uint64{1, 2} {
		for _, attempt := range []int{0, 1} {
			in := nodeInput(facts.TCG, nodeSpec())
			in.Generation, in.attempt = generation, attempt
			for _, i := range build(t, in).Devices.Interfaces {
				if seen[i.Target.Dev] || len(i.Target.Dev) > 15 || !strings.HasPrefix(i.Target.Dev, "vcnt") {
					t.Errorf("tap %q", i.Target.Dev)
				}
				seen[i.Target.Dev] = true
			}
		}
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	want := meta{Cluster: "c<1>", Reservation: "r-1", Node: `a"<b>`, Generation: 1<<64 - 1, Digest: "d", Started: "2026-12-01T09:00:00.000000001Z"}
	element, err := want.element()
	if err != nil {
		t.Fatal(err)
	}
	others := `<other:x xmlns:other="https://example.org/"><node reservation="not ours"/></other:x>`
	got, ours, err := parseMeta(others + element)
	if err != nil || !ours {
		t.Fatalf("ours %v, %v", ours, err)
	}
	got.XMLName = want.XMLName
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.started().Nanosecond() != 1 {
		t.Errorf("started %v", got.started())
	}
	if _, ours, err := parseMeta(others); ours || err != nil {
		t.Errorf("somebody else's metadata: ours %v, %v", ours, err)
	}
	if _, _, err := parseMeta("<broken"); err == nil {
		t.Error("broken metadata was taken")
	}
}

func TestAgentConnected(t *testing.T) {
	const live = `<domain><devices><channel type='unix'><target type='virtio' name='other' state='connected'/></channel>` +
		`<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='STATE'/></channel></devices></domain>`
	for state, want := range map[string]bool{"connected": true, "disconnected": false} {
		var d libvirtxml.Domain
		if err := d.Unmarshal(strings.Replace(live, "STATE", state, 1)); err != nil {
			t.Fatal(err)
		}
		if got := agentConnected(&d); got != want {
			t.Errorf("%s: %v", state, got)
		}
	}
	if agentConnected(&libvirtxml.Domain{}) {
		t.Error("connected without any device")
	}
}

func TestDigestLeavesTheSecretOut(t *testing.T) {
	sum := func(change func(*hostops.DomainSpec)) string {
		s := nodeSpec()
		change(&s)
		d, err := digest(s, facts.TCG)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	same := sum(func(*hostops.DomainSpec) {})
	if sum(func(s *hostops.DomainSpec) { s.Disk.ISCSI.Secret = "another" }) != same {
		t.Error("the digest depends on the secret")
	}
	if sum(func(s *hostops.DomainSpec) { s.CPUs++ }) == same {
		t.Error("the digest does not depend on the specification")
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Config{Socket: "/" + strings.Repeat("x", 108)}); err == nil {
		t.Error("a socket path too long was taken")
	}
	if _, err := New(Config{Accel: "xen"}); err == nil {
		t.Error("an unknown accelerator was taken")
	}
	d, err := New(Config{Socket: "/nonexistent/libvirt-sock", Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(t.Context()); err == nil || !strings.Contains(err.Error(), "/nonexistent/libvirt-sock") {
		t.Errorf("no libvirtd: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
