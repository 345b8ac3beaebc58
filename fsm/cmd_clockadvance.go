package fsm

import "vcn/api"

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
		for _, r := range all(scan[Reservation](t.reader, tabReservations, "due", nil)) {
			at, ok := due(r)
			if !ok || at.After(t.now) {
				break
			}
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
	case r.State == api.StateWaitlisted || r.State == api.StateBooked && over:
		r.Outcome, r.Message = api.StateFailed, "its slot passed before it could be provisioned"
		t.close(r)
	case r.State == api.StateBooked:
		t.provision(r)
	case r.State == api.StateProvisioning:
		t.end(r, api.StateFailed, "its slot ended before it was ready")
	case over:
		t.end(r, api.StateEnded, "its slot is over")
	case r.State == api.StateReady:
		t.activate(r)
		t.save(r)
	}
}

// expire removes idempotency keys and tokens past their time.
func (t *tx) expire() {
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
