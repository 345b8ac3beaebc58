package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// reconciler is the leader's care for who is in the Raft group, one per term.
// A round looks at everything again, changes little, and leaves what failed to
// the next round.
type reconciler struct {
	n *Node
	g *group
	// strange is since when a host's own word (its advert) has not matched the
	// configuration. Adverts lag, so only what stays so is acted on.
	strange map[string]time.Time
	// rest is until when a host that failed us is left alone.
	rest map[string]time.Time
}

const (
	strangeFor = 3 * time.Second
	restFor    = 5 * time.Second
	rpcTime    = 2 * time.Second
)

func (n *Node) reconcileGroup(ctx context.Context) {
	g := n.group.Load()
	if g == nil {
		return
	}
	r := &reconciler{n: n, g: g, strange: map[string]time.Time{}, rest: map[string]time.Time{}}
	t := time.NewTicker(n.cfg.Timing.Reconcile)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			r.round(ctx)
		}
	}
}

// candidates are all hosts as the choice of peers sees them. ready is autopilot's to say.
func (n *Node) candidates(g *group) []candidate {
	conf := map[string]raft.Server{}
	for _, s := range g.servers() {
		conf[string(s.ID)] = s
	}
	never := map[string]bool{}
	for _, k := range n.knownHosts() {
		never[k.ID] = k.NeverPeer
	}
	now := time.Now()
	var out []candidate
	for _, m := range n.Members() {
		s, in := conf[m.HostID]
		delete(conf, m.HostID)
		c := candidate{id: m.HostID, domain: m.FailureDomain, peer: in, voter: in && s.Suffrage == raft.Voter}
		c.leader = m.HostID == n.cfg.HostID
		if c.domain == "" {
			c.domain = m.HostID
		}
		switch m.Status {
		case StatusAlive:
			c.out = m.NeverPeer || never[m.HostID] || n.isLeaving(m)
		case StatusLeft:
			c.out = true
		default: // dead or never seen: a peer gets time to come back
			c.gone = !in || now.Sub(m.Since) >= n.cfg.Timing.DeadAfter
		}
		c.gone = c.gone || c.out
		if !in && (m.Internal == "" || m.RaftGroup != "" && m.RaftGroup != g.id.String()) {
			c.gone = true
		}
		out = append(out, c)
	}
	for id, s := range conf { // in the configuration, and nobody has ever heard of it
		c := candidate{id: id, domain: id, peer: true, voter: s.Suffrage == raft.Voter}
		c.gone = now.Sub(n.startedAt) >= n.cfg.Timing.DeadAfter
		out = append(out, c)
	}
	return out
}

// odd says whether a host has shown a role that does not fit for long enough to act.
func (r *reconciler) odd(id string, odd bool) bool {
	if !odd {
		delete(r.strange, id)
		return false
	}
	since, ok := r.strange[id]
	if !ok {
		r.strange[id] = time.Now()
		return false
	}
	return time.Since(since) >= strangeFor
}

func (r *reconciler) resting(id string) bool { return time.Now().Before(r.rest[id]) }

func (r *reconciler) failed(what, id string, err error) {
	r.n.log.Warn("raft group not changed", "what", what, "host", id, "err", err)
	r.rest[id] = time.Now().Add(restFor)
}

func (r *reconciler) round(ctx context.Context) {
	all := r.n.candidates(r.g)
	want := choosePeers(all, r.n.cfg.VotersMax, r.n.cfg.Spares)
	members := map[string]Member{}
	for _, m := range r.n.Members() {
		members[m.HostID] = m
	}
	for _, c := range all {
		if ctx.Err() != nil {
			return
		}
		m := members[c.id]
		alive := m.Status == StatusAlive
		wanted := slices.Contains(want, c.id)
		if r.resting(c.id) {
			continue
		}
		if c.leader {
			if c.gone {
				r.yield(ctx, all)
			}
			continue
		}
		switch {
		case wanted && !c.peer && alive:
			r.add(ctx, c.id, m.Internal)
		case c.peer && r.odd(c.id, alive && m.HasAdvert && m.RaftRole == RoleNone):
			r.amnesia(ctx, c, m)
		case c.peer && !c.voter && !wanted && (c.gone || r.enough(all, want)):
			r.remove(c.id)
		case !c.peer && !wanted && r.odd(c.id, alive && m.RaftRole != RoleNone && m.RaftGroup == r.g.id.String()):
			r.stop(ctx, c.id)
		case !c.peer && m.RaftGroup != "" && m.RaftGroup != r.g.id.String() && alive:
			r.failed("host belongs to another raft group: its data directory is not of this cluster", c.id, ErrRefused)
		}
	}
}

