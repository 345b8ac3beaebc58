package hostops

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	idBytesMax     = 63
	guestCPUsMax   = 255
	guestMemoryMin = 16 << 20
	// MTUMin is the least MTU of a network: what IPv6 and any sane guest need.
	MTUMin = 1280
	// MTUMax is the largest Ethernet MTU in common use.
	MTUMax = 9216
	// vlanPeersMax bounds the flood list of one network.
	vlanPeersMax = 4096
)

// idPattern is what volumes, reservations and nodes may be called: it goes into
// file names, link aliases, XML and IQNs without quoting.
var idPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// imagePattern is what names the content of an image: a digest in hexadecimal.
var imagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// chapUserPattern is what libvirt's schema takes as the user of a disk.
var chapUserPattern = regexp.MustCompile(`^[a-zA-Z0-9_+-]*$`)

func checkID(what, id string) error {
	if len(id) > idBytesMax || !idPattern.MatchString(id) || strings.Contains(id, "..") {
		return fmt.Errorf("%s %q: want 1-%d of a-z 0-9 '-' '.': %w", what, id, idBytesMax, ErrInvalid)
	}
	return nil
}

// CheckNode says whether a reservation and a node can name a domain.
func CheckNode(reservation, node string) error {
	if err := checkID("reservation", reservation); err != nil {
		return err
	}
	return checkID("node", node)
}

// CheckVolumeID says whether id can name a volume: 1-63 of a-z 0-9 '-'.
func CheckVolumeID(id string) error {
	if strings.Contains(id, ".") {
		return fmt.Errorf("volume %q: want a-z 0-9 '-': %w", id, ErrInvalid)
	}
	return checkID("volume", id)
}

// CheckVLAN says whether vlan can be used.
func CheckVLAN(vlan int) error {
	if vlan < VLANMin || vlan > VLANMax {
		return fmt.Errorf("VLAN %d is not within %d-%d: %w", vlan, VLANMin, VLANMax, ErrInvalid)
	}
	return nil
}

// Validate checks everything that can be checked without a host.
func (s DomainSpec) Validate() error {
	if err := CheckNode(s.Reservation, s.Node); err != nil {
		return err
	}
	if s.CPUs < 1 || s.CPUs > guestCPUsMax {
		return fmt.Errorf("%d CPUs: want 1-%d: %w", s.CPUs, guestCPUsMax, ErrInvalid)
	}
	if s.MemoryBytes < guestMemoryMin {
		return fmt.Errorf("%d bytes of memory: want at least %d: %w", s.MemoryBytes, guestMemoryMin, ErrInvalid)
	}
	if (s.Kernel == "") && (s.Initrd != "" || s.Cmdline != "") {
		return fmt.Errorf("initrd or command line without a kernel: %w", ErrInvalid)
	}
	for _, p := range []string{s.Kernel, s.Initrd, s.SeedPath, s.ConsolePath, s.Disk.Path} {
		if p != "" && !filepath.IsAbs(p) {
			return fmt.Errorf("path %q is not absolute: %w", p, ErrInvalid)
		}
	}
	for i, n := range s.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("NIC %d: %q is no unicast MAC address: %w", i, n.MAC, ErrInvalid)
		}
		if n.Bridge == "" || len(n.Bridge) > ifnameMax {
			return fmt.Errorf("NIC %d: bridge %q: want 1-%d bytes: %w", i, n.Bridge, ifnameMax, ErrInvalid)
		}
		if n.MTU != 0 && (n.MTU < MTUMin || n.MTU > MTUMax) {
			return fmt.Errorf("NIC %d: MTU %d is not within %d-%d: %w", i, n.MTU, MTUMin, MTUMax, ErrInvalid)
		}
	}
	return s.Disk.validate()
}

