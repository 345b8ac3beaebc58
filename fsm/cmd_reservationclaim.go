package fsm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"vcn/api"
)

// ErrTurn: one before it in the waitlist has been passed as often as is fair.
var ErrTurn = errors.New("not its turn")

// ReservationClaim books a waitlisted reservation. Passed are those before it in
// the waitlist, that did not fit.
type ReservationClaim struct {
	ID                    string
	Modified              uint64
	Start, End, Provision time.Time
	Lead                  time.Duration
	Seats                 []Seat
	Passed                []string
	Bind                  *Binding // if it is to be provisioned at once
}

var _ = register[ReservationClaim](TypeReservationClaim, "ReservationClaim")

// Type is the command's number.
func (ReservationClaim) Type() Type { return TypeReservationClaim }

func (c ReservationClaim) apply(t *tx) error {
	r, err := t.unchanged(c.ID, c.Modified)
	if err != nil {
		return err
	}
	if r.State != api.StateWaitlisted {
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	if len(c.Seats) != len(r.Nodes) {
		return invalid("%d seats for %d nodes", len(c.Seats), len(r.Nodes))
	}
	if c.Start.Before(r.Wait.Earliest) || c.Start.After(r.Wait.Latest) {
		return invalid("start %s: want one within %s-%s", c.Start, r.Wait.Earliest, r.Wait.Latest)
	}
	waiting := r.Created
	waited := t.now.Sub(r.Created).Round(time.Second)
	r.State, r.Wait, r.Message = api.StateBooked, nil, ""
	r.Start, r.End, r.Provision, r.Lead = c.Start.UTC(), c.End.UTC(), c.Provision.UTC(), c.Lead
	r.Warned = passedWarnings(r, t.now)
	for i, s := range c.Seats {
		r.Nodes[i].Host, r.Nodes[i].Storage = s.Host, s.Storage
	}
	if err := t.checkPromise(r); err != nil {
		return err
	}
	if err := t.checkParkQuota(r, nil); err != nil {
		return err
	}
	if err := t.admit(bookingsOf(r), nil); err != nil {
		return err
	}
	if err := t.pass(c.Passed, waiting, r); err != nil {
		return err
	}
	t.event(r.ID, "", "reservation.booked", "%s has come free after %s: %d nodes from %s to %s", r.Name, waited, len(r.Nodes),
		r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339))
	t.save(r)
	if c.Bind != nil {
		if err := t.bind(r.ID, *c.Bind); err != nil {
			return err
		}
	}
	t.result, err = t.reservation(r.ID)
	return err
}

// pass counts that those in the waitlist were passed by what was booked, which came
// at since. One that was passed PassedMax times lets nobody by any more whose slot
// it might need.
func (t *tx) pass(passed []string, since time.Time, booked ...*Reservation) error {
	for i, id := range passed {
		o, err := t.reservation(id)
		if err != nil || o.State != api.StateWaitlisted || slices.Contains(passed[:i], id) {
			continue
		}
		if o.Created.After(since) {
			return invalid("reservation %s is behind %s in the waitlist and is not passed by it", id, booked[0].ID)
		}
		w := *o.Wait
		for _, r := range booked {
			if w.Passed >= PassedMax && r.Provision.Before(w.Latest.Add(w.Length)) && w.Earliest.Before(r.End) {
				return fmt.Errorf("reservation %s was passed %d times and waits for %s-%s: %w", id, w.Passed,
					w.Earliest.Format(time.RFC3339), w.Latest.Add(w.Length).Format(time.RFC3339), ErrTurn)
			}
		}
		w.Passed++
		p := clone(o)
		p.Wait = &w
		t.save(p)
	}
	return nil
}
