package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// groupID names one bootstrapped Raft group for ever.
type groupID [16]byte

func (g groupID) String() string { return hex.EncodeToString(g[:]) }

func parseGroupID(s string) (g groupID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(g) {
		return g, fmt.Errorf("read raft group id %q: malformed", s)
	}
	copy(g[:], b)
	return g, nil
}

var stableGroupKey = []byte("vcn-group")

// group is one running Raft instance. A host outside the Raft group has none.
type group struct {
	n      *Node
	id     groupID
	raft   *raft.Raft
	trans  *raft.NetworkTransport
	layer  *raftLayer
	stores RaftStores
	notify chan bool     // raft says leader gained, lost
	gone   chan struct{} // closed once raft has shut down
	idle   chan struct{} // closed once the last duty of the last term has returned
}

// resume starts Raft at process start: with the data there is, or as the first
// of a new group when told to bootstrap, or not at all.
func (n *Node) resume() error {
	n.groupMu.Lock()
	defer n.groupMu.Unlock()
	exists, err := n.storage.Exists()
	if err != nil {
		return err
	}
	m, err := n.readMarker()
	if err != nil {
		return err
	}
	if exists {
		switch err := n.startGroup(nil, false); {
		case err == nil:
			if m.Group != "" && !m.Done {
				return n.writeMarker(marker{Group: m.Group, Done: true})
			}
			return nil
		case !errors.Is(err, errNoState):
			return err
		}
		// The process died between making the file and its first content.
		if err := n.storage.SetAside(); err != nil {
			return err
		}
	}
	if !n.cfg.Bootstrap {
		return nil
	}
	if m.Done {
		return fmt.Errorf("bootstrap: the data of raft group %s is gone; restore it, or join as a new host: %w", m.Group, ErrBootstrapped)
	}
	var id groupID
	rand.Read(id[:]) // never fails
	if err := n.writeMarker(marker{Group: id.String()}); err != nil {
		return err
	}
	if err := n.startGroup(&id, true); err != nil {
		return err
	}
	return n.writeMarker(marker{Group: id.String(), Done: true})
}

// errNoState: the storage holds no usable beginning.
var errNoState = errors.New("cluster: raft data holds no state")

// startGroup opens storage and starts Raft; groupMu is held. want nil: whatever
// group the data belongs to. first: bootstrap a group of one.
func (n *Node) startGroup(want *groupID, first bool) (err error) {
	stores, err := n.storage.Open()
	if err != nil {
		return err
	}
	g := &group{n: n, stores: stores, notify: make(chan bool, 8), gone: make(chan struct{}), idle: make(chan struct{})}
	defer func() {
		if err != nil {
			g.release()
		}
	}()
	if g.id, err = g.claim(want); err != nil {
		return err
	}
	conf := n.raftConfig(g)
	cached, err := raft.NewLogCache(logCacheEntries, stores.Log)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	g.layer = newRaftLayer(n, g.id)
	g.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: addressBook{n}, Logger: raftLogger(n.log, "raft-net"), Stream: g.layer,
		MaxPool: raftPoolMax, Timeout: raftRPCTimeMax, MsgpackUseNewTimeFormat: true,
	})
	if first {
		err = raft.BootstrapCluster(conf, cached, stores.Stable, stores.Snapshots, g.trans, raft.Configuration{
			Servers: []raft.Server{{ID: conf.LocalID, Address: g.trans.LocalAddr()}},
		})
		if err != nil {
			return fmt.Errorf("bootstrap raft group: %w", err)
		}
	} else if want == nil {
		some, err := raft.HasExistingState(cached, stores.Stable, stores.Snapshots)
		if err != nil {
			return fmt.Errorf("read raft data: %w", err)
		}
		if !some && n.cfg.Bootstrap {
			return errNoState
		}
	}
	n.fsm.begin()
	if g.raft, err = raft.NewRaft(conf, n.fsm, cached, stores.Stable, stores.Snapshots, g.trans); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	g.watch()
	n.group.Store(g)
	n.log.Info("raft started", "group", g.id, "first", first)
	n.refreshRole()
	return nil
}

