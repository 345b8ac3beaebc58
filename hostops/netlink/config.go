package netlink

import (
	"log/slog"
	"net/netip"
)

// Config says how private networks travel between hosts.
type Config struct {
	// Driver is auto (default), vlan or vxlan.
	Driver string
	// Cluster is the id of the cluster of hosts that this host is of, at most
	// 64 letters, digits and '-'. Links of another are foreign.
	Cluster string
	// Underlay is the link that carries the frames. Empty means the link that
	// has the address Local.
	Underlay string
	// Local is this host's address on the underlay; the vxlan driver needs it.
	Local netip.Addr
	// VNIBase is added to the VLAN ID to make the VXLAN network identifier;
	// 0 to 16773120.
	VNIBase int
	// Port is the UDP port of VXLAN; 0 means 4789 (RFC 7348).
	Port int
	// MTU is what guests see where the network's specification has none; 0
	// means 1500.
	MTU int
	// Netns is the path of the network namespace to work in; empty means the
	// process's own.
	Netns string
	Log   *slog.Logger
}
