package hostops

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	// VLANMin and VLANMax bound the VLAN IDs a network may have (802.1Q keeps
	// 0 and 4095 for itself).
	VLANMin = 1
	VLANMax = 4094
	// ifnameMax is the longest name of a network link, in bytes (IFNAMSIZ-1).
	ifnameMax = 15
	// iqnBase names the authority of our iSCSI names (RFC 3720 section
	// 3.2.6.3.1): a reserved private-use domain, reversed.
	iqnBase = "iqn.2026-11.internal.vcn"
)

// BridgeName is the name of the bridge of a private network on every host.
func BridgeName(vlan int) string { return fmt.Sprintf("%sb%d", Mark, vlan) }

// PortName is the name of the link that carries a private network's frames
// between hosts: an 802.1Q link or a VXLAN link, a port of BridgeName(vlan).
func PortName(vlan int) string { return fmt.Sprintf("%sv%d", Mark, vlan) }

// TapName names the tap of a node's NIC: at most 15 bytes, and different for
// each generation, so that a dead hypervisor process that still holds the
// taps of an older one blocks nothing. attempt is 0 unless that name was taken.
func TapName(reservation, node string, generation uint64, nic, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d\x00%d", reservation, node, generation, nic, attempt))
	name := Mark + "t" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	return name[:ifnameMax]
}

// TargetIQN names the iSCSI target of a volume.
func TargetIQN(volume string) string { return iqnBase + ":volume." + volume }

// InitiatorIQN names a host's iSCSI initiator.
func InitiatorIQN(host string) string { return iqnBase + ":host." + host }

// ShortID is the part of an identifier that goes into names for people: the
// last 8 of its letters and digits. UUIDs of version 7 made in the same minute
// differ only at the end.
func ShortID(id string) string {
	kept := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(id))
	if kept == "" {
		sum := sha256.Sum256([]byte(id))
		kept = hex.EncodeToString(sum[:])
	}
	return kept[max(0, len(kept)-8):]
}
