package api

import "time"

// Class is what a host offers. A host may hold several.
type Class string

const (
	ClassGateway Class = "gateway" // has the public network; carries frontends
	ClassCompute Class = "compute" // carries workers
	ClassStorage Class = "storage" // carries volumes
)

// Role is a node's part in its cluster.
type Role string

const (
	RoleFrontend Role = "frontend"
	RoleWorker   Role = "worker"
)

// State is a reservation's place in its life.
type State string

const (
	StateWaitlisted   State = "waitlisted"
	StateBooked       State = "booked"
	StateProvisioning State = "provisioning"
	StateReady        State = "ready"
	StateActive       State = "active"
	StateEnding       State = "ending"
	StateParked       State = "parked"
	StateEnded        State = "ended"
	StateFailed       State = "failed"
	StateCancelled    State = "cancelled"
)

// Spec is what an owner writes: one virtual cluster for one slot.
type Spec struct {
	Name     string        `json:"name" doc:"1-40 of a-z, 0-9 and '-', starting with a letter, not ending in '-'; unique among the project's live reservations"`
	Project  string        `json:"project,omitempty" doc:"who pays; default: the token's project"`
	Slot     Slot          `json:"slot"`
	Frontend NodeShape     `json:"frontend"`
	Workers  []WorkerGroup `json:"workers"`
	Rolls    []string      `json:"rolls,omitempty" doc:"names, or name@version; what they require is added"`
	Home     Quantity      `json:"home,omitempty" doc:"size of the shared home, 256MiB-16TiB; default: what the frontend's disk leaves"`
	Users    []User        `json:"users"`
	AtEnd    *AtEnd        `json:"atEnd,omitempty" doc:"what happens at the end of the slot; default: release, warned 1d, 1h and 10m before"`
	Notify   *Notify       `json:"notify,omitempty" doc:"who is told what happens"`
}

// Slot says when. Start is "asap" or a time; give End or For. Times carry a
// zone, or are local times of Zone: of one that exists twice, when clocks are put
// back, the first is meant; one that does not exist is an error. With Latest the
// slot may start anywhere from Start to Latest, as early as it fits.
type Slot struct {
	Start  string   `json:"start" doc:"asap, or RFC 3339 (seconds may be left out); without a zone it is a local time of zone"`
	Latest string   `json:"latest,omitempty" doc:"latest start: the slot starts as early as it fits, from start to then"`
	End    string   `json:"end,omitempty" doc:"as start"`
	For    string   `json:"for,omitempty" doc:"length, such as 90m, 8h, 30d, 2w; 1m-5y"`
	Zone   string   `json:"zone,omitempty" doc:"IANA time zone, such as Europe/Berlin: of times without one, and of a series' daylight saving"`
	Repeat string   `json:"repeat,omitempty" doc:"recurrence rule (RFC 5545 RRULE) with COUNT or UNTIL, such as FREQ=WEEKLY;BYDAY=MO,WE;COUNT=20; wants zone"`
	Except []string `json:"except,omitempty" doc:"dates (2030-12-24) or starts left out of a series"`
}

// What happens to volumes at the end of a slot.
const (
	EndRelease = "release"
	EndPark    = "park"
)

// AtEnd says what happens at the end of a slot.
type AtEnd struct {
	Action  string   `json:"action,omitempty" enum:"release,park" doc:"release: all is deleted (default); park: the volumes are kept and nothing else is held"`
	Grace   string   `json:"grace,omitempty" doc:"time after the end, 0s-1h, in which users can still save their work; booked with the slot; default 0s"`
	ParkFor string   `json:"parkFor,omitempty" doc:"how long parked volumes are kept; 1h-1y, default 30d"`
	Warn    []string `json:"warn,omitempty" doc:"how long before the end to warn, at most 5; default 1d, 1h, 10m; 0s alone: never"`
}

