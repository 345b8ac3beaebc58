package fsm

import (
	"time"

	"vcn/api"
)

// Meta is the one record about the whole.
type Meta struct {
	ClusterID string
	Name      string
	CACert    []byte // PEM
	CAKey     []byte // PEM; replicated to Raft peers only, never shown
	GossipKey []byte
	Expect    int // voters to wait for before reservations are accepted
	Formed    bool
	Pools     Pools
	Policy    Policy
	Created   time.Time
}

// Policy is what the operator sets for all projects. The zero value means
// DefaultPolicy.
type Policy struct {
	HoldMax   time.Duration // longest hold of offers
	HoldsMax  int           // holds of one project at a time
	ParkMax   time.Duration // longest parking
	ParkBytes int64         // parked volumes of one project; 0 is unlimited
	SeriesMax int           // dates of one series
	WaitMax   int           // waitlisted reservations of one project
}

// Pools are the scarce identifiers the operator gives.
type Pools struct {
	VLANFirst, VLANLast int    // 1-4094, inclusive
	Subnets             string // CIDR that subnets are cut from
	SubnetBits          int    // prefix length of one cluster's subnet
	PublicFirst         string // first public address, inclusive
	PublicLast          string
	PublicBits          int    // prefix length of the public network
	PublicGateway       string // may be empty
	MACPrefix           string // first three octets, locally administered
}

// Host is a registered physical machine.
type Host struct {
	ID, Name      string
	Classes       []api.Class
	Internal      string // mTLS address
	API           string // public API address
	Storage       string // address:port of its iSCSI portal; empty without class storage
	Underlay      string // address of its end of the cluster networks, and source of its iSCSI sessions
	FailureDomain string
	CPUs          int
	MemoryBytes   int64
	StorageBytes  int64
	Accel         string
	Network       string
	VolumeDriver  string `json:",omitempty"` // file or lvm; empty without class storage
	TargetEngine  string `json:",omitempty"` // embedded or lio; empty without class storage
	Initiator     string `json:",omitempty"` // qemu or kernel; empty: qemu
	Version       string
	Registered    time.Time
	Status        string // alive, dead, left (by the leader's hostwatch)
	StatusSince   time.Time
	Cordoned      string // reason; empty if not
	// Short says that the host registered with less than was already booked on
	// it. It is the only way a host may be overbooked; empty otherwise.
	Short string
}

// HostStatus is what a host last said it holds.
type HostStatus struct {
	Host    string
	Applied uint64 // index of the assignment it had fully looked at
	Objects []Object
	Time    time.Time
}

// Object is one thing a host holds or works on.
type Object struct {
	Kind        string // network, volume, node, image, drain
	ID          string // VLAN, volume id, reservation/node, recipe
	Reservation string
	Node        string
	Generation  uint64
	State       string // see the Obj* constants
	Message     string
	Digest      string // image
	SizeBytes   int64  // image
	BootOnly    bool   // image without its root disk
}

// Object kinds and states. A volume is ready when it is cloned and, where it
// has access entries, published under its generation.
const (
	KindNetwork = "network"
	KindVolume  = "volume"
	KindNode    = "node"
	KindImage   = "image"
	KindDrain   = "drain"

	ObjWaiting  = "waiting"  // for something named in Message
	ObjWorking  = "working"  // being made; Message says the step
	ObjReady    = "ready"    // network up, volume served, node usable, image here
	ObjBooting  = "booting"  // node: running, not yet ready
	ObjPaused   = "paused"   // node: stopped by the hypervisor, as on an I/O error
	ObjOff      = "off"      // node: not running
	ObjStopping = "stopping" // node: asked to power off
	ObjFailed   = "failed"   // Message says why; it is tried again
)

