package fsm

import (
	"time"

	"vcn/api"
)

// ClockAdvance carries the leader's time; everything due by it happens.
type ClockAdvance struct{}

var _ = register[ClockAdvance](TypeClockAdvance, "ClockAdvance")

// Type is the command's number.
func (ClockAdvance) Type() Type { return TypeClockAdvance }

func (ClockAdvance) apply(t *tx) error {
	// Several things may be due for one reservation, one after another: each
	// step moves its deadline on, so that this ends.
	for again := true; again; {
		again = false
		for _, r := range all(upTo(scan[Reservation](t.reader, tabReservations, "due", nil), func(r *Reservation) bool {
			at, ok := due(r)
			return ok && !at.After(t.now)
		})) {
			t.elapse(clone(r))
			again = true
		}
	}
	t.expire()
	return nil
}

// elapse does what is due for r.
func (t *tx) elapse(r *Reservation) {
	over := !r.End.After(t.now)
	switch {
	case !r.Live():
		t.del(tabReservations, r)
		t.dropSeries(r.Series)
	case r.State == api.StateWaitlisted:
		r.Outcome, r.Message = api.StateFailed, "nothing came free in time: "+r.Wait.Message
		t.close(r)
	case r.State == api.StateBooked && r.Kept:
		t.parkAgain(r, "its slot passed before it could be provisioned")
	case r.State == api.StateBooked:
		r.Outcome, r.Message = api.StateFailed, "its slot passed before it could be provisioned"
		t.close(r)
	case r.State == api.StateProvisioning && over && resumed(r):
		t.end(r, api.StateParked, "its slot ended before it was ready again")
	case r.State == api.StateProvisioning && over:
		t.end(r, api.StateFailed, "its slot ended before it was ready")
	case r.State == api.StateEnding: // its grace is over
		r.StopAt, r.EndIndex = time.Time{}, t.index
		t.touchAll(r.ID)
		t.save(r)
		t.settle(r.ID)
	case r.State == api.StateParked:
		t.end(r, api.StateEnded, "it was parked for as long as was asked for")
	case over && parks(r):
		t.endBy(r, api.StateParked, "its slot is over", r.End.Add(r.Grace))
	case over:
		t.endBy(r, api.StateEnded, "its slot is over", r.End.Add(r.Grace))
	default:
		t.passing(r)
	}
}

// passing does what is due while a reservation goes on.
func (t *tx) passing(r *Reservation) {
	if r.State == api.StateReady && !r.Start.After(t.now) {
		t.activate(r)
	}
	if at, ok := nextWarning(r); ok && !at.After(t.now) {
		t.warn(r)
	}
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.Leaving && !n.LeaveBy.IsZero() && !n.LeaveBy.After(t.now) {
			n.LeaveDue = true
		}
	}
	t.save(r)
	t.settle(r.ID)
}

// expire removes holds, idempotency keys and tokens past their time.
func (t *tx) expire() {
	for _, h := range all(upTo(scan[Hold](t.reader, tabHolds, "due", nil), func(h *Hold) bool { return !h.Expires.After(t.now) })) {
		t.endHold(h)
	}
	for _, k := range all(upTo(scan[keyRow](t.reader, tabKeys, "due", nil), func(k *keyRow) bool {
		return !k.Expires.After(t.now)
	})) {
		t.del(tabKeys, k)
	}
	for _, k := range all(upTo(scan[Token](t.reader, tabTokens, "due", nil), func(k *Token) bool {
		return !k.Expires.Add(TokenGrace).After(t.now)
	})) {
		t.del(tabTokens, k)
	}
}

// upTo yields rows while keep holds.
func upTo[T any](seq func(func(*T) bool), keep func(*T) bool) func(func(*T) bool) {
	return func(yield func(*T) bool) {
		seq(func(row *T) bool { return keep(row) && yield(row) })
	}
}
