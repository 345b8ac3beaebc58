package placement

import "time"

// Policy is how nodes are laid over hosts.
type Policy string

const (
	Spread Policy = "spread" // emptiest host first, failure domains apart
	Pack   Policy = "pack"   // fullest host that still fits first
)

// Host is one physical machine's whole capacity.
type Host struct {
	ID, Name                  string
	Gateway, Compute, Storage bool
	FailureDomain             string
	CPUs                      int
	MemoryBytes               int64
	StorageBytes              int64
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
}

// NodeRequest is one node to place, with its volume.
type NodeRequest struct {
	Name        string
	Frontend    bool // on a gateway host; otherwise on a compute host
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64 // on a storage host
}

// Request is all nodes of one reservation, placed together or not at all.
type Request struct {
	From, Until time.Time
	Nodes       []NodeRequest
	Policy      Policy
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
	Reasons []string // each names class, resource, time and how much is short
}
