package placement

import "time"

// Policy is how nodes are laid over hosts.
type Policy string

const (
	Spread Policy = "spread" // emptiest host first, failure domains apart
	Pack   Policy = "pack"   // fullest host that still fits first
)

// IdentifiersHost is the ID of the pseudo host on which every cluster books one
// set of identifiers (VLAN, subnet, public address). It has no class.
const IdentifiersHost = "*"

// Host is one physical machine's whole capacity.
type Host struct {
	ID, Name                  string
	Gateway, Compute, Storage bool
	FailureDomain             string
	CPUs                      int
	MemoryBytes               int64
	StorageBytes              int64
	// Clusters is how many clusters may exist at once; only the pseudo host
	// IdentifiersHost has it.
	Clusters int
	// Unusable says why nothing new may go there (dead, cordoned); empty if
	// it may.
	Unusable string
}

// Booking holds part of a host for the half-open time [From, Until).
type Booking struct {
	Host         string
	From, Until  time.Time
	CPUs         int
	MemoryBytes  int64
	StorageBytes int64
	Clusters     int // of the pseudo host IdentifiersHost
}

// Step is what is booked on a host from an instant on, until the next step.
type Step struct {
	At                        int64 // Unix time, ns
	CPUs                      int
	MemoryBytes, StorageBytes int64
	Clusters                  int
}

// NodeRequest is one node to place, with its volume.
type NodeRequest struct {
	Name        string
	Frontend    bool // on a gateway host; otherwise on a compute host
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64 // on a storage host
	// Host and Storage pin the node and its volume to a host ID; empty: chosen.
	Host, Storage string
}

// Request is all nodes of one reservation, placed together or not at all.
type Request struct {
	From, Until time.Time // within the years 1700-2200
	Nodes       []NodeRequest
	Policy      Policy
	// KeepStorage is how much longer than Until volumes are held: they may be
	// kept when the nodes are gone. 0 to some years.
	KeepStorage time.Duration
	// Stay: what is pinned may be on hosts that are not usable any more, because
	// it is there. Plan only.
	Stay bool
	// Clusters is how many sets of identifiers are wanted, 0 or 1. Without a
	// host IdentifiersHost nothing bounds them.
	Clusters int
}

// Assigned is where one node and its volume go.
type Assigned struct {
	Node    string
	Host    string // host ID
	Storage string // host ID
}

// Plan answers a Request, in the order of its nodes.
type Plan struct {
	Nodes []Assigned
}

// NoFit is the error when a request cannot be placed.
type NoFit struct {
	Reasons   []string   // each names class, resource, time and how much is short
	Shortages []Shortage // the same as facts, in the same order
}

// Names of resources in Shortage and Block.
const (
	Cores       = "cores"
	Memory      = "memory"
	Storage     = "storage"
	Identifiers = "identifiers"
	// HostUnusable stands for the whole host: it is not known, not usable, or
	// (in a Shortage) there is none of the class.
	HostUnusable = "host"
)

// Shortage is the binding constraint of nodes of one shape: of the host with
// most room for one more of them, the resource that lacks most in proportion,
// and when in the slot most of it is booked.
type Shortage struct {
	Class       string // gateway, compute, storage or identifiers
	From, Until time.Time
	At          time.Time // From where bookings are not the cause
	Resource    string    // cores, memory, storage, identifiers, or host
	Short       int64     // cores, bytes or clusters lacking for one more; 0 for host
	Of, Missing int       // so many nodes of the shape, so many of them without a host
}

// Undecided is the error of Earliest where it has used up what one call may
// cost (ProbesMax, ProbeWorkMax) without finding a start: only requests of mixed shapes
// come to that. Everything before Before is ruled out: ask again from there. It
// unwraps to the *NoFit of the request's own From.
type Undecided struct {
	Before time.Time
	Probes int // starts that were planned in vain
	NoFit  *NoFit
}

// Block is what stands in the way of prolonging a booking.
type Block struct {
	Host     string // host ID
	At       time.Time
	Resource string // cores, memory, storage, identifiers, or host if it is not known
	Short    int64  // cores, bytes or clusters
}

// FreeStep is what is free from an instant on, until the next step.
type FreeStep struct {
	From                      time.Time
	CPUs                      int
	MemoryBytes, StorageBytes int64
}
