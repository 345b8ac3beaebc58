package control

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

const (
	// grain is what starts that vcn chooses are rounded up to.
	grain = time.Minute
	// undecidedMax is how often a search that used up what one call may cost
	// is taken up again where it ended (see placement.Undecided).
	undecidedMax = 4
)

// errSlotGone: what a search without the lock has found is not free any more.
var errSlotGone = errors.New("the slot that was found is taken meanwhile")

// slotsAt is the slot of a draft by its start.
type slotsAt func(start time.Time) slotTimes

// slots says when a draft's slot is for each start, and which the first start is.
func slots(d *draft, lead time.Duration, now time.Time) (slotsAt, time.Time) {
	w := d.window
	first := w.Earliest
	if w.Asap || first.Before(now) {
		first = now
	}
	return func(start time.Time) slotTimes {
		t := slotTimes{start: start, end: w.EndOf(start), provision: start.Add(-lead), lead: lead, grace: d.grace, parkFor: d.parkFor}
		if w.Asap && !start.After(now) || t.provision.Before(now) {
			t.provision = now
		}
		return t
	}, first
}

// findFirst places a draft at the first start of its window. starving are those
// that it may not pass. It reads the inventory only, as findSlot does.
func findFirst(inv *placement.Inventory, d *draft, lead time.Duration, now time.Time, starving queue) (slotTimes, placement.Plan, error) {
	at, first := slots(d, lead, now)
	times := at(first)
	if times.end.Sub(times.start) < api.SlotLengthMin {
		return times, placement.Plan{}, api.Invalid("the slot is not possible", []api.FieldError{{Field: "slot.end", Value: d.spec.Slot.End,
			Want: "a time at least 1m after the start, " + times.start.UTC().Format(time.RFC3339)}})
	}
	if err := starving.before(times); err != nil {
		return times, placement.Plan{}, err
	}
	plan, err := inv.Plan(d.request(times))
	return times, plan, err
}

// findSlot finds the first slot of the draft's window that fits, with its seats.
func findSlot(inv *placement.Inventory, d *draft, lead time.Duration, now time.Time, starving queue) (slotTimes, placement.Plan, error) {
	times, plan, err := findFirst(inv, d, lead, now, starving)
	var no *placement.NoFit
	if err == nil || !d.window.Latest.After(times.start) || !errors.As(err, &no) {
		return times, plan, err
	}
	found, plan, ok := later(inv, d, lead, now, starving)
	if !ok {
		return times, plan, err // what the first start lacks says most
	}
	return found, plan, nil
}

// later looks for the first start after the window's first, and not after its
// last. From there on the whole lead time is kept: a start between them would hold
// all that the first one holds, and more. So all that is tried is equally long.
func later(inv *placement.Inventory, d *draft, lead time.Duration, now time.Time, starving queue) (slotTimes, placement.Plan, bool) {
	at, first := slots(d, lead, now)
	last := d.window.Latest
	start := first.Add(1)
	if start.Before(now.Add(lead)) {
		start = now.Add(lead)
	}
	around := at(start)
	length := around.until().Sub(around.provision)
	for tries := 0; tries < undecidedMax+2*len(starving); tries++ {
		gap, ok := starving.gap(start.Add(-lead), last.Add(-lead), length)
		if !ok {
			return slotTimes{}, placement.Plan{}, false
		}
		q := d.request(at(gap.from.Add(lead)))
		found, plan, err := inv.Earliest(q, gap.until)
		var undecided *placement.Undecided
		switch {
		case err == nil:
			times, plan := rounded(inv, d, at, found.Add(lead), plan, starving)
			return times, plan, true
		case errors.As(err, &undecided):
			start = undecided.Before.Add(lead)
		default:
			start = gap.until.Add(lead + 1)
		}
	}
	return slotTimes{}, placement.Plan{}, false
}

// rounded is the slot on the next minute, where that fits too.
func rounded(inv *placement.Inventory, d *draft, at slotsAt, start time.Time, plan placement.Plan, starving queue) (slotTimes, placement.Plan) {
	if cut := start.Truncate(grain); !cut.Equal(start) && !cut.Add(grain).After(d.window.Latest) {
		times := at(cut.Add(grain))
		if starving.before(times) == nil {
			if p, err := inv.Plan(d.request(times)); err == nil {
				return times, p
			}
		}
	}
	return at(start), plan
}