func (d Disk) validate() error {
	if d.ISCSI == nil {
		return nil
	}
	i := d.ISCSI
	switch {
	case d.Path != "":
		return fmt.Errorf("disk is both a path and an iSCSI unit: %w", ErrInvalid)
	case !i.Portal.IsValid() || i.Portal.Port() == 0:
		return fmt.Errorf("iSCSI portal %q: %w", i.Portal, ErrInvalid)
	case !strings.HasPrefix(i.IQN, "iqn.") || strings.Contains(i.IQN, "/"):
		return fmt.Errorf("iSCSI target %q is no IQN: %w", i.IQN, ErrInvalid)
	case i.Initiator != "" && !strings.HasPrefix(i.Initiator, "iqn."):
		return fmt.Errorf("iSCSI initiator %q is no IQN: %w", i.Initiator, ErrInvalid)
	case (i.User == "") != (i.Secret == ""):
		return fmt.Errorf("CHAP wants both a user and a secret: %w", ErrInvalid)
	case !chapUserPattern.MatchString(i.User):
		return fmt.Errorf("CHAP user %q: want letters, digits, '_', '+' and '-': %w", i.User, ErrInvalid)
	case i.LUN < 0 || i.LUN > 255:
		return fmt.Errorf("LUN %d is not within 0-255: %w", i.LUN, ErrInvalid)
	}
	return nil
}

// Validate checks everything that can be checked without a host.
func (s NetworkSpec) Validate() error {
	if err := checkID("reservation", s.Reservation); err != nil {
		return err
	}
	if err := CheckVLAN(s.VLAN); err != nil {
		return err
	}
	if s.MTU != 0 && (s.MTU < MTUMin || s.MTU > MTUMax) {
		return fmt.Errorf("MTU %d is not within %d-%d: %w", s.MTU, MTUMin, MTUMax, ErrInvalid)
	}
	if len(s.Peers) > vlanPeersMax {
		return fmt.Errorf("%d peers: at most %d: %w", len(s.Peers), vlanPeersMax, ErrInvalid)
	}
	for _, p := range s.Peers {
		if !p.IsValid() || p.IsUnspecified() || p.IsMulticast() {
			return fmt.Errorf("peer %q is no host's address: %w", p, ErrInvalid)
		}
	}
	return nil
}

// Validate checks everything that can be checked without a host.
func (s VolumeSpec) Validate() error {
	if err := CheckVolumeID(s.ID); err != nil {
		return err
	}
	if s.SizeBytes <= 0 || s.SizeBytes%512 != 0 {
		return fmt.Errorf("volume %s: %d bytes: want a positive multiple of 512: %w", s.ID, s.SizeBytes, ErrInvalid)
	}
	if s.Base != "" && !filepath.IsAbs(s.Base) {
		return fmt.Errorf("volume %s: base %q is not absolute: %w", s.ID, s.Base, ErrInvalid)
	}
	if s.Image != "" && s.Base == "" {
		return fmt.Errorf("volume %s: image %q without a base: %w", s.ID, s.Image, ErrInvalid)
	}
	if s.Image != "" && !imagePattern.MatchString(s.Image) {
		return fmt.Errorf("volume %s: image %q: want 1-64 of a-z 0-9 '-': %w", s.ID, s.Image, ErrInvalid)
	}
	return nil
}

// Limits of a command in a guest.
const (
	guestArgsMax      = 4096
	guestArgsBytesMax = 48 << 10
)

// Validate reports why no guest could run it, as ErrInvalid.
func (c GuestCommand) Validate() error {
	bad := func(why string) error { return fmt.Errorf("%w: command: %s", ErrInvalid, why) }
	if len(c.Args) == 0 || !filepath.IsAbs(c.Args[0]) {
		return bad("the first argument is no absolute path")
	}
	size := 0
	for _, a := range c.Args {
		if strings.ContainsRune(a, 0) || !utf8.ValidString(a) {
			return bad("an argument is no text")
		}
		size += len(a) + 1
	}
	if len(c.Args) > guestArgsMax || size > guestArgsBytesMax {
		return bad(fmt.Sprintf("%d arguments of %d bytes, at most %d of %d", len(c.Args), size, guestArgsMax, guestArgsBytesMax))
	}
	if len(c.Stdin) > GuestBytesMax {
		return bad(fmt.Sprintf("%d bytes of input, at most %d", len(c.Stdin), GuestBytesMax))
	}
	return nil
}
