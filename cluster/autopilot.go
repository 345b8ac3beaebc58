package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// pilot is what autopilot asks of us. Autopilot watches the health of the peers
// and carries out promotions and demotions; who votes is chooseVoters' decision;
// who is a peer at all is reconcile's. Autopilot's own removal of dead servers is off.
type pilot struct {
	n *Node
	g *group
}

// fly runs autopilot for one term.
func (n *Node) fly(ctx context.Context) {
	g := n.group.Load()
	if g == nil {
		return
	}
	p := pilot{n, g}
	a := autopilot.New(g.raft, p,
		autopilot.WithPromoter(p), autopilot.WithLogger(raftLogger(n.log, "autopilot")),
		autopilot.WithUpdateInterval(2*n.cfg.Timing.Reconcile),
		autopilot.WithReconcileInterval(n.cfg.Timing.Reconcile))
	a.Start(ctx)
	<-ctx.Done()
	<-a.Stop()
}

func (p pilot) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		LastContactThreshold:    4 * p.n.cfg.Timing.Heartbeat,
		MaxTrailingLogs:         1024,
		ServerStabilizationTime: p.n.cfg.Timing.Stable,
	}
}

func (p pilot) NotifyState(s *autopilot.State) {
	p.n.metrics.failureTolerance.Store(int64(s.FailureTolerance))
	healthy := int64(0)
	if s.Healthy {
		healthy = 1
	}
	p.n.metrics.healthy.Store(healthy)
}

// RemoveFailedServer is not reached: removal of dead servers is off.
func (p pilot) RemoveFailedServer(*autopilot.Server) {}

// KnownServers joins the replicated state with gossip: memberlist alone forgets
// the dead after 30 s, and autopilot would take a forgotten server for a stranger.
func (p pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	out := map[raft.ServerID]*autopilot.Server{}
	for _, m := range p.n.Members() {
		id := raft.ServerID(m.HostID)
		s := &autopilot.Server{
			ID: id, Name: m.Name, Version: m.Version, RaftVersion: 3,
			Address:  pinned{m.HostID, m.Internal}.server(),
			IsLeader: m.HostID == p.n.cfg.HostID && p.g.raft.State() == raft.Leader,
		}
		switch m.Status {
		case StatusAlive:
			s.NodeStatus = autopilot.NodeAlive
		case StatusLeft:
			s.NodeStatus = autopilot.NodeLeft
		case StatusDead:
			s.NodeStatus = autopilot.NodeFailed
		default:
			s.NodeStatus = autopilot.NodeUnknown
		}
		out[id] = s
	}
	return out
}

// FetchServerStats asks every live peer for its position in the log.
func (p pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	out := map[raft.ServerID]*autopilot.ServerStats{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range p.g.servers() {
		if servers[s.ID] == nil {
			continue
		}
		wg.Go(func() {
			st, err := p.n.fetchStats(ctx, string(s.ID))
			if err != nil {
				p.n.log.Debug("peer gave no stats", "host", s.ID, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[s.ID] = &autopilot.ServerStats{
				LastContact: time.Duration(st.LastContactMS) * time.Millisecond,
				LastTerm:    st.LastTerm, LastIndex: st.LastIndex,
			}
		})
	}
	wg.Wait()
	return out
}

func (p pilot) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }
func (p pilot) GetStateExt(*autopilot.Config, *autopilot.State) any        { return nil }
func (p pilot) IsPotentialVoter(t autopilot.NodeType) bool                 { return t == autopilot.NodeVoter }

func (p pilot) GetNodeTypes(_ *autopilot.Config, s *autopilot.State) map[raft.ServerID]autopilot.NodeType {
	out := map[raft.ServerID]autopilot.NodeType{}
	for id, srv := range s.Servers {
		out[id] = "spare"
		if srv.HasVotingRights() {
			out[id] = autopilot.NodeVoter
		}
	}
	return out
}

func (p pilot) FilterFailedServerRemovals(*autopilot.Config, *autopilot.State, *autopilot.FailedServers) *autopilot.FailedServers {
	return &autopilot.FailedServers{}
}

func (p pilot) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	now := time.Now()
	stable := s.ServerStabilizationTime(c)
	var all []candidate
	for _, cand := range p.n.candidates(p.g) {
		srv := s.Servers[raft.ServerID(cand.id)]
		if srv == nil || !cand.peer {
			continue
		}
		cand.ready = srv.Health.IsStable(now, stable)
		all = append(all, cand)
	}
	var out autopilot.RaftChanges
	promote, demote := chooseVoters(all, p.n.cfg.VotersMax)
	for _, id := range promote {
		out.Promotions = append(out.Promotions, raft.ServerID(id))
	}
	for _, id := range demote {
		out.Demotions = append(out.Demotions, raft.ServerID(id))
	}
	return out
}
