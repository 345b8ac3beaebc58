package hostops

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"vcn/rolls"
)

var (
	// ErrNotFound: the named thing does not exist on this host.
	ErrNotFound = errors.New("not found")
	// ErrForeign: something of that name exists and does not carry our mark.
	ErrForeign = errors.New("exists and is not ours")
	// ErrNoSpace: the host's storage cannot hold it.
	ErrNoSpace = errors.New("no space")
	// ErrBusy: it is in use and cannot be removed yet; try again.
	ErrBusy = errors.New("busy")
	// ErrStale: a newer generation is here than the one asked for.
	ErrStale = errors.New("a newer generation is here")
	// ErrDenied: the other side refuses this host.
	ErrDenied = errors.New("access denied")
	// ErrInvalid: the specification cannot be met by any host.
	ErrInvalid = errors.New("invalid specification")
)

// Mark is the prefix of every name, alias and metadata that vcn leaves on a
// host.
const Mark = "vcn"

// DomainSpec is one node's virtual machine. Reservation and Node name it.
type DomainSpec struct {
	Reservation string
	Node        string
	Generation  uint64
	CPUs        int
	MemoryBytes int64
	Kernel      string // path on this host
	Initrd      string // path on this host
	Cmdline     string
	Disk        Disk
	SeedPath    string // ISO 9660, read-only
	ConsolePath string // console log, appended
	NICs        []NIC  // in order: private, then public
}

// NIC is one network card, bridged. Guests see eth0, eth1 in this order.
type NIC struct {
	MAC    string
	Bridge string
	MTU    int // told to the guest's driver; 0 means Ethernet's 1500
}

// Disk is either a path on this host or an iSCSI unit elsewhere.
type Disk struct {
	Path  string
	ISCSI *ISCSIDisk
}

// ISCSIDisk is a unit as QEMU's own initiator needs it.
type ISCSIDisk struct {
	Portal    netip.AddrPort
	IQN       string
	LUN       int
	Initiator string // IQN of this host
	User      string // CHAP
	Secret    string
}

// DomainState is what the hypervisor says.
type DomainState string

const (
	DomainRunning DomainState = "running"
	DomainPaused  DomainState = "paused" // also: stopped on an I/O error
	DomainOff     DomainState = "off"
	DomainCrashed DomainState = "crashed"
)

// Domain is an observed virtual machine of ours.
type Domain struct {
	Reservation string
	Node        string
	Generation  uint64
	State       DomainState
	// Ready is true while the guest agent's channel is connected. The guest
	// opens it as the last thing, when it can do its work (see docs/rolls.md).
	Ready   bool
	Started time.Time // zero if unknown
	Detail  string    // for people: why it is off, paused or crashed
}

// Domains runs virtual machines.
type Domains interface {
	// Ensure defines the domain and starts it if it is not running. A running
	// domain of the same generation is left alone, whatever else differs, and
	// one that stopped on an I/O error goes on; an older generation is
	// destroyed first, a newer one is ErrStale.
	Ensure(ctx context.Context, s DomainSpec) error
	// Stop asks the guest to power off and destroys it after grace. The
	// definition stays.
	Stop(ctx context.Context, reservation, node string, grace time.Duration) error
	// Remove destroys and undefines, and forgets its secrets.
	Remove(ctx context.Context, reservation, node string) error
	List(ctx context.Context) ([]Domain, error)
	// Watch sends a value (coalesced) at once, and whenever List may have
	// changed, until ctx or the driver ends; then the channel is closed. It
	// survives a restart of the hypervisor's daemon.
	Watch(ctx context.Context) <-chan struct{}
	Close() error
}

// GuestCommand is a program to run inside a node, as root.
type GuestCommand struct {
	Args  []string // absolute path first
	Stdin []byte   // at most GuestBytesMax
}

// GuestBytesMax bounds what goes into a command in a guest, and each of its
// outputs; what is beyond is cut off.
const GuestBytesMax = 2 << 20

// GuestResult is how a command in a guest ended.
type GuestResult struct {
	Exit           int // -1 if a signal ended it
	Stdout, Stderr []byte
}

// ErrNoAgent: the guest's agent does not answer now. Whether the command ran is
// not known.
var ErrNoAgent = errors.New("the guest's agent does not answer")

// Guests runs commands inside nodes, by their guest agent. What comes back is
// the guest's word: its owner may have changed anything in it.
type Guests interface {
	// Run runs a command and waits for its end, or ctx's: then it may go on
	// in the guest. Errors: ErrNotFound (no such node, or of another
	// generation, or it does not run), ErrNoAgent, ErrInvalid.
	Run(ctx context.Context, reservation, node string, generation uint64, c GuestCommand) (GuestResult, error)
}

// NetworkSpec is one cluster's private network on this host.
type NetworkSpec struct {
	Reservation string
	VLAN        int          // 1-4094; also the VXLAN network identifier's low bits
	Peers       []netip.Addr // underlay addresses of the other hosts that carry it
	MTU         int          // what guests see; 0 means 1500
}

// Network is an observed private network of ours.
type Network struct {
	Reservation string
	VLAN        int
	Bridge      string
	Healthy     bool
	Detail      string
}

