package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// Explain says why a reservation is where it is, or why it is nowhere, and what
// stands in the way of more.
func (c *Control) Explain(id string, sees func(string) bool) (api.Explanation, error) {
	v, inv := c.planner.snapshot()
	r, ok := v.Reservation(id)
	if !ok {
		return api.Explanation{}, noReservation(id)
	}
	e := api.Explanation{ID: r.ID, Name: r.Name, State: r.State, Lines: []string{}, Nodes: []api.NodeWhy{}}
	x := &explainer{v: v, r: r, now: c.now(), out: &e, zone: zoneOf(r.Zone)}
	x.state()
	held := placeBookings(v.BookingsOf(r.ID))
	if r.State == api.StateWaitlisted {
		c.explainWaiting(x, v, inv)
	}
	if !r.Live() || r.State == api.StateWaitlisted || r.State == api.StateParked || r.State == api.StateEnding {
		return e, nil
	}
	inv.Remove(held...)
	x.nodes(inv)
	w := &changer{c: c, v: v, r: r, now: x.now, sees: sees, times: timesOf(&r)}
	longest, blocks := w.longest(inv, held, r.Start.Add(api.SlotLengthMax))
	longest = longest.UTC()
	e.Until, e.Blocked = &longest, w.blockers(blocks)
	return e, nil
}

// explainWaiting says what is short now.
func (c *Control) explainWaiting(x *explainer, v *fsm.View, inv *placement.Inventory) {
	d := claimDraft(&x.r, x.now)
	times, _, err := findSlot(inv, d, c.planner.leadOf(v, d, x.now), x.now, queue(v.Waitlist()).aheadOf(x.r.ID).starving())
	var no *placement.NoFit
	switch {
	case err == nil:
		x.say("there is room for it from %s now; it is about to be booked", x.clock(times.start))
	case errors.As(err, &no) && len(no.Reasons) > 0:
		x.say("short now: %s", no.Reasons[0])
	}
}

type explainer struct {
	v    *fsm.View
	r    fsm.Reservation
	now  time.Time
	zone *time.Location
	out  *api.Explanation
}

func (x *explainer) say(format string, args ...any) {
	x.out.Lines = append(x.out.Lines, fmt.Sprintf(format, args...))
}

func (x *explainer) clock(t time.Time) string { return t.In(x.zone).Format("2006-01-02T15:04Z07:00") }

// state tells what the state of a reservation means for it.
func (x *explainer) state() {
	r := x.r
	switch r.State {
	case api.StateWaitlisted:
		x.waiting()
	case api.StateBooked:
		x.say("it is promised: hosts that can carry it are kept free from %s to %s, and may change until then", x.clock(r.Provision), x.clock(timesOf(&r).until()))
		x.say("provisioning begins %s before its start, as it is expected to take that long (learned from what was measured)", api.FormatDuration(r.Start.Sub(r.Provision)))
		if r.Kept {
			x.say("its disks exist and stay on their storage hosts")
		}
	case api.StateParked:
		x.say("it is parked: only its disks are kept, until %s; vcnctl resume brings it back", x.clock(r.ParkedUntil))
	case api.StateEnding:
		x.say("it is ending as %s: %s", r.Outcome, r.Message)
	case api.StateProvisioning, api.StateReady, api.StateActive:
		x.say("its hosts are bound since %s and are held until %s", x.clock(r.Provision), x.clock(timesOf(&r).until()))
	default:
		x.say("it is over: %s", r.Message)
	}
	if !r.ReadyAt.IsZero() {
		if d := r.Start.Sub(r.ReadyAt); d >= 0 {
			x.say("it was ready %s before its start", api.FormatDuration(d))
		} else {
			x.say("it was ready %s after its start; %s had been expected", api.FormatDuration(-d), api.FormatDuration(r.Lead))
		}
	}
	for _, cond := range r.Conditions {
		x.say("%s since %s: %s", cond.Type, x.clock(cond.Since), cond.Message)
	}
}

func (x *explainer) waiting() {
	w := x.r.Wait
	x.say("it waits for a start from %s to %s; then it fails", x.clock(w.Earliest), x.clock(w.Latest))
	if w.Message != "" {
		x.say("when it came this was short: %s", w.Message)
	}
	list := x.v.Waitlist()
	at := slices.IndexFunc(list, func(o fsm.Reservation) bool { return o.ID == x.r.ID })
	x.say("it is number %d of %d in the waitlist; who is before it is tried first", at+1, len(list))
	x.say("it was passed by %d that fitted where it did not; after %d nobody whose slot overlaps its window is booked before it", w.Passed, fsm.PassedMax)
}

// nodes says of each why it is where it is. inv is without the reservation.
func (x *explainer) nodes(inv *placement.Inventory) {
	r := x.r
	q := placeRequest(request(r.Nodes, false), timesOf(&r))
	if q.From.Before(x.now) {
		q.From = x.now
	}
	if !q.From.Before(q.Until) {
		q.Until = q.From.Add(time.Minute)
	}
	plan := sameSeats(request(r.Nodes, true))
	for i, n := range r.Nodes {
		why, passed := inv.Why(q, plan, i)
		x.out.Nodes = append(x.out.Nodes, api.NodeWhy{Node: n.Name, Host: hostName(x.v, n.Host), Storage: hostName(x.v, n.Storage), Why: why, Passed: passed})
	}
}
