package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// wait waits for a raft future as long as ctx allows. Raft answers every future
// in bounded time: a leader without a quorum steps down within its lease and fails them.
func wait(ctx context.Context, f raft.Future) error {
	if ctx.Done() == nil {
		return f.Error()
	}
	got := make(chan error, 1)
	go func() { got <- f.Error() }()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// mapError turns raft's errors into ours.
func (n *Node) mapError(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrOutcomeUnknown):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeader):
		if _, _, ok := n.Leader(); ok {
			return ErrNotLeader
		}
		return ErrNoLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNoLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	}
	return err
}

// leading is the running group if this host leads it.
func (n *Node) leading() (*group, error) {
	g := n.group.Load()
	if g == nil || g.raft.State() != raft.Leader {
		return nil, n.mapError(raft.ErrNotLeader)
	}
	return g, nil
}

// Apply commits one command of at most CommandBytesMax and returns what the
// FSM's Apply returned, with the log index. Leader only. Errors: ErrNotLeader,
// ErrNoLeader, ErrBusy, ErrTooLarge (nothing happened); ErrOutcomeUnknown (it may
// have happened, also when ctx ends). An error value returned by the FSM is the
// result, not the error.
func (n *Node) Apply(ctx context.Context, cmd []byte) (result any, index uint64, err error) {
	if len(cmd) > CommandBytesMax {
		return nil, 0, fmt.Errorf("apply command of %d bytes: %w", len(cmd), ErrTooLarge)
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("apply command: %w", err)
	}
	g, err := n.leading()
	if err != nil {
		return nil, 0, fmt.Errorf("apply command: %w", err)
	}
	select {
	case n.inFlight <- struct{}{}:
		defer func() { <-n.inFlight }()
	default:
		return nil, 0, fmt.Errorf("apply command: %w", ErrBusy)
	}
	enqueue := raftRPCTimeMax
	if end, ok := ctx.Deadline(); ok {
		enqueue = min(enqueue, max(time.Until(end), time.Millisecond))
	}
	f := g.raft.Apply(cmd, enqueue)
	if err := n.mapError(wait(ctx, f)); err != nil {
		return nil, 0, fmt.Errorf("apply command: %w", err)
	}
	n.metrics.applied.Add(1)
	return f.Response(), f.Index(), nil
}

// Barrier returns when everything committed before it is applied here. Leader only.
func (n *Node) Barrier(ctx context.Context) error {
	g, err := n.leading()
	if err == nil {
		err = n.mapError(wait(ctx, g.raft.Barrier(raftRPCTimeMax)))
	}
	if err != nil {
		return fmt.Errorf("pass barrier: %w", err)
	}
	return nil
}

// VerifyLeader asks a quorum whether this host still leads: a read after it,
// at AppliedIndex or later, is linearizable once Barrier has passed in this term.
func (n *Node) VerifyLeader(ctx context.Context) error {
	g, err := n.leading()
	if err == nil {
		err = n.mapError(wait(ctx, g.raft.VerifyLeader()))
	}
	if err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	return nil
}

// AppliedIndex is the last log index applied to the FSM here; 0 outside the Raft group.
func (n *Node) AppliedIndex() uint64 {
	if g := n.group.Load(); g != nil {
		return g.raft.AppliedIndex()
	}
	return 0
}

// LastContact is how long ago this peer last heard from the leader; 0 at the
// leader; not ok when it never did, or outside the Raft group.
func (n *Node) LastContact() (ago time.Duration, ok bool) {
	g := n.group.Load()
	if g == nil {
		return 0, false
	}
	if g.raft.State() == raft.Leader {
		return 0, true
	}
	at := g.raft.LastContact()
	return time.Since(at), !at.IsZero()
}

// IsLeader says whether this host leads the Raft group, as far as it knows:
// a leader cut off believes it for one lease longer. Its state may not have
// caught up yet: see Leading.
func (n *Node) IsLeader() bool {
	g := n.group.Load()
	return g != nil && g.raft.State() == raft.Leader
}

// IsPeer says whether this host is a voter or spare of the Raft group, and so
// has the replicated state (which may lag: see LastContact).
func (n *Node) IsPeer() bool {
	switch n.Role() {
	case RoleLeader, RoleVoter, RoleNonvoter:
		return true
	}
	return false
}

// Role is what this host is to the Raft group now.
func (n *Node) Role() RaftRole {
	if g := n.group.Load(); g != nil {
		return g.role()
	}
	return RoleNone
}

// Leader is who leads and where its internal listener is. A peer knows it from
// Raft. Everybody else believes the peer whose hint has the highest term; a
// leader that gossip has lost is no leader.
func (n *Node) Leader() (hostID, internalAddr string, ok bool) {
	if g := n.group.Load(); g != nil {
		if g.raft.State() == raft.Leader {
			return n.cfg.HostID, n.raftAddr.addr, true
		}
		if r := g.role(); r == RoleVoter || r == RoleNonvoter {
			_, id := g.raft.LeaderWithID()
			if id == "" {
				return "", "", false
			}
			addr, err := n.addressOf(string(id))
			return string(id), addr, err == nil
		}
	}
	return n.leaderByHint()
}

func (n *Node) leaderByHint() (hostID, internalAddr string, ok bool) {
	g := n.gossip
	g.mu.Lock()
	defer g.mu.Unlock()
	var best Advert
	for id, h := range g.hosts {
		a := h.advert
		if !h.inGossip || id == n.cfg.HostID || a.LeaderHint == "" || a.Leaving {
			continue
		}
		if a.RaftRole != RoleLeader && a.RaftRole != RoleVoter && a.RaftRole != RoleNonvoter {
			continue
		}
		// Of two hints of one term the leader's own counts.
		if a.Term > best.Term || a.Term == best.Term && (best.LeaderHint == "" || a.RaftRole == RoleLeader) {
			best = a
		}
	}
	lead := g.hosts[best.LeaderHint]
	if best.LeaderHint == "" || lead == nil || !lead.inGossip || lead.advert.Internal == "" {
		return "", "", false
	}
	return best.LeaderHint, lead.advert.Internal, true
}

// configuredRoles is the Raft configuration as this peer knows it.
func (n *Node) configuredRoles() map[string]RaftRole {
	g := n.group.Load()
	if g == nil {
		return nil
	}
	_, leader := g.raft.LeaderWithID()
	out := map[string]RaftRole{}
	for _, s := range g.servers() {
		switch {
		case s.ID == leader:
			out[string(s.ID)] = RoleLeader
		case s.Suffrage == raft.Voter:
			out[string(s.ID)] = RoleVoter
		default:
			out[string(s.ID)] = RoleNonvoter
		}
	}
	return out
}