// Networks makes private networks. Bridge names are BridgeName(VLAN).
type Networks interface {
	// Driver names the driver in use and why it was chosen.
	Driver() (name, why string)
	// Ensure makes or repairs the network and returns its bridge. A VLAN that
	// carries another reservation here is ErrBusy until that is removed.
	Ensure(ctx context.Context, s NetworkSpec) (bridge string, err error)
	// Remove takes down the network, with every tap still on its bridge.
	Remove(ctx context.Context, vlan int) error
	List(ctx context.Context) ([]Network, error)
}

// VolumeSpec is one disk carved on this host.
type VolumeSpec struct {
	ID        string // immutable, a-z 0-9 '-'
	SizeBytes int64
	Base      string // path of the image to clone; empty for a blank volume
	// Image names Base's content: two volumes with the same Image may share its
	// blocks. The image's digest, a-z 0-9 '-'; empty means that nothing is shared.
	Image string
}

// Volume is an observed volume of ours.
type Volume struct {
	ID        string
	Path      string
	SizeBytes int64 // at least what was asked for: drivers round up
}

// Volumes carves disks.
type Volumes interface {
	// Ensure creates the volume (clone, then grow to size) if it is absent; an
	// existing one keeps its content and is only ever grown. A half-made
	// volume is never visible.
	Ensure(ctx context.Context, s VolumeSpec) (Volume, error)
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) ([]Volume, error)
	// Capacity returns total and free bytes of the store.
	Capacity(ctx context.Context) (total, free int64, err error)
}

// Access lets one host's initiator use one export.
type Access struct {
	Initiator string     // IQN
	Addr      netip.Addr // source address
	User      string     // CHAP
	Secret    string     // CHAP, 12-64 characters
}

// Export is one volume served over iSCSI, as LUN 1 of a target of its own.
type Export struct {
	Volume     string // volume id
	Path       string
	IQN        string
	Generation uint64
	Access     []Access
}

// ExportStatus is an observed export.
type ExportStatus struct {
	Volume     string
	IQN        string
	Generation uint64
	Sessions   []Session
	Failed     string // not empty: the unit has failed for good, and why
	// Lost: this host went down with writes that were acknowledged and not
	// flushed, since this generation was published. Whoever uses the volume
	// is not told by its disk. The embedded engine alone knows.
	Lost bool
}

// Session is one logged-in initiator.
type Session struct {
	Initiator string
	Addr      netip.AddrPort
	Since     time.Time
}

// Targets serves volumes over iSCSI.
type Targets interface {
	// Publish serves the volume. If generation or access differ from what is
	// published, sessions that are no longer allowed are cut and drained
	// before a new one is admitted. A lower generation than published is an
	// error.
	Publish(ctx context.Context, e Export) error
	// Withdraw stops serving. When it returns, nothing more is written.
	Withdraw(ctx context.Context, volume string) error
	List(ctx context.Context) ([]ExportStatus, error)
	// Resize tells initiators that the volume's file has grown.
	Resize(ctx context.Context, volume string) error
}

// Attachment is a unit of another host that is a block device of this one.
type Attachment struct {
	IQN    string
	Portal netip.AddrPort
	Path   string // block device; empty while there is none
	Detail string // for people: why it cannot be used now, or nothing
}

// Initiators attaches units with the kernel's own initiator, so that a guest's
// hypervisor needs none.
type Initiators interface {
	// Attach logs in and returns the block device's path, which stays the same
	// while the session is lost and found. The same access again is left alone;
	// but that its size is looked at again; another portal or secret replaces the
	// session. While the target is away
	// I/O waits, for ever: no error reaches a guest. Errors: ErrInvalid,
	// ErrDenied, and ErrForeign for a session that is not ours.
	Attach(ctx context.Context, d ISCSIDisk) (path string, err error)
	// Detach ends the session and forgets its secret; what was not written is
	// lost if the target does not answer. What a guest uses is ErrBusy.
	Detach(ctx context.Context, iqn string) error
	List(ctx context.Context) ([]Attachment, error)
}

// BuildSpec asks for one image.
type BuildSpec struct {
	Recipe rolls.Recipe
}

// Image is an image in this host's store.
type Image struct {
	Recipe    string // rolls.Recipe.Digest()
	Digest    string // digest of the lock: recipe and exact package versions
	Appliance string
	Dir       string
	Root      string // path of the raw root disk; empty if only boot files are here
	Kernel    string
	Initrd    string
	Manifest  rolls.Manifest
	SizeBytes int64 // allocated bytes of Root
}

// Images builds and keeps images.
type Images interface {
	// Build makes the image of a recipe, or returns the one that is here.
	// progress is called with a short line at each step. One build at a time.
	Build(ctx context.Context, s BuildSpec, progress func(string)) (Image, error)
	// Get returns the image with that digest, ErrNotFound without it.
	Get(ctx context.Context, digest string) (Image, error)
	List(ctx context.Context) ([]Image, error)
	// Export writes the image as one stream; bootOnly leaves the root disk out.
	Export(ctx context.Context, digest string, bootOnly bool, w io.Writer) error
	// Import reads a stream that Export wrote, checks it, and keeps it. An
	// image that is here already is completed, never replaced.
	Import(ctx context.Context, r io.Reader) (Image, error)
	Remove(ctx context.Context, digest string) error
}

// Facts is what a host can offer.
type Facts struct {
	CPUs        int // threads of all online processors
	MemoryBytes int64
	Accel       string // kvm or tcg
	AccelWhy    string
	Kernel      string
	QEMU        string
}
