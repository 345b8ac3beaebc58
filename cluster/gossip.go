package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossip holds what this host has heard. memberlist calls its methods with its
// own locks held, so they never call memberlist back.
type gossip struct {
	n     *Node
	list  *memberlist.Memberlist
	queue *memberlist.TransmitLimitedQueue

	mu      sync.Mutex
	hosts   map[string]*heard
	partial map[string]*partial
	alive   atomic.Int64 // read under the queue's lock, so not under mu
	own     Advert       // as last published, or to be
	dirty   bool         // own changed since it was sent
	sentAt  time.Time    // of own
	wake    chan struct{}
}

// heard is one host as gossip knows it, ourselves included.
type heard struct {
	advert   Advert
	packed   []byte // nil: no advert yet
	addr     string // gossip address
	status   Status
	since    time.Time
	advertAt time.Time
	inGossip bool // memberlist has it alive
}

func newGossip(n *Node) *gossip {
	g := &gossip{
		n: n, hosts: map[string]*heard{}, partial: map[string]*partial{}, wake: make(chan struct{}, 1),
	}
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: g.aliveCount, RetransmitMult: 4}
	// Sequence numbers go on growing over a restart because they start at the
	// clock; should the clock have gone back, merge sees our old advert and jumps.
	g.own = Advert{
		HostID: n.cfg.HostID, Name: n.cfg.Name, FailureDomain: n.cfg.FailureDomain,
		NeverPeer: n.cfg.NeverPeer, Seq: uint64(time.Now().UnixNano()),
	}
	return g
}

// start opens the sockets. The own advert must carry the internal address by then.
func (g *gossip) start() error {
	c, t := &g.n.cfg, &g.n.cfg.Timing
	m := memberlist.DefaultLANConfig()
	m.Name = c.HostID
	m.Label = "vcn/" + c.ClusterID
	m.SecretKey = c.GossipKey
	m.BindAddr, m.BindPort = c.GossipBind.Addr().String(), int(c.GossipBind.Port())
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	if c.GossipAdvertise.IsValid() {
		m.AdvertiseAddr, m.AdvertisePort = c.GossipAdvertise.Addr().String(), int(c.GossipAdvertise.Port())
	}
	m.ProbeInterval, m.ProbeTimeout, m.PushPullInterval = t.ProbeInterval, t.ProbeTimeout, t.PushPull
	m.GossipInterval = 100 * time.Millisecond
	m.TCPTimeout = 5 * time.Second
	m.DeadNodeReclaimTime = 10 * time.Second // a dead host may come back at another address
	m.Delegate, m.Events = g, g
	m.Logger = gossipLogger(g.n.log)
	m.DNSConfigPath = ""
	transport, err := g.n.net.Gossip(c.GossipBind)
	if err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	m.Transport = transport
	if g.list, err = memberlist.Create(m); err != nil {
		return fmt.Errorf("start gossip on %v: %w", c.GossipBind, err)
	}
	return nil
}

func (g *gossip) aliveCount() int { return max(1, int(g.alive.Load())) }

func (g *gossip) host(id string) *heard {
	h := g.hosts[id]
	if h == nil {
		h = &heard{status: StatusUnknown, since: time.Now(), advert: Advert{HostID: id}}
		g.hosts[id] = h
	}
	return h
}

// NotifyJoin: memberlist has found a host alive.
func (g *gossip) NotifyJoin(m *memberlist.Node) { g.noteAlive(m) }

// NotifyUpdate: its address or meta changed.
func (g *gossip) NotifyUpdate(m *memberlist.Node) { g.noteAlive(m) }

func (g *gossip) noteAlive(m *memberlist.Node) {
	g.mu.Lock()
	if len(g.hosts) >= membersMax && g.hosts[m.Name] == nil || !idPattern.MatchString(m.Name) {
		g.mu.Unlock()
		g.n.log.Warn("host ignored: too many, or malformed id", "host", m.Name)
		return
	}
	h := g.host(m.Name)
	if !h.inGossip {
		h.inGossip = true
		h.status, h.since = StatusAlive, time.Now()
		g.alive.Add(1)
	}
	h.addr = m.Address()
	g.mu.Unlock()
	g.n.changed()
}