// search finds the slot of a draft that has a window, on a snapshot: the lock is
// not held for what may take long. What was found is placed again under it.
func (p *planner) search(d *draft, now time.Time) error {
	d.found = nil
	if !d.window.Latest.After(d.window.Earliest) {
		return nil
	}
	v, inv := p.snapshot()
	times, _, err := findSlot(inv, d, p.leadOf(v, d, now), now, queue(v.Waitlist()).starving())
	if err == nil {
		d.found = &times
	}
	return noFitOrNil(err)
}

func noFitOrNil(err error) error {
	if err == nil {
		return nil
	}
	return noFit(err)
}

// placeRequest is what nodes hold around a slot.
func placeRequest(nodes []placement.NodeRequest, s slotTimes) placement.Request {
	return placement.Request{From: s.provision, Until: s.until(), Nodes: nodes, Clusters: 1, Policy: placement.Spread,
		KeepStorage: s.parkFor}
}

// queue is waitlisted reservations, first come first.
type queue []fsm.Reservation

// span is the half-open time [from, until).
type span struct{ from, until time.Time }

// waitSpan is all the time that a waitlisted reservation might want.
func waitSpan(r *fsm.Reservation) span {
	return span{r.Wait.Earliest, r.Wait.Latest.Add(r.Wait.Length)}
}

func (s span) overlaps(from, until time.Time) bool {
	return s.from.Before(until) && s.until.After(from)
}

// starving are those that were passed as often as is fair.
func (q queue) starving() queue {
	var out queue
	for _, r := range q {
		if r.Wait.Passed >= fsm.PassedMax {
			out = append(out, r)
		}
	}
	return out
}

// passedBy adds those whose window a slot takes from.
func (q queue) passedBy(s slotTimes, out []string) []string {
	for i := range q {
		if waitSpan(&q[i]).overlaps(s.provision, s.until()) && !slices.Contains(out, q[i].ID) {
			out = append(out, q[i].ID)
		}
	}
	return out
}

// before refuses a slot that takes from somebody's window, with a *NoFit.
func (q queue) before(s slotTimes) error {
	for i := range q {
		if waitSpan(&q[i]).overlaps(s.provision, s.until()) {
			return &behindError{at: q[i].Wait.Latest, passed: q[i].Wait.Passed}
		}
	}
	return nil
}

// gap is the first span of times from which a slot of some length may be held
// without taking from anybody's window: from the earliest to the last time, both
// included. ok is false if there is none.
func (q queue) gap(earliest, last time.Time, length time.Duration) (gap span, ok bool) {
	for moved := true; moved; {
		moved = false
		for i := range q {
			if w := waitSpan(&q[i]); w.overlaps(earliest, earliest.Add(length)) {
				earliest, moved = w.until, true
			}
		}
	}
	for i := range q {
		if w := waitSpan(&q[i]); !w.from.Before(earliest.Add(length)) && w.from.Add(-length).Before(last) {
			last = w.from.Add(-length)
		}
	}
	return span{earliest, last}, !last.Before(earliest)
}

// behindError: somebody who was passed too often goes first.
type behindError struct {
	at     time.Time
	passed int
}

func (e *behindError) Error() string {
	return "behind a waitlisted reservation that was passed too often"
}

// Unwrap makes it a refusal like any other of placement.
func (e *behindError) Unwrap() error {
	return &placement.NoFit{Reasons: []string{fmt.Sprintf("a waitlisted reservation that was passed %d times goes first; it waits for a start until %s",
		e.passed, e.at.UTC().Format(time.RFC3339))}}
}

func (e *behindError) problem() *noFitError {
	no := e.Unwrap().(*placement.NoFit)
	return &noFitError{Problem: &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit, Reasons: no.Reasons,
		Detail: "somebody has waited for this time and was passed too often",
		Next:   "join the waitlist behind it (reserve --wait-for), or ask for another time"}, why: no}
}