// Reservation is the contract with its placement.
//
// Until provisioning begins it is a promise: every node has a seat (Host and
// Storage), which shows that the promise can be kept and may be changed. Bind
// makes it concrete: identifiers, volumes and secrets.
type Reservation struct {
	ID, Name, Project, Owner string
	State                    api.State
	// Outcome is what ending ends in: ended, failed, cancelled or parked.
	Outcome    api.State
	Message    string
	Start, End time.Time
	Zone       string        `json:",omitempty"` // of the slot, as it was given
	Grace      time.Duration `json:",omitempty"` // after End until nodes are stopped
	// Provision is when provisioning begins: Start - Lead, or when it was booked if that is later.
	Provision       time.Time
	Lead            time.Duration // how long provisioning was expected to take
	Created         time.Time
	ReadyAt, Closed time.Time // zero until then
	Bound           bool      // identifiers, volumes and secrets are given
	Series          string    `json:",omitempty"`
	Wait            *Wait     `json:",omitempty"` // while waitlisted
	// Notices are shown in the cluster. Warned counts the warnings before the end that were given.
	Notices []NoticeWork `json:",omitempty"`
	Warned  int          `json:",omitempty"`
	// Kept: its volumes exist although nothing runs: it is parked, or was and is
	// booked again. ParkedAt and ParkedUntil are of the last parking, until its
	// disks are made anew. While ParkedAt is set and ReadyAt is not, whatever goes
	// wrong ends in its being parked again.
	Kept                  bool      `json:",omitempty"`
	ParkedAt, ParkedUntil time.Time // zero if never
	// StopAt is set while ending, until it is over: users may still save their work.
	StopAt time.Time `json:",omitzero"`
	// FrontendStops: no worker runs any more, so that the frontend of what is to
	// be parked may stop too. They write to its home until then.
	FrontendStops bool `json:",omitempty"`
	// NodesGone is set while ending, once no host holds a node any more; only
	// then do volumes and networks go.
	NodesGone bool
	// Freed are the hosts that are clean while others of an ending reservation
	// are not yet: nothing is booked on them any more.
	Freed []string
	// EndIndex is the Raft index at which the present stage of ending began; a
	// host counts as clean only by a report that had seen it.
	EndIndex   uint64
	Spec       api.Spec
	VLAN       int
	Subnet     string
	Nodes      []Node
	Users      []User
	Rolls      []string          // resolved, name@version, in order
	Recipes    map[string]string // appliance to recipe digest
	Secrets    map[string][]byte // rolls.Secrets
	Conditions []api.Condition
	Phases     []api.Phase
	// Modified is the Raft index of the last change to this record.
	Modified uint64
}

// Wait is what a waitlisted reservation waits for: a slot of Length that starts
// within [Earliest, Latest].
type Wait struct {
	Earliest, Latest time.Time
	Length           time.Duration
	Passed           int    // how often one behind it was booked before it
	Message          string // what is short
}

// Series is what reservations of one recurrence rule have in common.
type Series struct {
	ID, Name, Project, Owner string
	Spec                     api.Spec // with its slot, rule and exceptions
	Created                  time.Time
}

// Hold keeps the capacity of offers until one is taken or it expires. The offers
// answer one question, so only one can be taken, and each host holds the
// largest of them at any instant, not their sum.
type Hold struct {
	ID, Project, Owner string
	Created, Expires   time.Time
	Offers             []HeldOffer
}

// HeldOffer is one of the alternatives.
type HeldOffer struct {
	ID    string
	Offer api.Offer
	Spec  api.Spec
	Parts []Promise
}

// Promise is one slot with seats for its nodes.
type Promise struct {
	Start, End, Provision time.Time
	Lead, Grace           time.Duration
	Nodes                 []Node
}

// User is an account with its number.
type User struct {
	Name  string
	UID   int
	Keys  []string
	Admin bool
}

// Node is one node with its placement.
type Node struct {
	Name        string
	Role        api.Role
	Group       string
	Appliance   string
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	Host        string // host ID; its seat while it is only promised; empty while parked
	Storage     string // host ID of its volume
	Volume      string // volume ID; empty until bound
	PrivateMAC  string
	PrivateIP   string // address without prefix
	PublicMAC   string // frontend only
	PublicIP    string
	Generation  uint64 // raised whenever the node is to start elsewhere
	State       string // api.Node.State
	Since       time.Time
	Message     string
	// Leaving: it is being drained, to be removed from its cluster. LeaveBy is
	// when it goes although jobs run on it; zero: never.
	// LeaveDue: that time is over. LeaveIndex is the Raft index at which it began
	// to leave: what the frontend said before says nothing about its jobs now.
	// Joining: it has not been ready yet since it was added to a running cluster.
	Leaving    bool      `json:",omitempty"`
	LeaveBy    time.Time `json:",omitzero"`
	LeaveDue   bool      `json:",omitempty"`
	LeaveIndex uint64    `json:",omitempty"`
	Joining    bool      `json:",omitempty"`
	// LeftIndex is the Raft index from which on it is not to run; 0 until then.
	LeftIndex uint64 `json:",omitempty"`
}

