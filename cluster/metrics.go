package cluster

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type counters struct {
	refused, applied, terms   atomic.Int64
	failureTolerance, healthy atomic.Int64
}

// Collector exposes the node's state to prometheus; reading it costs a walk over the members.
func (n *Node) Collector() prometheus.Collector { return collector{n} }

type collector struct{ n *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("vcn_cluster_"+name, help, labels, nil)
}

var (
	descMembers   = desc("members", "Hosts by status, as this host sees them.", "status")
	descLeader    = desc("is_leader", "1 while this host leads.")
	descPeer      = desc("is_peer", "1 while this host is in the Raft group.")
	descTerm      = desc("raft_term", "Raft term; 0 outside the Raft group.")
	descCommit    = desc("raft_commit_index", "Highest committed log index.")
	descApplied   = desc("raft_applied_index", "Highest log index applied.")
	descContact   = desc("raft_last_contact_seconds", "Time since this peer heard from the leader.")
	descCommands  = desc("commands_total", "Commands applied through this host.")
	descTerms     = desc("terms_total", "Times this host began to lead.")
	descRefused   = desc("connections_refused_total", "Connections refused at the internal listener.")
	descTolerance = desc("failure_tolerance", "Voters that may fail without loss of service, as the leader sees it; stale elsewhere.")
)

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	by := map[Status]int{StatusUnknown: 0, StatusAlive: 0, StatusDead: 0, StatusLeft: 0}
	for _, m := range c.n.Members() {
		by[m.Status]++
	}
	for s, v := range by {
		gauge(descMembers, float64(v), string(s))
	}
	gauge(descLeader, one(c.n.IsLeader()))
	gauge(descPeer, one(c.n.IsPeer()))
	var term, commit, applied uint64
	if g := c.n.group.Load(); g != nil {
		term, commit, applied = g.raft.CurrentTerm(), g.raft.CommitIndex(), g.raft.AppliedIndex()
	}
	gauge(descTerm, float64(term))
	gauge(descCommit, float64(commit))
	gauge(descApplied, float64(applied))
	if ago, ok := c.n.LastContact(); ok {
		gauge(descContact, ago.Seconds())
	}
	gauge(descTolerance, float64(c.n.metrics.failureTolerance.Load()))
	count(descCommands, c.n.metrics.applied.Load())
	count(descTerms, c.n.metrics.terms.Load())
	count(descRefused, c.n.metrics.refused.Load())
}
