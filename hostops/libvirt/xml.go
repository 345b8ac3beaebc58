package libvirt

import (
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"vcn/hostops"
	"vcn/hostops/facts"
)

const (
	agentChannel = "org.qemu.guest_agent.0"
	// baseCmdline: the console that we log; a panic restarts at once; NICs keep
	// the order of their cards.
	baseCmdline = "console=ttyS0 panic=-1 net.ifnames=0"
	// tscCmdline lets an emulated machine use its time stamp counter, which is
	// the host's, from the start (a fifth of the time to boot), at the frequency
	// that it has. A kernel that measures it while the host is busy may be wrong
	// by any factor, and "reliable" alone lets its clock run so for ever.
	tscCmdline = "tsc=reliable tsc_early_khz=%d"
	// tcgCmdline skips what is slow or useless in an emulated machine. The IDE
	// drivers are not in the list: the seed is on an IDE CD-ROM.
	tcgCmdline = "quiet mitigations=off random.trust_cpu=on no_timer_check cryptomgr.notests " +
		"rcupdate.rcu_expedited=1 8250.nr_uarts=1 " +
		"modprobe.blacklist=kvm_amd,kvm,aesni_intel,ghash_clmulni_intel,sha512_ssse3,sha256_ssse3,sha1_ssse3," +
		"crct10dif_pclmul,crc32_pclmul,powernow_k8,acpi_cpufreq,serio_raw,pcspkr"
)

// input is everything a domain is built from.
type input struct {
	hostops.DomainSpec
	accel   string
	tscKHz  int64 // of an emulated processor; 0 if unknown
	attempt int   // of the tap names
	meta    meta
}

// parts build a domain, each one aspect of it.
var parts = []func(*libvirtxml.Domain, input) error{
	withIdentity, withMetadata, withSize, withCPU, withBoot, withLifecycle,
	withDisk, withSeed, withNICs, withConsole, withAgent, withSmallDevices,
}

func buildXML(in input) (string, error) {
	d := &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}
	for _, part := range parts {
		if err := part(d, in); err != nil {
			return "", fmt.Errorf("build domain: %w", err)
		}
	}
	s, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("build domain: %w", err)
	}
	return s, nil
}

// domainType is libvirt's word for how a machine runs.
func domainType(accel string) string {
	if accel == facts.KVM {
		return "kvm"
	}
	return "qemu"
}

func withIdentity(d *libvirtxml.Domain, in input) error {
	d.Type = domainType(in.accel)
	d.Name = domainName(in.Reservation, in.Node)
	d.UUID = domainUUID(in.Reservation, in.Node).String()
	d.Title = "node " + in.Node + " of reservation " + in.Reservation
	return nil
}

func withMetadata(d *libvirtxml.Domain, in input) error {
	element, err := in.meta.element()
	d.Metadata = &libvirtxml.DomainMetadata{XML: element}
	return err
}

func withSize(d *libvirtxml.Domain, in input) error {
	d.Memory = &libvirtxml.DomainMemory{Value: uint(in.MemoryBytes), Unit: "b"}
	d.VCPU = &libvirtxml.DomainVCPU{Value: uint(in.CPUs)}
	return nil
}

func withCPU(d *libvirtxml.Domain, in input) error {
	d.CPU = &libvirtxml.DomainCPU{
		Check:    "none",
		Topology: &libvirtxml.DomainCPUTopology{Sockets: 1, Cores: in.CPUs, Threads: 1},
	}
	if in.accel == facts.KVM {
		d.CPU.Mode = "host-passthrough"
		return nil
	}
	d.CPU.Mode = "maximum"
	d.CPU.Features = []libvirtxml.DomainCPUFeature{{Policy: "disable", Name: "erms"}}
	return nil
}

func withBoot(d *libvirtxml.Domain, in input) error {
	d.OS = &libvirtxml.DomainOS{
		Type:   &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "pc", Type: "hvm"},
		Kernel: in.Kernel,
		Initrd: in.Initrd,
	}
	d.Features = &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}}
	d.Clock = &libvirtxml.DomainClock{Offset: "utc"}
	if in.Kernel != "" {
		d.OS.Cmdline = cmdline(in.accel, in.tscKHz, in.Cmdline)
	}
	return nil
}

// cmdline puts the image's own words last: for most options the last one wins.
func cmdline(accel string, tscKHz int64, image string) string {
	words := []string{baseCmdline}
	if accel == facts.TCG {
		words = append(words, tcgCmdline)
		if tscKHz > 0 {
			words = append(words, fmt.Sprintf(tscCmdline, tscKHz))
		}
	}
	if image = strings.TrimSpace(image); image != "" {
		words = append(words, image)
	}
	return strings.Join(words, " ")
}

func withLifecycle(d *libvirtxml.Domain, in input) error {
	d.OnPoweroff, d.OnReboot, d.OnCrash = "destroy", "restart", "destroy"
	return nil
}