// Notify says who is told of a reservation's booking, readiness, trouble and end.
type Notify struct {
	Webhook string `json:"webhook,omitempty" doc:"https URL that gets a POST of each event; the operator says which may be reached"`
	Mail    string `json:"mail,omitempty" doc:"address that gets a mail for each event, by the operator's mail command"`
}

// NodeShape is the size of one node.
type NodeShape struct {
	CPUs   int      `json:"cpus,omitempty" doc:"cores, 1-256; default 1"`
	Memory Quantity `json:"memory,omitempty" doc:"256MiB-4TiB; default 512MiB"`
	Disk   Quantity `json:"disk,omitempty" doc:"4GiB-16TiB; default 4GiB"`
}

// WorkerGroup is workers of one shape and one appliance.
type WorkerGroup struct {
	Name      string `json:"name,omitempty" doc:"prefix of the node names, 1-30 of a-z, 0-9 and '-'; default compute"`
	Count     int    `json:"count" doc:"1-1000"`
	NodeShape `json:",inline"`
	Appliance string `json:"appliance,omitempty" doc:"default: worker"`
}

// User is an account on the cluster.
type User struct {
	Name  string   `json:"name"`
	Keys  []string `json:"keys" doc:"ssh public keys, as in authorized_keys"`
	Admin bool     `json:"admin,omitempty" doc:"may use sudo on the nodes"`
}

// Reservation is the contract as the API shows it.
type Reservation struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Project     string         `json:"project"`
	Owner       string         `json:"owner" doc:"id of the token that made it"`
	State       State          `json:"state" enum:"waitlisted,booked,provisioning,ready,active,ending,parked,ended,failed,cancelled"`
	Message     string         `json:"message,omitempty" doc:"why, for people"`
	Conditions  []Condition    `json:"conditions,omitempty"`
	Start       time.Time      `json:"start"`
	End         time.Time      `json:"end"`
	Zone        string         `json:"zone,omitempty" doc:"time zone of the slot, where it was given"`
	Provision   time.Time      `json:"provision" doc:"when provisioning begins: start minus lead time. From then until after the end hosts and identifiers are held"`
	Lead        string         `json:"lead" doc:"lead time: how long provisioning is expected to take"`
	Created     time.Time      `json:"created"`
	ReadyAt     *time.Time     `json:"readyAt,omitempty"`
	Expected    *time.Time     `json:"expected,omitempty" doc:"when it is expected to be usable, until it is"`
	Early       *int64         `json:"earlySeconds,omitempty" doc:"how many seconds before its start it was ready; negative: late"`
	Held        bool           `json:"held" doc:"false: hosts are promised by class and shape, and those shown may change until provisioning begins"`
	Series      string         `json:"series,omitempty" doc:"id of the series it belongs to"`
	Wait        *Wait          `json:"wait,omitempty" doc:"while waitlisted"`
	ParkedUntil *time.Time     `json:"parkedUntil,omitempty" doc:"when parked volumes are deleted"`
	Change      *PendingChange `json:"change,omitempty" doc:"a change that is being carried out"`
	Frontend    *Frontend      `json:"frontend,omitempty" doc:"how to log in, once placed"`
	VLAN        int            `json:"vlan,omitempty"`
	Subnet      string         `json:"subnet,omitempty"`
	Nodes       []Node         `json:"nodes"`
	Phases      []Phase        `json:"phases,omitempty"`
	Rolls       []string       `json:"rolls"`
	Spec        Spec           `json:"spec"`
}

// Wait is a place in the waitlist.
type Wait struct {
	Earliest time.Time `json:"earliest" doc:"earliest start"`
	Latest   time.Time `json:"latest" doc:"latest start; if nothing has come free by then it fails"`
	Position int       `json:"position" doc:"1 is next"`
	Passed   int       `json:"passed" doc:"how often somebody behind it was booked before it"`
	Message  string    `json:"message,omitempty" doc:"what it waits for"`
}

