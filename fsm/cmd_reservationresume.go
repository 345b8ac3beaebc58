package fsm

import (
	"bytes"
	"fmt"
	"time"

	"vcn/api"
)

// ReservationResume books a parked reservation for a new slot: its volumes stay
// where they are, hosts and identifiers are new.
type ReservationResume struct {
	ID                    string
	Modified              uint64
	Key                   string
	RequestHash           []byte
	Spec                  api.Spec
	Start, End, Provision time.Time
	Lead, Grace           time.Duration
	Zone                  string
	Seats                 []Seat
	Bind                  *Binding // if it is to be provisioned at once
}

var _ = register[ReservationResume](TypeReservationResume, "ReservationResume")

// Type is the command's number.
func (ReservationResume) Type() Type { return TypeReservationResume }

func (c ReservationResume) apply(t *tx) error {
	old, err := t.reservation(c.ID)
	if err != nil {
		return err
	}
	if k, ok := first[keyRow](t.reader, tabKeys, "id", key(old.Project, c.Key)); ok && c.Key != "" && k.Expires.After(t.now) {
		if !bytes.Equal(k.Hash, c.RequestHash) {
			return fmt.Errorf("key %q: %w", c.Key, ErrKeyReused)
		}
		t.result = old
		return nil
	}
	r, err := t.unchanged(c.ID, c.Modified)
	if err != nil {
		return err
	}
	if r.State != api.StateParked {
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	r.State, r.Spec, r.Zone, r.Message = api.StateBooked, c.Spec, c.Zone, ""
	r.Start, r.End, r.Provision = c.Start.UTC(), c.End.UTC(), c.Provision.UTC()
	r.Lead, r.Grace, r.ReadyAt, r.Phases = c.Lead, c.Grace, time.Time{}, nil
	r.Warned = passedWarnings(r, t.now)
	if err := checkTimes(r, t.now); err != nil {
		return err
	}
	for i := range r.Nodes {
		r.Nodes[i].State, r.Nodes[i].Since = NodeWaiting, t.now
	}
	if err := t.reseat(r, c.Seats); err != nil {
		return err
	}
	if c.Key != "" {
		t.put(tabKeys, &keyRow{Project: r.Project, Key: c.Key, Hash: c.RequestHash, Reservation: r.ID, Expires: t.now.Add(KeyLife)})
	}
	t.event(r.ID, "", "reservation.booked", "%s is to come back: %d nodes from %s to %s", r.Name, len(r.Nodes),
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