// yield hands leadership on, because this host is not to be a peer any more.
func (r *reconciler) yield(ctx context.Context, all []candidate) {
	if !slices.ContainsFunc(all, func(c candidate) bool { return c.voter && !c.leader && !c.gone }) {
		return
	}
	if err := wait(ctx, r.g.raft.LeadershipTransfer()); err != nil {
		r.failed("hand over leadership", r.n.cfg.HostID, err)
	}
}

// enough says whether all wanted peers are in already, so that surplus may go.
func (r *reconciler) enough(all []candidate, want []string) bool {
	for _, c := range all {
		if !c.peer && slices.Contains(want, c.id) {
			return false
		}
	}
	return true
}

// add makes a host a non-voter: first its Raft runs, then the group knows it.
func (r *reconciler) add(ctx context.Context, id, addr string) {
	ctx, cancel := context.WithTimeout(ctx, 2*rpcTime)
	defer cancel()
	if err := r.n.askStart(ctx, id, r.g.id); err != nil {
		r.failed("start raft", id, err)
		return
	}
	if err := r.g.raft.AddNonvoter(raft.ServerID(id), pinned{id, addr}.server(), 0, rpcTime).Error(); err != nil {
		r.failed("add", id, err)
		return
	}
	r.n.log.Info("host added to the raft group", "host", id)
	delete(r.strange, id)
}

// amnesia deals with a peer that runs without Raft: its data is gone. A
// non-voter just starts over. A voter that starts over could vote twice in one
// term, so it is removed first and comes back as a new non-voter.
func (r *reconciler) amnesia(ctx context.Context, c candidate, m Member) {
	if c.voter {
		r.n.log.Warn("a voter has lost its data", "host", c.id)
		r.remove(c.id)
		return
	}
	r.add(ctx, c.id, m.Internal)
}

// remove takes a server out of the configuration. If it lives, it is told to stop in a later round.
func (r *reconciler) remove(id string) {
	if err := r.g.raft.RemoveServer(raft.ServerID(id), 0, rpcTime).Error(); err != nil {
		r.failed("remove", id, err)
		return
	}
	r.n.log.Info("host removed from the raft group", "host", id)
	delete(r.strange, id)
}

func (r *reconciler) stop(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	if err := r.n.askStop(ctx, id); err != nil {
		r.failed("stop raft", id, err)
		return
	}
	delete(r.strange, id)
}

// isLeaving says whether a host has asked to leave and not started anew since:
// it asks with the number of its last advert, and every later one of the same process says NeverPeer.
func (n *Node) isLeaving(m Member) bool {
	n.leaveMu.Lock()
	defer n.leaveMu.Unlock()
	seq, ok := n.leavers[m.HostID]
	if ok && m.Seq > seq && !m.NeverPeer {
		delete(n.leavers, m.HostID)
		return false
	}
	return ok
}

// expel carries out a peer's wish to leave the group. Leader only.
func (n *Node) expel(ctx context.Context, id string, seq uint64) error {
	g, err := n.leading()
	if err != nil {
		return fmt.Errorf("remove host %s from the raft group: %w", id, err)
	}
	n.leaveMu.Lock()
	n.leavers[id] = seq
	n.leaveMu.Unlock()
	if err := n.mapError(wait(ctx, g.raft.RemoveServer(raft.ServerID(id), 0, rpcTime))); err != nil {
		return fmt.Errorf("remove host %s from the raft group: %w", id, err)
	}
	return nil
}