// PendingChange is a change that takes time: workers that leave are drained first.
type PendingChange struct {
	Leaving  []string   `json:"leaving,omitempty" doc:"workers that are being drained"`
	Joining  []string   `json:"joining,omitempty" doc:"workers that are being added"`
	Deadline *time.Time `json:"deadline,omitempty" doc:"when workers that still run jobs are stopped all the same; those whose jobs are unknown never are"`
	Message  string     `json:"message,omitempty"`
}

// Frontend is what a user needs to log in.
type Frontend struct {
	Address string `json:"address"`
	HostKey string `json:"hostKey" doc:"ssh public host key, to pin"`
}

// Condition stands beside the state.
type Condition struct {
	Type    string    `json:"type" enum:"degraded,missing_resources,resources_changed"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// Node is one virtual machine of a cluster.
type Node struct {
	Name       string    `json:"name"`
	Role       Role      `json:"role" enum:"frontend,worker"`
	Host       string    `json:"host" doc:"name of the host that carries it"`
	Storage    string    `json:"storage" doc:"name of the host that carries its volume"`
	PrivateIP  string    `json:"privateIP"`
	PublicIP   string    `json:"publicIP,omitempty"`
	MAC        string    `json:"mac"`
	CPUs       int       `json:"cpus"`
	Memory     Quantity  `json:"memory"`
	Disk       Quantity  `json:"disk"`
	Generation uint64    `json:"generation"`
	State      string    `json:"state" enum:"waiting,volume,starting,booting,ready,draining,stopping,gone,lost"`
	Since      time.Time `json:"since"`
	Message    string    `json:"message,omitempty"`
}

// Phase is one step of provisioning with its times. End is nil while it runs.
type Phase struct {
	Name  string     `json:"name" enum:"images,volumes,networks,boot,ready"`
	Start time.Time  `json:"start"`
	End   *time.Time `json:"end,omitempty"`
	Note  string     `json:"note,omitempty"`
}

// Event is something that happened, for people.
type Event struct {
	Index       uint64    `json:"index"`
	Time        time.Time `json:"time"`
	Reservation string    `json:"reservation,omitempty"`
	Host        string    `json:"host,omitempty"`
	Kind        string    `json:"kind" doc:"dotted word, such as reservation.ready"`
	Message     string    `json:"message"`
}

// Host is a physical machine as the API shows it.
type Host struct {
	ID            string   `json:"id"`
	Name          string   `json:"name"`
	Classes       []Class  `json:"classes" enum:"gateway,compute,storage"`
	Address       string   `json:"address" doc:"cluster (internal) address"`
	APIAddress    string   `json:"apiAddress"`
	FailureDomain string   `json:"failureDomain,omitempty"`
	Status        string   `json:"status" enum:"alive,dead,left,unknown"`
	Raft          string   `json:"raft" enum:"leader,voter,spare,follower"`
	CPUs          int      `json:"cpus"`
	Memory        Quantity `json:"memory"`
	Storage       Quantity `json:"storage"`
	FreeCPUs      int      `json:"freeCpus"`
	FreeMemory    Quantity `json:"freeMemory"`
	FreeStorage   Quantity `json:"freeStorage"`
	Accel         string   `json:"accel" enum:"kvm,tcg"`
	Network       string   `json:"network" enum:"vlan,vxlan"`
	VolumeDriver  string   `json:"volumeDriver,omitempty" enum:"file,lvm" doc:"how its volumes are kept; hosts of class storage only"`
	TargetEngine  string   `json:"targetEngine,omitempty" enum:"embedded,lio" doc:"what serves its volumes over iSCSI; hosts of class storage only"`
	Initiator     string   `json:"initiator,omitempty" enum:"qemu,kernel" doc:"what its nodes reach volumes of other hosts with"`
	Images        []string `json:"images,omitempty"`
	Version       string   `json:"version"`
}

// Lease is the timed hold of a scarce identifier.
type Lease struct {
	Kind        string `json:"kind" enum:"vlan,subnet,mac,public"`
	Value       string `json:"value"`
	Reservation string `json:"reservation"`
	Node        string `json:"node,omitempty"`
}

// TokenKind is what a token may do: operator everything, project its own
// project's reservations, join one or more hosts' registration.
type TokenKind string

const (
	TokenOperator TokenKind = "operator"
	TokenProject  TokenKind = "project"
	TokenJoin     TokenKind = "join"
	// TokenFeed shows one project's iCalendar feed, and does nothing else.
	TokenFeed TokenKind = "feed"
)

// Token is a bearer token without its secret.
type Token struct {
	ID      string    `json:"id"`
	Kind    TokenKind `json:"kind" enum:"operator,project,join,feed"`
	Project string    `json:"project,omitempty"`
	Note    string    `json:"note,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Secret is the whole token, shown once, in the answer to its creation.
	Secret string `json:"secret,omitempty"`
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Kind    TokenKind `json:"kind" enum:"operator,project,join"`
	Project string    `json:"project,omitempty"`
	Note    string    `json:"note,omitempty"`
	For     string    `json:"for,omitempty" doc:"life, 1m-10y; default 1h for join, 90d for project, 1y for operator"`
}

