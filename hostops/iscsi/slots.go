package iscsi

import (
	"net"
	"net/netip"
	"time"
)

// slots share out the connections of a server, so that whoever can reach the
// portal cannot take them all from those it is for.
//
//   - A stranger is an address that no access list holds. All strangers together
//     have one slot in strangerShare, one address of them strangerSlots.
//   - A known address has one in pendingShare for connections that are not a
//     session on a target: logins under way, and discovery.
//   - A session on a target is one of its initiator, so it needs no other bound.
//
// All is under Server.mu.
type slots struct {
	max       int
	known     map[netip.Addr]int // access entries of an address
	pending   map[netip.Addr]int // its connections without a session on a target
	strangers int

	refused quiet // connections without a slot
	failed  quiet // logins
}

// quiet keeps what strangers can cause as often as they like out of the log, but
// for one line in a while.
type quiet struct {
	n    int // since it was last told
	told time.Time
}

// tell says whether to tell now, and of how many.
func (q *quiet) tell(now time.Time, every time.Duration) (n int, ok bool) {
	q.n++
	if now.Sub(q.told) < every {
		return 0, false
	}
	n, q.n, q.told = q.n, 0, now
	return n, true
}

const (
	strangerShare = 16
	strangerSlots = 8
	pendingShare  = 4
	refusedTell   = 10 * time.Second // at most one line in the log for each
	failedTell    = time.Second
)

func newSlots(n int) slots {
	return slots{max: n, known: map[netip.Addr]int{}, pending: map[netip.Addr]int{}}
}

// take gives a connection a slot; all is how many connections there are.
func (s *slots) take(c *conn, all int) bool {
	a := c.remote.Addr()
	own := s.pending[a]
	switch {
	case all >= s.max:
		return false
	case s.known[a] > 0:
		if own >= max(1, s.max/pendingShare) {
			return false
		}
	case own >= strangerSlots || s.strangers >= max(1, s.max/strangerShare):
		return false
	default:
		c.stranger = true
		s.strangers++
	}
	c.pending = true
	s.pending[a] = own + 1
	return true
}

// loggedIn: the connection has become a session on a target, or has ended.
func (s *slots) loggedIn(c *conn) {
	if c.stranger {
		c.stranger = false
		s.strangers--
	}
	if !c.pending {
		return
	}
	c.pending = false
	a := c.remote.Addr()
	if s.pending[a]--; s.pending[a] <= 0 {
		delete(s.pending, a)
	}
}

// replace keeps count of the addresses in access lists; the caller holds mu.
func (s *Server) replace(old, now *target) {
	if now != nil {
		for _, a := range now.Access {
			s.slots.known[a.Addr]++
		}
	}
	if old == nil {
		return
	}
	for _, a := range old.Access {
		if s.slots.known[a.Addr]--; s.slots.known[a.Addr] <= 0 {
			delete(s.slots.known, a.Addr)
		}
	}
}

// admit starts a connection, if there is room for it.
func (s *Server) admit(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	ok := !s.closed && s.slots.take(c, len(s.conns))
	if ok {
		s.conns[c] = struct{}{}
		s.wg.Add(1)
	} else {
		s.refuse(c)
	}
	s.mu.Unlock()
	if !ok {
		c.cut()
		return
	}
	go c.serve()
}

// refuse tells of connections without a slot; the caller holds mu.
func (s *Server) refuse(c *conn) {
	if n, ok := s.slots.refused.tell(time.Now(), refusedTell); ok {
		s.cfg.Log.Warn("connections refused: too many", "last", c.remote, "refused", n, "all", len(s.conns), "strangers", s.slots.strangers)
	}
}

// loginFailed tells of logins that were refused or not finished.
func (s *Server) loginFailed(c *conn, err error) {
	s.mu.Lock()
	n, ok := s.slots.failed.tell(time.Now(), failedTell)
	s.mu.Unlock()
	if ok {
		c.log.Info("login refused", "initiator", c.initiator, "target", c.target, "err", err, "refused", n)
	}
}
