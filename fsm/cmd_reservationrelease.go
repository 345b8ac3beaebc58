package fsm

import (
	"vcn/api"
)

// ReservationRelease ends a reservation early, in whatever state. It wins over
// every state, and doing it again changes nothing.
type ReservationRelease struct{ ID, By string }

var _ = register[ReservationRelease](TypeReservationRelease, "ReservationRelease")

// Type is the command's number.
func (ReservationRelease) Type() Type { return TypeReservationRelease }

func (c ReservationRelease) apply(t *tx) error {
	old, err := t.reservation(c.ID)
	if err != nil {
		return err
	}
	r := clone(old)
	t.result = r
	switch r.State {
	case api.StateBooked, api.StateParked:
		if r.Kept {
			t.end(r, api.StateEnded, by("released with its parked volumes", c.By))
			break
		}
		r.Outcome, r.Message = api.StateCancelled, by("cancelled", c.By)
		t.close(r)
	case api.StateWaitlisted:
		r.Outcome, r.Message = api.StateCancelled, by("cancelled", c.By)
		t.close(r)
	case api.StateProvisioning:
		t.end(r, api.StateCancelled, by("cancelled while provisioning", c.By))
	case api.StateReady:
		t.end(r, api.StateCancelled, by("cancelled before its start", c.By))
	case api.StateActive:
		t.end(r, api.StateEnded, by("released early", c.By))
	case api.StateEnding:
		t.hurry(r, by("released", c.By))
	}
	return nil
}

func by(what, who string) string {
	if who == "" {
		return what
	}
	return clip(what + " by " + who)
}