// Plan is the answer to a dry run: what would be booked.
type Plan struct {
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Provision time.Time `json:"provision"`
	Lead      string    `json:"lead" doc:"estimated time to provision"`
	Nodes     []Node    `json:"nodes"`
	Rolls     []string  `json:"rolls"`
	Images    []Image   `json:"images"`
	Expected  time.Time `json:"expected" doc:"when it is expected to be usable"`
}

// Image is a bootable disk content.
type Image struct {
	Recipe    string   `json:"recipe" doc:"digest of rolls and appliance"`
	Digest    string   `json:"digest,omitempty" doc:"digest of the exact package versions; known once built"`
	Appliance string   `json:"appliance"`
	Rolls     []string `json:"rolls"`
	State     string   `json:"state" enum:"wanted,building,ready,failed"`
	Message   string   `json:"message,omitempty"`
	Size      Quantity `json:"size,omitempty"`
	Hosts     []string `json:"hosts,omitempty"`
}

// Roll is a software bundle as the API shows it.
type Roll struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Description string   `json:"description"`
	Requires    []string `json:"requires,omitempty"`
	Conflicts   []string `json:"conflicts,omitempty"`
	Appliances  []string `json:"appliances"`
	Digest      string   `json:"digest"`
}

// Status is the cluster of hosts at a glance.
type Status struct {
	ClusterID    string `json:"clusterId"`
	Name         string `json:"name"`
	Host         string `json:"host" doc:"who answers"`
	Leader       string `json:"leader,omitempty"`
	Forming      bool   `json:"forming" doc:"true until the expected number of voters has joined"`
	Voters       int    `json:"voters"`
	Expect       int    `json:"expect"`
	Hosts        int    `json:"hosts"`
	HostsAlive   int    `json:"hostsAlive"`
	Reservations int    `json:"reservations" doc:"live ones"`
	Index        uint64 `json:"index" doc:"last applied Raft index at the answerer"`
	Version      string `json:"version"`
}

// JoinRequest is what a new host posts to /v1/join, with a join token as
// bearer. CSR is a PKCS #10 request in PEM.
type JoinRequest struct {
	HostID string   `json:"hostId"`
	Name   string   `json:"name"`
	CSR    string   `json:"csr"`
	Names  []string `json:"names,omitempty" doc:"DNS names and addresses by which clients reach it"`
}

// JoinResponse is what makes the new host a member.
type JoinResponse struct {
	ClusterID string   `json:"clusterId"`
	CA        string   `json:"ca" doc:"PEM"`
	Cert      string   `json:"cert" doc:"PEM"`
	GossipKey string   `json:"gossipKey" doc:"base64"`
	Peers     []string `json:"peers" doc:"gossip addresses of living hosts"`
}
