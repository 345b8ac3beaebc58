package fsm

import (
	"fmt"

	"vcn/api"
)

// ReservationFail ends a reservation that cannot be provisioned. One that was
// parked before goes back to being parked. One that is
// ready, active or parked is refused (ErrState); one that is ending or closed already
// stays as it is.
type ReservationFail struct{ ID, Message string }

var _ = register[ReservationFail](TypeReservationFail, "ReservationFail")

// Type is the command's number.
func (ReservationFail) Type() Type { return TypeReservationFail }

func (c ReservationFail) apply(t *tx) error {
	old, err := t.reservation(c.ID)
	if err != nil {
		return err
	}
	r := clone(old)
	t.result = r
	switch r.State {
	case api.StateWaitlisted, api.StateBooked:
		if r.Kept {
			t.parkAgain(r, clip(c.Message))
			break
		}
		r.Outcome, r.Message = api.StateFailed, clip(c.Message)
		t.close(r)
	case api.StateProvisioning:
		if resumed(r) {
			t.end(r, api.StateParked, clip(c.Message))
			break
		}
		t.end(r, api.StateFailed, clip(c.Message))
	case api.StateReady, api.StateActive, api.StateParked:
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	return nil
}