// NotifyLeave: a host left or died. Node.State does not say which (see doc.go); its advert does.
func (g *gossip) NotifyLeave(m *memberlist.Node) {
	g.mu.Lock()
	if h := g.hosts[m.Name]; h != nil && h.inGossip {
		h.inGossip = false
		g.alive.Add(-1)
		h.status, h.since = StatusDead, time.Now()
		if h.advert.Leaving {
			h.status = StatusLeft
		}
	}
	g.mu.Unlock()
	g.n.changed()
}

// NodeMeta is empty: everything is in the advert.
func (g *gossip) NodeMeta(int) []byte { return nil }

// NotifyMsg takes a chunk of an advert.
func (g *gossip) NotifyMsg(b []byte) {
	c, err := decodeChunk(b)
	if err != nil {
		g.n.log.Debug("gossip message ignored", "err", err)
		return
	}
	g.mu.Lock()
	if h := g.hosts[c.host]; h != nil && h.packed != nil && h.advert.Seq >= c.seq && c.host != g.own.HostID {
		g.mu.Unlock()
		return
	}
	p := g.partial[c.host]
	if p == nil {
		if len(g.partial) >= membersMax {
			clear(g.partial) // push/pull mends what this loses
		}
		p = &partial{}
		g.partial[c.host] = p
	}
	fresh, packed := p.add(c)
	if packed != nil {
		delete(g.partial, c.host)
	}
	g.mu.Unlock()
	if fresh && c.host != g.n.cfg.HostID {
		g.queue.QueueBroadcast(&queued{c, c.encode()})
	}
	if packed != nil {
		g.merge(packed, false)
	}
}

// merge takes a whole advert if it is news; spread passes it on in chunks.
func (g *gossip) merge(packed []byte, spread bool) {
	a, err := decodeAdvert(packed)
	if err != nil {
		g.n.log.Debug("advert ignored", "err", err)
		return
	}
	g.mu.Lock()
	if a.HostID == g.own.HostID {
		if a.Seq > g.own.Seq { // from before our restart, by a clock ahead of ours
			g.own.Seq, g.dirty, g.sentAt = a.Seq, true, time.Time{}
			g.poke()
		}
		g.mu.Unlock()
		return
	}
	if len(g.hosts) >= membersMax && g.hosts[a.HostID] == nil {
		g.mu.Unlock()
		return
	}
	h := g.host(a.HostID)
	if h.packed != nil && h.advert.Seq >= a.Seq {
		g.mu.Unlock()
		return
	}
	h.advert, h.packed, h.advertAt = a, packed, time.Now()
	switch {
	case a.Leaving && h.status == StatusDead:
		h.status = StatusLeft
	case !a.Leaving && h.status == StatusLeft: // it is back, gossip will say so soon
		h.status, h.since = StatusDead, time.Now()
	}
	g.mu.Unlock()
	if spread {
		for _, c := range split(a.HostID, a.Seq, packed) {
			g.queue.QueueBroadcast(&queued{c, c.encode()})
		}
	}
	g.n.changed()
}

// GetBroadcasts hands memberlist what fits in its next packet.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is every advert known, each behind its length (4 bytes, big-endian).
func (g *gossip) LocalState(bool) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []byte
	for _, h := range g.hosts {
		if h.packed == nil || len(out)+len(h.packed) > advertStateMax {
			continue
		}
		if h.status == StatusUnknown && time.Since(h.since) > deadRememberedMax {
			continue
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(h.packed)))
		out = append(out, h.packed...)
	}
	return out
}

// MergeRemoteState takes what LocalState of another host made.
func (g *gossip) MergeRemoteState(b []byte, _ bool) {
	for len(b) >= 4 {
		size := int(binary.BigEndian.Uint32(b))
		if size > AdvertBytesMax || size > len(b)-4 {
			g.n.log.Debug("gossip state ignored", "bytes", size)
			return
		}
		g.merge(slices.Clone(b[4:4+size]), true)
		b = b[4+size:]
	}
}

// update changes the own advert. soon sends it at once; otherwise small changes
// wait for company, the longer the more hosts there are, so that a large cluster's
// gossip is not all free-memory figures.
func (g *gossip) update(soon bool, change func(a *Advert)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := g.own
	change(&next)
	next.HostID, next.Seq = g.own.HostID, g.own.Seq
	if _, err := next.encode(); err != nil {
		return err
	}
	g.own, g.dirty = next, true
	if soon {
		g.sentAt = time.Time{}
	}
	g.poke()
	return nil
}

