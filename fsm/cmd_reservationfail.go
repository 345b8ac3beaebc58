package fsm

import (
	"fmt"

	"vcn/api"
)

// ReservationFail ends a reservation that cannot be provisioned. One that is
// ready or active is refused (ErrState); one that is ending or closed already
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
		r.Outcome, r.Message = api.StateFailed, clip(c.Message)
		t.close(r)
	case api.StateProvisioning:
		t.end(r, api.StateFailed, clip(c.Message))
	case api.StateReady, api.StateActive:
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	return nil
}