func (n *Node) raftConfig(g *group) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.cfg.HostID)
	c.HeartbeatTimeout, c.ElectionTimeout = n.cfg.Timing.Heartbeat, n.cfg.Timing.Election
	c.LeaderLeaseTimeout = n.cfg.Timing.Lease
	c.ShutdownOnRemove = false
	c.BatchApplyCh = true
	c.NotifyCh = g.notify
	c.Logger = raftLogger(n.log, "raft")
	return c
}

// claim reads the group id in the storage, or writes the wanted one into empty storage.
func (g *group) claim(want *groupID) (groupID, error) {
	b, err := g.stores.Stable.Get(stableGroupKey)
	if err != nil && err.Error() != "not found" { // raft's StableStore contract is that text
		return groupID{}, fmt.Errorf("read raft group id: %w", err)
	}
	if len(b) == 0 {
		if want == nil {
			return groupID{}, errNoState
		}
		if err := g.stores.Stable.Set(stableGroupKey, want[:]); err != nil {
			return groupID{}, fmt.Errorf("write raft group id: %w", err)
		}
		return *want, nil
	}
	var have groupID
	if len(b) != len(have) {
		return have, fmt.Errorf("read raft group id: %d bytes", len(b))
	}
	copy(have[:], b)
	if want != nil && *want != have {
		return have, fmt.Errorf("raft data belongs to group %v, not %v: %w", have, want, ErrRefused)
	}
	return have, nil
}

// watch follows leadership and leader changes until the instance ends.
func (g *group) watch() {
	seen := make(chan raft.Observation, 16)
	obs := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.PeerObservation:
			return true
		}
		return false
	})
	g.raft.RegisterObserver(obs)
	g.n.spawn(func() {
		defer g.raft.DeregisterObserver(obs)
		for {
			select {
			case <-seen:
				g.n.refreshRole()
			case <-g.gone:
				return
			}
		}
	})
	if !g.n.spawn(func() {
		defer close(g.idle)
		g.n.followLeadership(g)
	}) {
		close(g.idle)
	}
}

// release closes what startGroup has opened.
func (g *group) release() {
	if g.trans != nil {
		g.trans.Close()
	}
	if g.layer != nil {
		g.layer.Close()
	}
	if g.stores.Closer != nil {
		if err := g.stores.Closer.Close(); err != nil {
			g.n.log.Warn("closing raft data failed", "err", err)
		}
	}
}

// stopGroup ends Raft here; groupMu is held. The data stays.
func (n *Node) stopGroup() error {
	g := n.group.Load()
	if g == nil {
		return nil
	}
	err := g.raft.Shutdown().Error()
	close(g.gone)
	n.group.Store(nil)
	<-g.idle
	g.trans.CloseStreams()
	g.release()
	n.refreshRole()
	n.log.Info("raft stopped", "group", g.id)
	if err != nil {
		return fmt.Errorf("stop raft: %w", err)
	}
	return nil
}

// servers is the latest configuration this instance knows.
func (g *group) servers() []raft.Server {
	f := g.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// role is what this instance is in the configuration it knows.
func (g *group) role() RaftRole {
	if g.raft.State() == raft.Leader {
		return RoleLeader
	}
	for _, s := range g.servers() {
		if string(s.ID) == g.n.cfg.HostID {
			if s.Suffrage == raft.Voter {
				return RoleVoter
			}
			return RoleNonvoter
		}
	}
	return RoleOutside
}

// refreshRole puts role, leader and term into the advert when they changed.
func (n *Node) refreshRole() {
	role, leader, group, term := RoleNone, "", "", uint64(0)
	if g := n.group.Load(); g != nil {
		_, id := g.raft.LeaderWithID()
		role, leader, group, term = g.role(), string(id), g.id.String(), g.raft.CurrentTerm()
	}
	n.gossip.mu.Lock()
	own := n.gossip.own
	same := own.RaftRole == role && own.RaftGroup == group && own.LeaderHint == leader && own.Term == term
	n.gossip.mu.Unlock()
	if same {
		return
	}
	err := n.gossip.update(true, func(a *Advert) {
		a.RaftRole, a.RaftGroup, a.LeaderHint, a.Term = role, group, leader, term
	})
	if err != nil {
		n.log.Warn("advert not updated", "err", err)
	}
	n.changed()
}

// tick mends what events may have missed.
func (n *Node) tick(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-n.done:
			return
		case <-t.C:
			n.refreshRole()
			n.rememberPeers()
		}
	}
}