func (g *gossip) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// flush publishes the own advert when it is time, and says when to look again.
func (g *gossip) flush() (again time.Duration) {
	g.mu.Lock()
	if !g.dirty {
		g.mu.Unlock()
		return time.Hour
	}
	pause := max(time.Second, time.Duration(g.alive.Load())*250*time.Millisecond)
	if wait := pause - time.Since(g.sentAt); wait > 0 && !g.sentAt.IsZero() {
		g.mu.Unlock()
		return wait
	}
	g.own.Seq++
	packed, err := g.own.encode()
	if err != nil { // update has tried it already
		g.mu.Unlock()
		g.n.log.Error("advert not sent", "err", err)
		return time.Hour
	}
	g.dirty, g.sentAt = false, time.Now()
	h := g.host(g.own.HostID)
	h.advert, h.packed, h.advertAt = g.own, packed, time.Now()
	seq := g.own.Seq
	g.mu.Unlock()
	for _, c := range split(g.n.cfg.HostID, seq, packed) {
		g.queue.QueueBroadcast(&queued{c, c.encode()})
	}
	g.n.changed()
	return time.Hour
}

// publish runs until ctx ends.
func (g *gossip) publish(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-time.After(g.flush()):
		}
	}
}

// Join contacts gossip addresses ("ip:port"); one answer is enough. The node
// goes on looking for hosts it has lost by itself afterwards.
func (n *Node) Join(ctx context.Context, peers []string) error {
	if len(peers) == 0 {
		return nil
	}
	for _, p := range peers {
		if _, err := netip.ParseAddrPort(p); err != nil {
			return fmt.Errorf("join cluster: %w", err)
		}
	}
	n.saved.add(peers)
	got := make(chan error, 1)
	if !n.spawn(func() {
		_, err := n.gossip.list.Join(peers)
		got <- err
	}) {
		return ErrShutdown
	}
	select {
	case err := <-got:
		if err != nil {
			return fmt.Errorf("join cluster: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("join cluster: %w", ctx.Err())
	case <-n.done:
		return ErrShutdown
	}
}

// rejoin looks for hosts that gossip has lost: memberlist forgets the dead after
// half a minute, and two halves of a cut network would never meet again.
func (n *Node) rejoin(ctx context.Context) {
	for {
		pause := n.cfg.Timing.Rejoin
		pause += time.Duration(rand.Int64N(int64(pause)/4 + 1))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		lost, alone := n.lostPeers()
		if len(lost) == 0 {
			continue
		}
		rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
		tries := 1
		if alone {
			tries = 3
		}
		for _, addr := range lost[:min(tries, len(lost))] {
			if _, err := n.gossip.list.Join([]string{addr}); err != nil {
				n.log.Debug("host still out of reach", "gossip", addr, "err", err)
			}
		}
	}
}

// lostPeers are gossip addresses where a host should be that is not alive.
func (n *Node) lostPeers() (addrs []string, alone bool) {
	alive := map[string]bool{}
	alone = true
	for _, m := range n.Members() {
		switch {
		case m.Status == StatusAlive:
			alive[m.Gossip] = true
			alone = alone && m.HostID == n.cfg.HostID
		case m.Status != StatusLeft && m.Gossip != "":
			addrs = append(addrs, m.Gossip)
		}
	}
	if alone {
		addrs = append(addrs, n.saved.list()...)
	}
	addrs = slices.DeleteFunc(addrs, func(a string) bool { return alive[a] })
	slices.Sort(addrs)
	return slices.Compact(addrs), alone
}

// goodbye tells gossip that we leave on purpose, waiting for it to spread.
func (g *gossip) goodbye(ctx context.Context) error {
	if err := g.update(true, func(a *Advert) {
		a.Leaving, a.NeverPeer = true, true
		a.RaftRole, a.LeaderHint, a.RaftGroup = RoleNone, "", ""
	}); err != nil {
		return err
	}
	spread := time.NewTimer(time.Second)
	defer spread.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for sent := false; !sent; {
		select {
		case <-ctx.Done():
			sent = true
		case <-spread.C:
			sent = true
		case <-tick.C:
			g.mu.Lock()
			sent = !g.dirty
			g.mu.Unlock()
			sent = sent && (g.alive.Load() <= 1 || g.queue.NumQueued() == 0)
		}
	}
	if err := g.list.Leave(time.Second); err != nil {
		return fmt.Errorf("leave gossip: %w", errors.Join(err, ctx.Err()))
	}
	return nil
}
