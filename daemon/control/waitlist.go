package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

const (
	// waitlistPace bounds how often the waitlist is gone through while the
	// state moves.
	waitlistPace = time.Second
	// waitlistIdle is how often it is gone through while nothing moves: time
	// alone may bring a slot into reach.
	waitlistIdle = time.Minute
	waitForMax   = 365 * 24 * time.Hour
)

// waitRequest is what a repeated call is recognised by.
type waitRequest struct {
	Spec    api.Spec
	WaitFor string
}

// ReserveWait books a cluster or, if it does not fit now, puts it into the
// waitlist: it is booked as soon as it fits, to start at the latest waitFor after
// its earliest start.
func (c *Control) ReserveWait(ctx context.Context, spec api.Spec, waitFor, project, owner, key string) (*fsm.Reservation, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	spec, err := settleSpec(spec, project)
	if err != nil {
		return nil, err
	}
	hash, err := keyHash(key, waitRequest{spec, waitFor})
	if err != nil {
		return nil, err
	}
	if r, err := c.replay(hash, spec.Project, key); r != nil || err != nil {
		return r, err
	}
	wait, err := api.ParseDuration(waitFor)
	if err != nil || wait < time.Minute || wait > waitForMax {
		return nil, api.Invalid("one field is wrong", []api.FieldError{{Field: "waitFor", Value: waitFor, Want: "a length from 1m to 1y, such as 7d"}})
	}
	if spec.Slot.Repeat != "" || spec.Slot.End != "" {
		return nil, api.Invalid("one field is wrong", []api.FieldError{{Field: "slot", Want: "a length (for) and no rule: who waits does not know the start"}})
	}
	d, err := newDraft(c.recipes, spec, project, owner, key, c.now())
	if err != nil {
		return nil, err
	}
	// A latest start that was given holds: to wait longer is of no use.
	if until := d.window.Earliest.Add(wait); !d.window.Latest.After(d.window.Earliest) || until.Before(d.window.Latest) {
		d.window.Latest = until
	}
	r, err := c.book(ctx, bookRequest{drafts: []*draft{d}, key: key, hash: hash})
	var no *noFitError
	if !errors.As(err, &no) {
		return r, err
	}
	if err := c.couldFit(d, c.now()); err != nil {
		return nil, c.nearest(d, err)
	}
	return c.enlist(ctx, d, hash, no)
}

// couldFit refuses what would not fit if all hosts were there and nothing was
// booked: it would wait in vain, and keep others from what it can never have.
func (c *Control) couldFit(d *draft, now time.Time) error {
	v := c.cfg.State.View()
	hosts := placeHosts(v)
	for i := range hosts {
		hosts[i].Unusable = ""
	}
	if m, _ := v.Meta(); true {
		hosts = append(hosts, placement.Host{ID: placement.IdentifiersHost, Name: "the pools of identifiers", Clusters: m.Pools.Clusters()})
	}
	_, _, err := findFirst(placement.New(hosts, nil), d, c.planner.leadOf(v, d, now), now, nil)
	return noFitOrNil(err)
}

// enlist puts a draft that does not fit into the waitlist.
func (c *Control) enlist(ctx context.Context, d *draft, hash []byte, no *noFitError) (*fsm.Reservation, error) {
	w := d.window
	times := slotTimes{start: w.Earliest, end: w.EndOf(w.Earliest), provision: w.Earliest, grace: d.grace}
	r := d.record(times, placement.Plan{})
	r.State = api.StateWaitlisted
	r.Wait = &fsm.Wait{Earliest: w.Earliest, Latest: w.Latest, Length: w.Length, Message: first(no.Reasons)}
	c.planner.mu.Lock()
	images := c.planner.images(c.cfg.State.View(), []*draft{d})
	c.planner.mu.Unlock()
	res, err := c.apply(ctx, fsm.ReservationBook{Key: d.key, RequestHash: hash, Reservations: []fsm.Reservation{r}, Images: images})
	if err != nil {
		return nil, reserveProblem(d.spec, err)
	}
	return res.Reservation, nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// runWaitlist books waitlisted reservations as soon as they fit: first come,
// first served. Who does not fit lets those behind it pass, at most
// fsm.PassedMax times; after that nobody whose slot overlaps its window is booked
// before it, neither from the waitlist nor directly.
func (c *Control) runWaitlist(ctx context.Context) error {
	var s server
	for ctx.Err() == nil {
		v := c.cfg.State.View()
		if s.due(v, c.now()) {
			if err := c.serveWaitlist(ctx); err != nil && ctx.Err() == nil {
				c.cfg.Log.Warn("serve the waitlist", "err", err)
			}
		}
		sleep(ctx, waitlistPace)
		c.watch(ctx, v.Index(), waitlistIdle)
	}
	return ctx.Err()
}

// server remembers what the waitlist was served on: it is gone through when something
// was booked or freed, a host changed, somebody joined, or a minute has passed.
type server struct {
	at           time.Time
	index, hosts uint64
	waiting      int
}

func (s *server) due(v *fsm.View, now time.Time) bool {
	list := v.Waitlist()
	moved := v.HostsIndex() != s.hosts || len(list) != s.waiting || now.Sub(s.at) >= waitlistIdle || now.Before(s.at)
	hosts, known := v.ChangedHosts(s.index)
	moved = moved || !known || len(hosts) > 0
	for i := range list {
		moved = moved || list[i].Modified > s.index
	}
	s.index, s.hosts, s.waiting = v.Index(), v.HostsIndex(), len(list)
	if moved {
		s.at = now
	}
	return moved && len(list) > 0
}

// serveWaitlist goes through the list once.
func (c *Control) serveWaitlist(ctx context.Context) error {
	now := c.now()
	var errs []error
	for _, r := range c.cfg.State.View().Waitlist() {
		if ctx.Err() != nil {
			break
		}
		if err := c.claim(ctx, r, now); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name, err))
		}
	}
	return errors.Join(errs...)
}

