package libvirt

import "log/slog"

// Config says which libvirtd to drive and how guests run.
type Config struct {
	// Socket is the path of libvirtd's unix socket, under 108 bytes; empty
	// means /run/libvirt/libvirt-sock.
	Socket string
	// URI is what to open there; empty means qemu:///system.
	URI string
	// Cluster is the id of the cluster of hosts that this host is of. Domains of
	// another are foreign.
	Cluster string
	// Accel is auto (default), kvm or tcg.
	Accel string
	Log   *slog.Logger
}
