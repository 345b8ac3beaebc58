package fsm

import (
	"fmt"
	"slices"
	"time"

	"vcn/api"
)

// ReservationPark ends a running reservation now and keeps its volumes for a
// while. One that is parked and booked again goes back to being parked.
type ReservationPark struct {
	ID  string
	By  string
	For time.Duration
}

var _ = register[ReservationPark](TypeReservationPark, "ReservationPark")

// Type is the command's number.
func (ReservationPark) Type() Type { return TypeReservationPark }

func (c ReservationPark) apply(t *tx) error {
	old, err := t.reservation(c.ID)
	if err != nil {
		return err
	}
	r := clone(old)
	t.result = r
	switch {
	case r.State == api.StateParked, r.State == api.StateEnding && r.Outcome == api.StateParked:
		return nil
	case r.State == api.StateBooked && r.Kept:
		t.parkAgain(r, by("given back", c.By))
		return nil
	case r.State != api.StateActive && r.State != api.StateReady:
		return fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	m, err := t.meta()
	if err != nil {
		return err
	}
	if limit := m.Policy.OrDefault().ParkMax; c.For < time.Hour || c.For > limit {
		return invalid("parking for %s: want 1h-%s", c.For, limit)
	}
	end := api.AtEnd{}
	if r.Spec.AtEnd != nil {
		end = *r.Spec.AtEnd
	}
	end.Action, end.ParkFor = api.EndPark, api.FormatDuration(c.For)
	r.Spec.AtEnd, r.End, r.Grace = &end, t.now, 0
	if r.Start.After(r.End) { // ready, and parked before its start
		r.Start = r.End
	}
	if err := t.checkParkQuota(r, nil); err != nil {
		return err
	}
	r.State, r.Outcome = api.StateEnding, api.StateParked
	if err := t.rebook(r.ID, bookingsOf(r)); err != nil {
		return err
	}
	t.end(r, api.StateParked, by("parked", c.By))
	return nil
}

// checkParkQuota bounds what a project's parked volumes may hold together, those
// included that are promised to be parked. Who was within it and grows no
// larger is not asked again; old may be nil.
func (t *tx) checkParkQuota(r, old *Reservation) error {
	if !parks(r) && !r.Kept {
		return nil
	}
	m, err := t.meta()
	if err != nil {
		return err
	}
	limit, sum := m.Policy.OrDefault().ParkBytes, diskBytes(r)
	if limit == 0 || old != nil && (parks(old) || old.Kept) && sum <= diskBytes(old) {
		return nil
	}
	for o := range scan[Reservation](t.reader, tabReservations, "name", nil) {
		if o.Project == r.Project && o.ID != r.ID && (parks(o) || o.Kept) {
			sum += diskBytes(o)
		}
	}
	if sum > limit {
		return fmt.Errorf("project %s would park %d bytes, and may %d: %w", r.Project, sum, limit, ErrQuota)
	}
	return nil
}

func diskBytes(r *Reservation) (sum int64) {
	for i := range r.Nodes {
		sum += r.Nodes[i].DiskBytes
	}
	return sum
}

// parked takes from a reservation that has ended all but its volumes.
func (t *tx) parked(r *Reservation) {
	t.unlease(r.ID, "")
	until := r.End.Add(r.Grace + r.Spec.ParkFor())
	if resumed(r) { // it was not to be parked now, or not yet
		until = keptUntil(r, t.now)
	}
	r.State, r.Outcome, r.Kept, r.Bound = api.StateParked, "", true, false
	// Not later than its end, also if a dead host held it up for longer than it was
	// to be parked: what it holds must be some span of time, to be known to its hosts.
	r.ParkedAt, r.ParkedUntil, r.StopAt = earliest(t.now, r.End.Add(r.Grace)), until, time.Time{}
	r.Nodes = slices.DeleteFunc(r.Nodes, func(n Node) bool { return n.Leaving }) // with their disks
	r.VLAN, r.Subnet, r.Conditions, r.Notices, r.NodesGone, r.EndIndex = 0, "", nil, nil, false, 0
	closePhases(r, t)
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.Host, n.PrivateMAC, n.PrivateIP, n.PublicMAC, n.PublicIP = "", "", "", "", ""
		n.State, n.Since, n.Message, n.Joining = NodeGone, t.now, "", false
	}
	t.touchAll(r.ID)
	t.rehold(r)
	t.event(r.ID, "", "reservation.parked", "%s: %s; its volumes are kept until %s", r.Name, r.Message, r.ParkedUntil.Format(time.RFC3339))
	t.save(r)
	t.settle(r.ID) // a storage host may be dead
}

// parkAgain gives the slot back that a parked reservation had been booked for.
func (t *tx) parkAgain(r *Reservation, why string) {
	t.touchAll(r.ID)
	r.ParkedUntil = keptUntil(r, t.now)
	r.State, r.Message, r.Conditions = api.StateParked, why, nil
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.Host, n.State, n.Since = "", NodeGone, t.now
	}
	t.rehold(r)
	t.event(r.ID, "", "reservation.parked", "%s is parked again: %s; its volumes are kept until %s", r.Name, why, r.ParkedUntil.Format(time.RFC3339))
	t.save(r)
	t.settle(r.ID) // a storage host may be dead
	if now, err := t.reservation(r.ID); err == nil {
		*r = *now
	}
}

// rehold replaces what the reservation holds by less: that needs no admission.
func (t *tx) rehold(r *Reservation) {
	t.unbookAll(r.ID)
	for _, b := range bookingsOf(r) {
		t.book(b)
	}
}
