package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

const (
	// reseatAfter is how long a host must be dead before promises leave it: a
	// restart is no reason to move them. Those that begin within reseatSoon do
	// not wait so long.
	reseatAfter = 5 * time.Minute
	reseatSoon  = 10 * time.Minute
	// reseatEvery is the pace of looking after promises in danger.
	reseatEvery = 30 * time.Second
	// reseatAtOnce bounds the promises that one look moves.
	reseatAtOnce = 200
	// reseatTriesMax bounds those that one look tries to move: where there is no
	// room for many, the next look goes on behind them.
	reseatTriesMax = 1000
)

// reseater moves promises whose hosts are dead, cordoned or too small now. Those
// that were booked first are served first.
type reseater struct {
	done string // where the last look has stopped: see rank; empty: it came to the end
}

// rank orders promises by when they were booked.
func rank(r *fsm.Reservation) string {
	return r.Created.UTC().Format("20060102T150405.000000000") + r.ID
}

// look goes through them once, and says how many it could not move.
func (s *reseater) look(ctx context.Context, c *Control, now time.Time) (left int) {
	danger := inDanger(c.cfg.State.View(), now)
	from, _ := slices.BinarySearchFunc(danger, s.done, func(r fsm.Reservation, done string) int {
		if rank(&r) <= done {
			return -1
		}
		return 1
	})
	if from == len(danger) {
		from = 0
	}
	s.done = ""
	moved := 0
	var why error
	for i, r := range danger[from:] {
		if moved == reseatAtOnce || i == reseatTriesMax || ctx.Err() != nil {
			break
		}
		did, err := c.reseatOne(ctx, r.ID, now)
		if err != nil {
			left, why = left+1, err
		}
		if did {
			moved++
		}
		if s.done = rank(&r); i == len(danger[from:])-1 {
			s.done = ""
		}
	}
	if why != nil && ctx.Err() == nil {
		c.cfg.Log.Warn("some promises cannot be moved from hosts that are out of use", "count", left, "moved", moved, "last", why)
	}
	return left
}

// inDanger lists the promises with a seat on a host that will not come back by itself
// soon enough, by when they were booked.
func inDanger(v *fsm.View, now time.Time) []fsm.Reservation {
	bad := badHosts(v)
	var out []fsm.Reservation
	seen := map[string]bool{}
	for host := range bad {
		for _, id := range v.OwnersOn(host) {
			r, ok := v.Reservation(id)
			if ok && !seen[id] && endangered(v, &r, bad, now) {
				out = append(out, r)
			}
			seen[id] = true
		}
	}
	slices.SortFunc(out, func(a, b fsm.Reservation) int { return cmp.Compare(rank(&a), rank(&b)) })
	return out
}

func badHosts(v *fsm.View) map[string]fsm.Host {
	bad := map[string]fsm.Host{}
	for _, h := range v.Hosts() {
		if unusable(h) != "" || h.Short != "" {
			bad[h.ID] = h
		}
	}
	return bad
}

// endangered: a host that is dead may come back; it is waited for, unless the
// promise begins soon.
func endangered(v *fsm.View, r *fsm.Reservation, bad map[string]fsm.Host, now time.Time) bool {
	if r.State != api.StateBooked {
		return false
	}
	for i := range r.Nodes {
		for _, id := range []string{r.Nodes[i].Host, r.Nodes[i].Storage} {
			h, ok := bad[id]
			if !ok || r.Kept && id != r.Nodes[i].Host { // a disk that exists cannot move
				continue
			}
			if unusable(h) == "" { // it has become smaller
				if shortFor(v, r.ID, h) {
					return true
				}
				continue
			}
			dead := h.Status != fsm.HostAlive && h.Cordoned == ""
			if !dead || now.Sub(h.StatusSince) >= reseatAfter || r.Provision.Sub(now) <= reseatSoon {
				return true
			}
		}
	}
	return false
}

// reseatOne moves one promise, if it is still in danger: a host that was too small
// may suffice once others have left it.
func (c *Control) reseatOne(ctx context.Context, id string, now time.Time) (did bool, err error) {
	m, f, err := c.planner.planReseat(id, now)
	if f == nil || err != nil {
		return false, err
	}
	_, err = c.apply(ctx, fsm.ReservationReseat{Moves: []fsm.Move{m}, Why: "its promise is kept on other hosts"})
	c.planner.land(f, err == nil)
	return err == nil, err
}

// planReseat plans the move of one promise; there is no flight if it need not move.
func (p *planner) planReseat(id string, now time.Time) (fsm.Move, *flight, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.state.View()
	r, ok := v.Reservation(id)
	if !ok || !endangered(v, &r, badHosts(v), now) {
		return fsm.Move{}, nil, nil
	}
	plan, f, err := p.moveSeats(v, &r, now)
	if err != nil {
		return fsm.Move{}, nil, err
	}
	m := fsm.Move{ID: r.ID, Modified: r.Modified, Seats: seats(plan)}
	same := true
	for i, a := range plan.Nodes {
		same = same && a.Host == r.Nodes[i].Host && a.Storage == r.Nodes[i].Storage
	}
	if same {
		return m, nil, nil
	}
	p.inv.add(f)
	return m, f, nil
}
