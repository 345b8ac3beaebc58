package fsm

// Assignment is everything one host has to hold, computed from a snapshot. It
// is the whole desired state: what is not in it has to go.
type Assignment struct {
	Index    uint64 // Raft index it was computed at
	Host     string
	Networks []NetworkWork
	Volumes  []VolumeWork
	Nodes    []NodeWork
	Images   []ImageWork
	Clusters map[string]ClusterWork // by reservation, for the nodes above
}

// NetworkWork is one private network to hold.
type NetworkWork struct {
	Reservation string
	VLAN        int
	Peers       []string // underlay addresses of the other hosts that carry it
}

// VolumeWork is one volume to hold on this storage host.
type VolumeWork struct {
	ID          string
	Reservation string
	Node        string
	SizeBytes   int64
	Recipe      string
	ImageDigest string // empty while the image is not built
	Generation  uint64
	// Access is who may log in; empty if the node runs on this same host and
	// opens the volume directly.
	Access []AccessWork
}

// AccessWork is hostops.Access as data.
type AccessWork struct {
	Initiator string
	Addr      string
	User      string
	Secret    string
}

// NodeWork is one node to run on this host.
type NodeWork struct {
	Reservation string
	Node        string
	Generation  uint64
	CPUs        int
	MemoryBytes int64
	VLAN        int
	PrivateMAC  string
	PublicMAC   string // frontend only
	ImageDigest string // whose kernel and initrd boot it
	Appliance   string
	Frontend    bool
	Volume      string
	Portal      string // address:port of the storage host; empty if the volume is local
	User        string // CHAP
	Secret      string
	// Run is true once the volume is ready under this generation. Wait says
	// what is missing while it is false.
	Run  bool
	Wait string
}

// ImageWork is one image to build, or to have.
type ImageWork struct {
	Recipe    string
	Appliance string
	Rolls     []string // name@version
	Digest    string
	Build     bool     // build it here
	BootOnly  bool     // kernel and initrd suffice
	Sources   []string // host IDs that have the whole image
}

// ClusterWork is what the seeds of a cluster's nodes are rendered from.
type ClusterWork struct {
	ID, Name, Project string
	Subnet            string
	PublicBits        int
	PublicGateway     string
	Nodes             []Node
	Users             []User
	Rolls             []string
	Secrets           map[string][]byte
}

// InitiatorIQN is the iSCSI name of a host's initiator.
func InitiatorIQN(host string) string { return "iqn.2026-11.vcn:host." + host }

// TargetIQN is the iSCSI name of a volume's target. It ends in the volume's
// immutable id.
func TargetIQN(volume string) string { return "iqn.2026-11.vcn:vol." + volume }
