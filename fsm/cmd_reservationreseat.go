package fsm

import (
	"fmt"
	"slices"
	"strings"

	"vcn/api"
)

// ReservationReseat moves promises to other hosts, all of them or none: because
// a host is dead, cordoned or has become too small, or to make room.
type ReservationReseat struct {
	Moves []Move
	Why   string
}

// Move is the new seats of one promise.
type Move struct {
	ID       string
	Modified uint64
	Seats    []Seat
}

var _ = register[ReservationReseat](TypeReservationReseat, "ReservationReseat")

// Type is the command's number.
func (ReservationReseat) Type() Type { return TypeReservationReseat }

func (c ReservationReseat) apply(t *tx) error {
	if len(c.Moves) == 0 || len(c.Moves) > MovesMax {
		return invalid("%d moves: want 1-%d", len(c.Moves), MovesMax)
	}
	// All leave before the first one sits down: they may swap.
	var moved []*Reservation
	var had [][]*Booking
	for _, m := range c.Moves {
		r, err := t.unchanged(m.ID, m.Modified)
		if err != nil {
			return err
		}
		if r.State != api.StateBooked || slices.ContainsFunc(moved, func(o *Reservation) bool { return o.ID == r.ID }) {
			return fmt.Errorf("reservation %q is %s, or moved twice: %w", m.ID, r.State, ErrState)
		}
		moved, had = append(moved, r), append(had, t.unbookAll(r.ID))
	}
	if len(moved) > 1 {
		had = make([][]*Booking, len(moved)) // another may have taken what one had
	}
	for i, r := range moved {
		from := movedFrom(r.Nodes, c.Moves[i].Seats)
		if err := t.sit(r, c.Moves[i].Seats); err != nil {
			return err
		}
		if err := t.admit(bookingsOf(r), had[i]); err != nil {
			return err
		}
		e := &edit{t: t, r: r}
		e.resources()
		e.condition(condChanged, clip(fmt.Sprintf("%s: %s", c.Why, t.fewHosts(from))))
		t.save(r)
	}
	return nil
}

// movedFrom names the hosts that lose something.
func movedFrom(nodes []Node, seats []Seat) []string {
	var out []string
	for i := 0; i < len(nodes) && i < len(seats); i++ {
		if nodes[i].Host != seats[i].Host {
			out = append(out, nodes[i].Host)
		}
		if nodes[i].Storage != seats[i].Storage {
			out = append(out, nodes[i].Storage)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (t *tx) fewHosts(ids []string) string {
	var names []string
	for _, id := range ids {
		names = append(names, t.hostName(id))
	}
	if len(names) == 0 {
		return "all is where it was"
	}
	return "moved from " + strings.ReplaceAll(fewOf(names), "; ", ", ")
}
