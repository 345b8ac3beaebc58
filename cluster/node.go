package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"vcn/internal/passable"
)

// Node is one host's part in the cluster. All methods are safe for concurrent use.
type Node struct {
	cfg       Config
	log       *slog.Logger
	net       Network
	storage   Storage
	id        *identity
	fsm       *onceFSM
	gossip    *gossip
	saved     *peersFile
	listener  *listener
	web       *web
	raftAddr  pinned // ourselves
	startedAt time.Time
	inFlight  chan struct{}
	metrics   counters

	groupMu sync.Mutex // start and stop of Raft
	group   atomic.Pointer[group]
	leaving atomic.Bool

	dutyMu sync.Mutex
	duties []duty
	term   *term

	leaveMu sync.Mutex
	leavers map[string]uint64 // host id → number of its last advert before it asked to leave

	watchMu  sync.Mutex
	watchers map[chan struct{}]struct{}

	spawnMu sync.Mutex
	closed  bool
	done    chan struct{}
	wg      sync.WaitGroup
}

// New starts a node: listener, gossip, and Raft where there is data (or
// Config.Bootstrap). It waits for nobody: call Join next, then watch.
func New(cfg Config) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Log.With("host", cfg.HostID), net: cfg.Net, storage: cfg.Storage,
		fsm: newOnceFSM(cfg.FSM), startedAt: time.Now(), inFlight: make(chan struct{}, applyInFlightMax),
		leavers: map[string]uint64{}, watchers: map[chan struct{}]struct{}{}, done: make(chan struct{}),
	}
	if n.net == nil {
		n.net = sockets{}
	}
	// Others share the directory, and need to pass through it: what is ours in it is 0600 or in raft, 0700.
	if err := passable.Mkdir(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("make cluster data directory: %w", err)
	}
	if n.storage == nil {
		n.storage = files{dir: filepath.Join(cfg.DataDir, "raft"), log: n.log}
	}
	var err error
	if n.id, err = newIdentity(&n.cfg); err != nil {
		return nil, err
	}
	n.saved = openPeersFile(cfg.DataDir, n.log)
	n.gossip = newGossip(n)
	if err := n.start(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// start opens things in the order in which they need each other: the listener
// gives the address, Raft gives the role, gossip tells both.
func (n *Node) start() (err error) {
	if n.listener, err = n.listen(); err != nil {
		return err
	}
	n.raftAddr = pinned{n.cfg.HostID, advertised(n.cfg.Advertise, n.listener.raw.Addr())}
	n.web = n.newWeb()
	n.listener.serve()
	n.spawn(func() { n.web.serve(n.listener.http, n.log) })
	n.RunAsLeader("autopilot", n.fly)
	n.RunAsLeader("reconcile", n.reconcileGroup)
	if err := n.resume(); err != nil {
		return err
	}
	if err := n.gossip.start(); err != nil {
		return err
	}
	err = n.gossip.update(true, func(a *Advert) {
		a.Internal, a.Gossip = n.raftAddr.addr, n.GossipAddr()
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.spawn(func() { <-n.done; cancel() })
	n.spawn(func() { n.gossip.publish(ctx) })
	n.spawn(func() { n.rejoin(ctx) })
	n.spawn(func() { n.tick(time.Second) })
	return nil
}

// advertised is the configured address, else the one the socket got.
func advertised(want netip.AddrPort, got net.Addr) string {
	if want.IsValid() {
		return want.String()
	}
	return got.String()
}

// spawn runs f in a goroutine that Shutdown waits for; false once it has begun.
func (n *Node) spawn(f func()) bool {
	n.spawnMu.Lock()
	defer n.spawnMu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

func (n *Node) closing() bool {
	n.spawnMu.Lock()
	defer n.spawnMu.Unlock()
	return n.closed
}

// SetCertificate takes a renewed certificate (PEM) into use for new connections.
func (n *Node) SetCertificate(certPEM, keyPEM []byte) error { return n.id.set(certPEM, keyPEM) }

// Addr is the internal listener's own address.
func (n *Node) Addr() net.Addr { return n.listener.raw.Addr() }

// GossipAddr is where others reach this host's gossip.
func (n *Node) GossipAddr() string { return n.gossip.list.LocalNode().Address() }

// rememberPeers saves the gossip addresses of who is alive.
func (n *Node) rememberPeers() {
	var addrs []string
	for _, m := range n.Members() {
		if m.Status == StatusAlive && m.HostID != n.cfg.HostID && m.Gossip != "" {
			addrs = append(addrs, m.Gossip)
		}
	}
	if err := n.saved.save(addrs); err != nil {
		n.log.Warn("peers not remembered", "err", err)
	}
}

// Leave is deliberate: it hands over leadership, has this host taken out of the
// Raft group and sets its Raft data aside, and says goodbye to gossip. Call
// Shutdown afterwards. The last voter keeps its data: there is nobody to give it to. An
// error says what was not done; gossip is left in any case.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Store(true)
	err := n.leaveGroup(ctx)
	if gerr := n.gossip.goodbye(ctx); gerr != nil {
		err = errors.Join(err, gerr)
	}
	if err != nil {
		return fmt.Errorf("leave cluster: %w", err)
	}
	return nil
}

func (n *Node) leaveGroup(ctx context.Context) error {
	if err := n.gossip.update(true, func(a *Advert) { a.NeverPeer = true }); err != nil {
		return err
	}
	if !n.IsPeer() {
		return nil
	}
	for {
		last, err := n.tryLeaveGroup(ctx)
		if last {
			return nil
		}
		if err == nil {
			n.groupMu.Lock()
			defer n.groupMu.Unlock()
			return n.abandonGroup()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("leave raft group: %w", errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tryLeaveGroup asks the leader to take us out; last: there is no other voter, nor could there be one.
func (n *Node) tryLeaveGroup(ctx context.Context) (last bool, err error) {
	if n.IsLeader() {
		if last, err = n.handOver(ctx); last || err != nil {
			return last, err
		}
	}
	leader, _, ok := n.Leader()
	if !ok {
		return false, ErrNoLeader
	}
	if leader == n.cfg.HostID {
		return false, ErrNotLeader // still ours: try again
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	_, err = ask[empty](ctx, n, leader, http.MethodPost, "raft/leave", leaveRequest{Seq: n.LocalAdvert().Seq})
	return false, err
}

// handOver gives leadership to another voter, making a spare one if there is none.
func (n *Node) handOver(ctx context.Context) (alone bool, err error) {
	g, err := n.leading()
	if err != nil {
		return false, err
	}
	voters, spare := 0, raft.Server{}
	for _, s := range g.servers() {
		switch {
		case string(s.ID) == n.cfg.HostID:
		case s.Suffrage == raft.Voter:
			voters++
		case spare.ID == "" && n.isAlive(string(s.ID)):
			spare = s
		}
	}
	if voters == 0 {
		if spare.ID == "" {
			return true, nil
		}
		if err := wait(ctx, g.raft.AddVoter(spare.ID, spare.Address, 0, rpcTime)); err != nil {
			return false, fmt.Errorf("promote host %s to take over: %w", spare.ID, err)
		}
	}
	if err := wait(ctx, g.raft.LeadershipTransfer()); err != nil {
		return false, fmt.Errorf("hand over leadership: %w", err)
	}
	return false, nil
}

func (n *Node) isAlive(id string) bool {
	n.gossip.mu.Lock()
	defer n.gossip.mu.Unlock()
	h := n.gossip.hosts[id]
	return h != nil && h.inGossip
}

// Shutdown stops without leaving: this host stays in the Raft group, and a
// restart resumes. A leader hands over first, if ctx and a quorum allow. It
// returns when every goroutine has ended, duties included, or with ctx's error while they still end.
func (n *Node) Shutdown(ctx context.Context) error {
	if n.IsLeader() && !n.closing() {
		tctx, cancel := context.WithTimeout(ctx, transferTimeMax)
		if g := n.group.Load(); g != nil && len(g.servers()) > 1 {
			if err := wait(tctx, g.raft.LeadershipTransfer()); err != nil {
				n.log.Info("leadership not handed over", "err", err)
			}
		}
		cancel()
	}
	ended := make(chan error, 1)
	go func() { ended <- n.close() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return fmt.Errorf("shut down cluster node: %w", ctx.Err())
	}
}

// close ends everything, in this order: nothing new begins; Raft (its duties
// end with it); the internal HTTP and listener; gossip; the rest.
func (n *Node) close() error {
	n.spawnMu.Lock()
	if n.closed {
		n.spawnMu.Unlock()
		n.wg.Wait()
		return nil
	}
	n.closed = true
	close(n.done)
	n.spawnMu.Unlock()

	n.groupMu.Lock()
	err := n.stopGroup()
	n.groupMu.Unlock()
	if n.web != nil {
		err = errors.Join(err, n.web.server.Close())
	}
	if n.listener != nil {
		n.listener.close()
	}
	if n.web != nil {
		n.web.transport.CloseIdleConnections()
	}
	if n.gossip.list != nil {
		err = errors.Join(err, n.gossip.list.Shutdown())
	}
	n.wg.Wait()
	if err != nil {
		return fmt.Errorf("shut down cluster node: %w", err)
	}
	return nil
}