// claim books a waitlisted reservation if it fits; that it does not is no error.
func (c *Control) claim(ctx context.Context, r fsm.Reservation, now time.Time) error {
	for range replanTriesMax {
		cmd, f, err := c.planClaim(r, now)
		var no *placement.NoFit
		var p *noFitError
		switch {
		case errors.Is(err, errSlotGone):
			continue
		case errors.As(err, &no), errors.As(err, &p):
			return nil
		case err != nil:
			return err
		}
		_, err = c.apply(ctx, cmd)
		c.planner.land(f, err == nil)
		if !moved(err) && !errors.Is(err, fsm.ErrTurn) {
			if errors.Is(err, fsm.ErrChanged) || errors.Is(err, fsm.ErrQuota) {
				return nil // it was changed or released meanwhile, or may not be parked yet
			}
			return err
		}
	}
	return nil
}

// claimDraft is a waitlisted reservation as a draft.
func claimDraft(r *fsm.Reservation, now time.Time) *draft {
	d := &draft{spec: r.Spec, id: r.ID, nodes: r.Nodes, grace: r.Grace, parkFor: timesOf(r).parkFor, recipes: digests(r.Recipes)}
	d.window = api.Window{Earliest: r.Wait.Earliest, Latest: r.Wait.Latest, Length: r.Wait.Length}
	if !d.window.Earliest.After(now) {
		d.window.Earliest, d.window.Asap = now, true
	}
	return d
}

// digests is the recipes of a record as those of a draft.
func digests(recipes map[string]string) map[string]resolved {
	out := make(map[string]resolved, len(recipes))
	for a, digest := range recipes {
		out[a] = resolved{digest: digest}
	}
	return out
}

// planClaim finds a slot for a waitlisted reservation: on a snapshot, and then once
// more on what is in the state by then.
func (c *Control) planClaim(r fsm.Reservation, now time.Time) (fsm.ReservationClaim, *flight, error) {
	cmd := fsm.ReservationClaim{ID: r.ID, Modified: r.Modified}
	d := claimDraft(&r, now)
	if d.window.Latest.Before(now) {
		return cmd, nil, &placement.NoFit{} // the clock will fail it
	}
	p := c.planner
	v, inv := p.snapshot()
	ahead := queue(v.Waitlist()).aheadOf(r.ID)
	times, _, err := findSlot(inv, d, p.leadOf(v, d, now), now, ahead.starving())
	if err != nil {
		return cmd, nil, err
	}
	if !times.provision.After(now) {
		b, err := p.binding(&r, r.Nodes)
		if err != nil {
			return cmd, nil, err
		}
		cmd.Bind = &b
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v = p.state.View()
	ahead = queue(v.Waitlist()).aheadOf(r.ID)
	q := d.request(times)
	plan, err := p.inv.follow(v).Plan(q)
	if err != nil || ahead.starving().before(times) != nil {
		return cmd, nil, errSlotGone
	}
	cmd.Passed = ahead.passedBy(times, nil)
	cmd.Start, cmd.End, cmd.Provision, cmd.Lead = times.start, times.end, times.provision, times.lead
	cmd.Seats = seats(plan)
	f := &flight{id: r.ID, bookings: plan.Bookings(q), landed: func(v *fsm.View) bool {
		now, ok := v.Reservation(r.ID)
		return !ok || now.State != api.StateWaitlisted
	}}
	p.inv.add(f)
	return cmd, f, nil
}

// aheadOf is those that came before one.
func (q queue) aheadOf(id string) queue {
	for i := range q {
		if q[i].ID == id {
			return q[:i]
		}
	}
	return q
}
