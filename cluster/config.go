package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
)

// Limits. They bound what one host may ask of another.
const (
	// CommandBytesMax bounds one command given to Apply.
	CommandBytesMax = 4 << 20
	// AdvertBytesMax bounds one encoded advert.
	AdvertBytesMax = 48 << 10

	applyInFlightMax  = 4096
	handshakesMax     = 256
	handshakeTimeMax  = 5 * time.Second
	dialTimeMax       = 5 * time.Second
	membersMax        = 4096
	advertStateMax    = 16 << 20 // all adverts in one push/pull; memberlist takes 20 MiB
	deadRememberedMax = 24 * time.Hour
	savedPeersMax     = 64
	internalBodyMax   = 1 << 20
	transferTimeMax   = 2 * time.Second
	raftRPCTimeMax    = 5 * time.Second
	snapshotsRetained = 2
	raftPoolMax       = 3
	logCacheEntries   = 512
)

// Config is what New needs. Zero values of the optional fields mean the
// defaults named here.
type Config struct {
	ClusterID string // lower-case letters, digits, '.', '_', '-'; 1-64 characters
	HostID    string // same alphabet; never reused for another machine
	Name      string // for people; need not be unique

	// DataDir holds raft/, peers.json and the bootstrap marker. Made if absent, mode 0700.
	DataDir string

	CA   []byte // PEM of the cluster CA, no other
	Cert []byte // PEM of this host's certificate
	Key  []byte // PEM of its key

	GossipKey []byte // 16, 24 or 32 bytes, the same on every host

	Bind            netip.AddrPort // mTLS listener; port 0 picks one
	Advertise       netip.AddrPort // default: Bind (with the picked port)
	GossipBind      netip.AddrPort // TCP and UDP; port 0 picks one
	GossipAdvertise netip.AddrPort // default: GossipBind (with the picked port)

	FSM raft.FSM // required

	FailureDomain string // hosts that fail together; empty: the host is its own
	VotersMax     int    // odd, 1-9; default 3
	Spares        int    // non-voters kept ready, 0-8; default 1. Negative: none
	NeverPeer     bool   // never take this host into the Raft group

	// KnownHosts lists the hosts the replicated state knows, dead or alive.
	// Called often, also while raft applies; it must not block. nil: gossip only.
	KnownHosts func() []KnownHost

	// Expelled says of a host id that it must not be talked to although its
	// certificate is good. Checked on accept and dial; must not block. nil: nobody.
	Expelled func(hostID string) bool

	// Bootstrap starts a new Raft group, once, at the host that made the CA.
	// With Raft data present it does nothing; with a marker of an earlier
	// bootstrap but no data New fails with ErrBootstrapped.
	Bootstrap bool

	Timing Timing
	Log    *slog.Logger // default: discard

	// Net and Storage replace sockets and files, for simulations.
	Net     Network
	Storage Storage
}

// KnownHost is a host as the replicated state remembers it.
type KnownHost struct {
	ID, Name         string
	Internal, Gossip string // ip:port, may be empty
	FailureDomain    string
	NeverPeer        bool // cordoned for the Raft group: never chosen, replaced when it is in
}

// Timing holds every wait that decides something. Zero fields take the default.
type Timing struct {
	Heartbeat     time.Duration // 300 ms: a follower that hears nothing this long stands for election
	Election      time.Duration // 300 ms
	Lease         time.Duration // 150 ms: a leader without a quorum this long steps down; at most Heartbeat
	Stable        time.Duration // 1 s: how long a non-voter is healthy before it votes
	DeadAfter     time.Duration // 30 s: how long a peer is dead before it is replaced
	Reconcile     time.Duration // 250 ms: pace of the leader's look at the group
	Rejoin        time.Duration // 5 s: pace of attempts to reach hosts gossip has lost
	ProbeInterval time.Duration // 1 s: memberlist's
	ProbeTimeout  time.Duration // 500 ms: memberlist's
	PushPull      time.Duration // 30 s: memberlist's full exchange
}

// Network is where connections come from. The default is TCP and UDP.
type Network interface {
	Listen(addr netip.AddrPort) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Gossip makes memberlist's transport; nil means memberlist's own over TCP and UDP.
	Gossip(addr netip.AddrPort) (memberlist.Transport, error)
}

// Storage is where Raft keeps its data. The default is boltdb and files in DataDir/raft.
type Storage interface {
	Exists() (bool, error)
	Open() (RaftStores, error)
	// SetAside puts the data out of the way, so that Exists says false.
	SetAside() error
}

// RaftStores is open Raft storage.
type RaftStores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Closer    io.Closer // may be nil
}

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func orDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

func (t *Timing) defaults() {
	orDefault(&t.Heartbeat, 300*time.Millisecond)
	orDefault(&t.Election, 300*time.Millisecond)
	orDefault(&t.Lease, 150*time.Millisecond)
	orDefault(&t.Stable, time.Second)
	orDefault(&t.DeadAfter, 30*time.Second)
	orDefault(&t.Reconcile, 250*time.Millisecond)
	orDefault(&t.Rejoin, 5*time.Second)
	orDefault(&t.ProbeInterval, time.Second)
	orDefault(&t.ProbeTimeout, 500*time.Millisecond)
	orDefault(&t.PushPull, 30*time.Second)
}

// check fills defaults and refuses what cannot work.
func (c *Config) check() error {
	c.Timing.defaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.VotersMax == 0 {
		c.VotersMax = 3
	}
	switch {
	case c.Spares == 0:
		c.Spares = 1
	case c.Spares < 0:
		c.Spares = 0
	}
	if c.FailureDomain == "" {
		c.FailureDomain = c.HostID
	}
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !idPattern.MatchString(c.ClusterID) {
		bad("cluster id %q: want %s", c.ClusterID, idPattern)
	}
	if !idPattern.MatchString(c.HostID) {
		bad("host id %q: want %s", c.HostID, idPattern)
	}
	if c.VotersMax < 1 || c.VotersMax > 9 || c.VotersMax%2 == 0 {
		bad("voters max %d: want 1, 3, 5, 7 or 9", c.VotersMax)
	}
	if c.Spares > 8 {
		bad("spares %d: want at most 8", c.Spares)
	}
	if c.FSM == nil {
		bad("no state machine")
	}
	if n := len(c.GossipKey); n != 16 && n != 24 && n != 32 {
		bad("gossip key of %d bytes: want 16, 24 or 32", n)
	}
	if !c.Bind.IsValid() || !c.GossipBind.IsValid() {
		bad("bind addresses %v and %v: both are needed", c.Bind, c.GossipBind)
	}
	if c.Timing.Lease > c.Timing.Heartbeat {
		bad("lease %v over heartbeat %v", c.Timing.Lease, c.Timing.Heartbeat)
	}
	if c.DataDir == "" && c.Storage == nil {
		bad("no data directory")
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("check cluster configuration: %w", err)
	}
	return nil
}
