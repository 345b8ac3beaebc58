package control

import (
	"context"
	"time"

	"vcn/fsm"
)

const (
	// deadAfter is how long gossip must say that a host is dead, suspect or
	// unknown before the state says so. A host's restart takes a few seconds, and
	// is no reason to call its nodes lost and their clusters degraded.
	deadAfter = 15 * time.Second
	// aliveAfter is how long it must be alive again.
	aliveAfter = time.Second
	// hostWatchEvery is the pace of looking while a host's status is in doubt,
	// or gossip cannot tell of changes.
	hostWatchEvery = time.Second
	// hostWatchIdle is the pace of looking while all is as it was.
	hostWatchIdle = time.Minute
)

// hostSight is what the leader has seen of one host lately.
type hostSight struct {
	status string // of gossip, normalized
	since  time.Time
}

// hostWatch turns what gossip says into what the state should say. Its memory
// begins with the term: a new leader waits the full time before it calls a
// host dead.
type hostWatch struct{ seen map[string]hostSight }

// look takes one look and returns the statuses to set, by host in the order of hosts.
func (w *hostWatch) look(hosts []fsm.Host, members []Member, now time.Time) []fsm.HostStatusSet {
	gossip := map[string]string{}
	for _, m := range members {
		gossip[m.HostID] = m.Status
	}
	known := map[string]bool{}
	var out []fsm.HostStatusSet
	for _, h := range hosts {
		known[h.ID] = true
		s := normal(gossip[h.ID])
		old, ok := w.seen[h.ID]
		if !ok || old.status != s {
			old = hostSight{s, now}
			w.seen[h.ID] = old
		}
		if s != h.Status && now.Sub(old.since) >= patience(s) {
			out = append(out, fsm.HostStatusSet{Host: h.ID, Status: s})
		}
	}
	for id := range w.seen {
		if !known[id] {
			delete(w.seen, id)
		}
	}
	return out
}

// normal maps gossip's words to the state's three. Who is not heard of at all,
// or says itself that it cannot see what it runs, is as good as dead.
func normal(gossip string) string {
	switch gossip {
	case fsm.HostAlive, fsm.HostLeft:
		return gossip
	}
	return fsm.HostDead
}

func patience(status string) time.Duration {
	switch status {
	case fsm.HostLeft:
		return 0
	case fsm.HostAlive:
		return aliveAfter
	}
	return deadAfter
}

// runHostWatch keeps hosts' statuses, and says when the cluster of hosts has
// formed.
func (c *Control) runHostWatch(ctx context.Context) error {
	w := hostWatch{seen: map[string]hostSight{}}
	changed := c.cfg.Changed
	for {
		v := c.cfg.State.View()
		for _, cmd := range w.look(v.Hosts(), c.cfg.Members.Members(), c.cfg.Now()) {
			if _, err := c.apply(ctx, cmd); err != nil && ctx.Err() == nil {
				c.cfg.Log.Warn("set host status", "host", cmd.Host, "status", cmd.Status, "err", err)
			}
		}
		if m, ok := v.Meta(); ok && !m.Formed && c.cfg.Members.Voters() >= m.Expect {
			if _, err := c.apply(ctx, fsm.Formed{}); err != nil && ctx.Err() == nil {
				c.cfg.Log.Warn("say that the cluster has formed", "err", err)
			}
		}
		pace := hostWatchIdle
		v = c.cfg.State.View()
		if m, ok := v.Meta(); changed == nil || !ok || !m.Formed || w.inDoubt(v.Hosts()) {
			pace = hostWatchEvery
		}
		tick := time.NewTimer(pace)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case _, open := <-changed:
			if !open {
				changed = nil
			}
		}
		tick.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// inDoubt is true while gossip and the state differ about a host.
func (w *hostWatch) inDoubt(hosts []fsm.Host) bool {
	for _, h := range hosts {
		if w.seen[h.ID].status != h.Status {
			return true
		}
	}
	return false
}
