package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is how gossip sees a host.
type Status string

// The statuses. memberlist does not tell when it merely suspects a host; the
// host refutes that, or is dead, within seconds.
const (
	StatusUnknown Status = "unknown" // known from the replicated state or hearsay, never alive since this process started
	StatusAlive   Status = "alive"
	StatusDead    Status = "dead" // stopped answering
	StatusLeft    Status = "left" // said goodbye
)

// Member is a host as this one sees it.
type Member struct {
	Advert               // the last one heard; only HostID, Name, FailureDomain and addresses when none was
	Status     Status    // as gossip has it
	Since      time.Time // of the status
	HasAdvert  bool      // false: filled from gossip and the replicated state only
	AdvertAt   time.Time // when it was heard, by this host's clock
	Configured RaftRole  // role in the Raft configuration (leader, voter, nonvoter), known at peers only
}

// Members are all hosts heard of or known to the replicated state, ourselves
// included, by host id.
func (n *Node) Members() []Member {
	roles := n.configuredRoles()
	byID := map[string]Member{}
	n.gossip.mu.Lock()
	for id, h := range n.gossip.hosts {
		m := Member{Advert: h.advert, Status: h.status, Since: h.since, HasAdvert: h.packed != nil, AdvertAt: h.advertAt}
		if m.Gossip == "" || h.inGossip {
			m.Gossip = h.addr
		}
		byID[id] = m
	}
	n.gossip.mu.Unlock()
	for _, k := range n.knownHosts() {
		m, ok := byID[k.ID]
		if !ok {
			m = Member{Status: StatusUnknown, Since: n.startedAt}
		}
		if !m.HasAdvert {
			m.HostID, m.Name, m.FailureDomain, m.Internal = k.ID, k.Name, k.FailureDomain, k.Internal
		}
		if m.Gossip == "" {
			m.Gossip = k.Gossip
		}
		byID[k.ID] = m
	}
	out := make([]Member, 0, len(byID))
	for id, m := range byID {
		m.Configured = roles[id]
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.HostID, b.HostID) })
	return out
}

// Member is one of Members.
func (n *Node) Member(hostID string) (Member, bool) {
	for _, m := range n.Members() {
		if m.HostID == hostID {
			return m, true
		}
	}
	return Member{}, false
}

func (n *Node) knownHosts() []KnownHost {
	if n.cfg.KnownHosts == nil {
		return nil
	}
	return n.cfg.KnownHosts()
}

// SetAdvert replaces the caller's part of this host's advert. Changes spread
// within a second in a small cluster, at most once per 250 ms times the number of hosts.
// ErrTooLarge leaves the old one.
func (n *Node) SetAdvert(a Advert) error {
	return n.gossip.update(false, func(own *Advert) {
		kept := *own
		*own = a
		own.Name, own.FailureDomain, own.NeverPeer = kept.Name, kept.FailureDomain, kept.NeverPeer
		own.Internal, own.Gossip = kept.Internal, kept.Gossip
		own.RaftRole, own.RaftGroup, own.LeaderHint, own.Term = kept.RaftRole, kept.RaftGroup, kept.LeaderHint, kept.Term
		own.Leaving = kept.Leaving
		own.Classes, own.Images = slices.Clone(a.Classes), slices.Clone(a.Images)
	})
}

// LocalAdvert is this host's advert as it is now, perhaps not yet sent.
func (n *Node) LocalAdvert() Advert {
	n.gossip.mu.Lock()
	defer n.gossip.mu.Unlock()
	return n.gossip.own
}

// WatchMembers sends after every change of members, adverts, roles or leader;
// changes that nobody has yet looked at are one. The channel closes when ctx
// or the node ends.
func (n *Node) WatchMembers(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	n.watchMu.Lock()
	n.watchers[ch] = struct{}{}
	n.watchMu.Unlock()
	forget := func() { // under the lock, so that changed never sends on a closed channel
		n.watchMu.Lock()
		defer n.watchMu.Unlock()
		delete(n.watchers, ch)
		close(ch)
	}
	if !n.spawn(func() {
		defer forget()
		select {
		case <-ctx.Done():
		case <-n.done:
		}
	}) {
		forget()
	}
	return ch
}

// changed wakes the watchers. It may be called under memberlist's locks.
func (n *Node) changed() {
	n.watchMu.Lock()
	defer n.watchMu.Unlock()
	for w := range n.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// internalOf is what a host's advert says; empty without one.
func (g *gossip) internalOf(hostID string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.hosts[hostID]; h != nil {
		return h.advert.Internal
	}
	return ""
}

// addressOf is where a host's listener is: by its advert, else by the
// replicated state, else by the Raft configuration.
func (n *Node) addressOf(hostID string) (string, error) {
	if hostID == n.cfg.HostID {
		return n.raftAddr.addr, nil
	}
	if addr := n.gossip.internalOf(hostID); addr != "" {
		return addr, nil
	}
	for _, k := range n.knownHosts() {
		if k.ID == hostID && k.Internal != "" {
			return k.Internal, nil
		}
	}
	if g := n.group.Load(); g != nil {
		for _, s := range g.servers() {
			if string(s.ID) == hostID {
				if p, err := parsePinned(s.Address); err == nil {
					return p.addr, nil
				}
			}
		}
	}
	return "", fmt.Errorf("find host %q: %w", hostID, ErrUnknownHost)
}