func withDisk(d *libvirtxml.Domain, in input) error {
	disk := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{
			Name: "qemu", Type: "raw", Cache: "none", Discard: "unmap", ErrorPolicy: "stop", RErrorPolicy: "stop",
		},
		Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
	}
	switch {
	case in.Disk.ISCSI != nil:
		disk.Source = &libvirtxml.DomainDiskSource{Network: iscsiSource(in)}
	case in.Disk.Path != "":
		disk.Source = pathSource(in.Disk.Path)
	default:
		return nil // a diskless node runs from its initrd
	}
	d.Devices.Disks = append(d.Devices.Disks, disk)
	return nil
}

// pathSource: QEMU opens no device as if it were a file.
func pathSource(path string) *libvirtxml.DomainDiskSource {
	if strings.HasPrefix(path, "/dev/") {
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: path}}
	}
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

func iscsiSource(in input) *libvirtxml.DomainDiskSourceNetwork {
	i := in.Disk.ISCSI
	src := &libvirtxml.DomainDiskSourceNetwork{
		Protocol: "iscsi",
		Name:     i.IQN + "/" + strconv.Itoa(i.LUN),
		Hosts: []libvirtxml.DomainDiskSourceHost{{
			Name: i.Portal.Addr().String(), Port: strconv.Itoa(int(i.Portal.Port())),
		}},
	}
	if i.Initiator != "" {
		src.Initiator = &libvirtxml.DomainDiskSourceNetworkInitiator{
			IQN: &libvirtxml.DomainDiskSourceNetworkIQN{Name: i.Initiator},
		}
	}
	if i.User != "" {
		src.Auth = &libvirtxml.DomainDiskAuth{
			Username: i.User,
			Secret:   &libvirtxml.DomainDiskSecret{Type: "iscsi", UUID: secretUUID(in.Reservation, in.Node).String()},
		}
	}
	return src
}

func withSeed(d *libvirtxml.Domain, in input) error {
	if in.SeedPath == "" {
		return nil
	}
	d.Devices.Disks = append(d.Devices.Disks, libvirtxml.DomainDisk{
		Device:   "cdrom",
		Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
		Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: in.SeedPath}},
		Target:   &libvirtxml.DomainDiskTarget{Dev: "hda", Bus: "ide"},
		ReadOnly: &libvirtxml.DomainDiskReadOnly{},
	})
	return nil
}

func withNICs(d *libvirtxml.Domain, in input) error {
	for i, n := range in.NICs {
		card := libvirtxml.DomainInterface{
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: n.MAC},
			Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: n.Bridge}},
			Target: &libvirtxml.DomainInterfaceTarget{
				Dev: hostops.TapName(in.Reservation, in.Node, in.Generation, i, in.attempt),
			},
			Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			ROM:   &libvirtxml.DomainROM{Enabled: "no"},
		}
		if n.MTU != 0 {
			card.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(n.MTU)}
		}
		d.Devices.Interfaces = append(d.Devices.Interfaces, card)
	}
	return nil
}

func withConsole(d *libvirtxml.Domain, in input) error {
	port := uint(0)
	serial := libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: &port},
	}
	if in.ConsolePath != "" {
		serial.Log = &libvirtxml.DomainChardevLog{File: in.ConsolePath, Append: "on"}
	}
	d.Devices.Serials = []libvirtxml.DomainSerial{serial}
	return nil
}

func withAgent(d *libvirtxml.Domain, in input) error {
	d.Devices.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: agentChannel}},
	}}
	return nil
}

// withSmallDevices: entropy for the guest's keys, and no balloon, since memory
// is never taken back. USB is off: nothing uses it and its timers cost CPU.
func withSmallDevices(d *libvirtxml.Domain, in input) error {
	d.Devices.RNGs = []libvirtxml.DomainRNG{{
		Model:   "virtio",
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}}
	d.Devices.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "none"}
	d.Devices.Controllers = []libvirtxml.DomainController{{Type: "usb", Model: "none"}}
	return nil
}

func buildSecret(s hostops.DomainSpec) (string, error) {
	sec := libvirtxml.Secret{
		Ephemeral:   "yes",
		Private:     "yes",
		Description: hostops.Mark + " disk of node " + s.Node + " of reservation " + s.Reservation,
		UUID:        secretUUID(s.Reservation, s.Node).String(),
		// Any unique text does; it is ours by its beginning.
		Usage: &libvirtxml.SecretUsage{Type: "iscsi", Target: hostops.Mark + ":" + s.Reservation + "/" + s.Node},
	}
	out, err := sec.Marshal()
	if err != nil {
		return "", fmt.Errorf("build secret: %w", err)
	}
	return out, nil
}

// agentConnected reads from live XML whether the guest has opened its channel.
func agentConnected(d *libvirtxml.Domain) bool {
	if d.Devices == nil {
		return false
	}
	for _, c := range d.Devices.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == agentChannel {
			return c.Target.VirtIO.State == "connected"
		}
	}
	return false
}