// Volume is one disk.
type Volume struct {
	ID          string
	Reservation string
	Node        string
	Host        string // storage host ID
	SizeBytes   int64
	Recipe      string
	Generation  uint64 // the one node generation it is served to
	User        string // CHAP, of that generation
	Secret      string
	// Made is true from the first report on in which its host holds it ready.
	// From then on its content is its owner's: if it is missing, it is lost, and
	// is never cloned anew.
	Made bool
	// ImageDigest is the image it was cloned from, set with Made. Its kernel
	// boots the node, whatever is built from the same recipe later.
	ImageDigest string
}

// Kinds of leases.
const (
	LeaseVLAN   = "vlan"
	LeaseSubnet = "subnet"
	LeaseMAC    = "mac"
	LeasePublic = "public"
)

// Lease holds a scarce identifier. Kind is vlan, subnet, mac or public.
type Lease struct {
	Kind, Value, Reservation, Node string
}

// Image is what is known of a recipe.
type Image struct {
	Recipe    string
	Appliance string
	Rolls     []string // name@version, in order
	Digest    string   // empty until built
	Builder   string   // host ID that builds it; empty when built
	State     string   // api.Image.State
	Message   string
	SizeBytes int64
	Wanted    time.Time
}

// Roll is a registered roll.
type Roll struct {
	Name, Version, Digest string
	Registered            time.Time
}

// Token is a bearer token; Hash is the SHA-256 of its whole text.
type Token struct {
	ID      string
	Kind    api.TokenKind
	Project string
	Note    string
	Hash    []byte
	Created time.Time
	Expires time.Time
}

// States of hosts, nodes and images, as the API shows them.
const (
	HostAlive = "alive"
	HostDead  = "dead"
	HostLeft  = "left"

	NodeWaiting  = "waiting"  // for its slot, or for an image
	NodeVolume   = "volume"   // for its volume to be served
	NodeStarting = "starting" // for its host to run it; also when it stopped by itself
	NodeBooting  = "booting"
	NodeReady    = "ready"
	NodeDraining = "draining" // takes no new jobs, to leave its cluster
	NodeStopping = "stopping"
	NodeGone     = "gone"
	NodeLost     = "lost" // its host is dead, or has not reported since it came back

	ImageWanted   = "wanted"
	ImageBuilding = "building"
	ImageReady    = "ready"
	ImageFailed   = "failed"
)

// Live is true until the reservation has reached ended, failed or cancelled.
// A live reservation holds its name, and its share of hosts.
func (r *Reservation) Live() bool {
	switch r.State {
	case api.StateEnded, api.StateFailed, api.StateCancelled:
		return false
	}
	return true
}

// Placed is true while hosts have, or may have, something of it.
func (r *Reservation) Placed() bool { return r.Running() || r.State == api.StateEnding || r.Kept }

// Running is true while its nodes are to run.
func (r *Reservation) Running() bool {
	switch r.State {
	case api.StateProvisioning, api.StateReady, api.StateActive:
		return true
	}
	return false
}

// Identifiers is the pseudo host on which every cluster books one: what there
// is of VLANs, subnets and public addresses bounds how many exist at once.
const Identifiers = "*"

// Booking is what a reservation or a hold keeps of one host in [From, Until).
// Placement admits against these.
type Booking struct {
	Host         string
	Owner        string // id of a reservation or a hold
	From, Until  time.Time
	CPUs         int   `json:",omitempty"`
	MemoryBytes  int64 `json:",omitempty"`
	StorageBytes int64 `json:",omitempty"`
	Clusters     int   `json:",omitempty"` // on Identifiers only
}

// Event is something that happened.
type Event struct {
	Index       uint64 // Raft index; unique with Sub
	Sub         int
	Time        time.Time
	Reservation string
	Host        string
	Kind        string
	Message     string
}
