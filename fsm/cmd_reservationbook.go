package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"vcn/api"
)

var (
	// ErrNoHold: the hold is not there any more, or not of this project.
	ErrNoHold = errors.New("the offer is not held any more")
	// ErrQuota: the project has as many of these as the operator allows.
	ErrQuota = errors.New("more than the operator allows")
)

// ReservationBook books all of its reservations or none: one, the two of a split
// offer, or the dates of a series. A reservation whose State is waitlisted is
// put into the waitlist. The leader has chosen the seats; Apply checks each again.
type ReservationBook struct {
	Key          string // idempotency key, unique per project; may be empty
	RequestHash  []byte // of the request, to tell a reused key
	Hold         string // id of the hold that they come from; it ends with this. Empty: none
	Series       *Series
	Reservations []Reservation
	Images       []ImageWant
	// Passed are those in the waitlist whose windows they take from: who books
	// directly is behind them, too.
	Passed []string `json:",omitempty"`
	Bind   *Binding // of the first one, which is to be provisioned at once
}

// Binding is what makes a promise concrete, besides the identifiers, which Apply
// chooses.
type Binding struct {
	Volumes []Volume // one of each node that has none
	Secrets map[string][]byte
}

var _ = register[ReservationBook](TypeReservationBook, "ReservationBook")

// Type is the command's number.
func (ReservationBook) Type() Type { return TypeReservationBook }

func (c ReservationBook) apply(t *tx) error {
	if len(c.Reservations) == 0 || len(c.Reservations) > SeriesMax {
		return invalid("%d reservations: want 1-%d", len(c.Reservations), SeriesMax)
	}
	project := c.Reservations[0].Project
	if k, ok := first[keyRow](t.reader, tabKeys, "id", key(project, c.Key)); ok && c.Key != "" && k.Expires.After(t.now) {
		return c.repeat(t, k)
	}
	m, err := t.meta()
	if err != nil {
		return err
	}
	if !m.Formed {
		return ErrNotFormed
	}
	if err := t.takeHold(c.Hold, project); err != nil {
		return err
	}
	if err := t.putSeries(c.Series, project); err != nil {
		return err
	}
	for _, w := range c.Images {
		if err := t.wantImage(w); err != nil {
			return err
		}
	}
	var booked []*Reservation
	for i := range c.Reservations {
		r := clone(&c.Reservations[i])
		if r.Project != project {
			return invalid("reservations of %q and %q in one command", project, r.Project)
		}
		if err := t.bookOne(r, c.Images); err != nil {
			return err
		}
		booked = append(booked, r)
	}
	if err := t.pass(c.Passed, t.now, booked...); err != nil {
		return err
	}
	if c.Key != "" {
		t.put(tabKeys, &keyRow{
			Project: project, Key: c.Key, Hash: c.RequestHash, Reservation: c.Reservations[0].ID, Expires: t.now.Add(KeyLife),
		})
	}
	if c.Bind != nil {
		if err := t.bind(c.Reservations[0].ID, *c.Bind); err != nil {
			return err
		}
	}
	t.result, err = t.reservation(c.Reservations[0].ID)
	return err
}

// repeat answers a request that was seen before.
func (c ReservationBook) repeat(t *tx, k *keyRow) error {
	if !bytes.Equal(k.Hash, c.RequestHash) {
		return fmt.Errorf("key %q: %w", c.Key, ErrKeyReused)
	}
	r, err := t.reservation(k.Reservation)
	t.result = r
	return err
}

// bookOne checks and writes one reservation with what it holds.
func (t *tx) bookOne(r *Reservation, images []ImageWant) error {
	normalize(r, t.now)
	if err := t.checkIdentity(r); err != nil {
		return err
	}
	if r.Series != "" {
		if _, ok := first[Series](t.reader, tabSeries, "id", key(r.Series)); !ok {
			return fmt.Errorf("series %q: %w", r.Series, ErrNotFound)
		}
	}
	if err := t.checkImages(r, images); err != nil {
		return err
	}
	if r.State == api.StateWaitlisted {
		return t.enlist(r)
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
	t.event(r.ID, "", "reservation.booked", "%s: %d nodes from %s to %s", r.Name, len(r.Nodes),
		r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339))
	t.save(r)
	return nil
}

// checkPromise looks at the slot and the seats.
func (t *tx) checkPromise(r *Reservation) error {
	if err := checkTimes(r, t.now); err != nil {
		return err
	}
	return t.checkNodes(r.Nodes)
}

// normalize sets what the FSM keeps itself.
func normalize(r *Reservation, now time.Time) {
	if r.State != api.StateWaitlisted {
		r.State, r.Wait = api.StateBooked, nil
	}
	r.Outcome, r.NodesGone, r.EndIndex, r.Freed = "", false, 0, nil
	r.Start, r.End, r.Provision = r.Start.UTC(), r.End.UTC(), r.Provision.UTC()
	r.Created, r.ReadyAt, r.Closed = now, time.Time{}, time.Time{}
	r.Bound, r.VLAN, r.Subnet, r.Secrets = false, 0, "", nil
	r.Kept, r.ParkedAt, r.ParkedUntil = false, time.Time{}, time.Time{}
	r.Notices, r.Warned, r.StopAt = nil, passedWarnings(r, now), time.Time{}
	r.Conditions, r.Phases = nil, nil
	for i := range r.Nodes {
		fresh(&r.Nodes[i], now)
	}
}

// fresh is a node before anything of it exists.
func fresh(n *Node, now time.Time) {
	n.State, n.Since, n.Message = NodeWaiting, now, ""
	n.Volume, n.PrivateMAC, n.PrivateIP, n.PublicMAC, n.PublicIP = "", "", "", "", ""
	n.Leaving, n.LeaveBy, n.LeaveDue, n.LeaveIndex, n.LeftIndex, n.Joining = false, time.Time{}, false, 0, 0, false
}

// enlist puts a reservation into the waitlist.
func (t *tx) enlist(r *Reservation) error {
	if err := t.waits(r, r.Wait); err != nil {
		return err
	}
	if err := checkShapes(r.Nodes); err != nil {
		return err
	}
	n := 0
	for o := range scan[Reservation](t.reader, tabReservations, "waiting", nil) {
		if o.Project == r.Project {
			n++
		}
	}
	if m, _ := t.meta(); n >= m.Policy.OrDefault().WaitMax {
		return fmt.Errorf("project %s has %d waitlisted reservations: %w", r.Project, n, ErrQuota)
	}
	now := r.Wait
	t.event(r.ID, "", "reservation.waitlisted", "%s waits for %d nodes, to start from %s to %s", r.Name, len(r.Nodes),
		now.Earliest.Format(time.RFC3339), now.Latest.Format(time.RFC3339))
	t.save(r)
	return nil
}

// waits gives a waitlisted reservation its window.
func (t *tx) waits(r *Reservation, window *Wait) error {
	w := window
	if w == nil || w.Length <= 0 || w.Length > SlotMax || w.Earliest.Before(time.Unix(0, 0)) || w.Latest.Before(w.Earliest) ||
		!w.Latest.After(t.now) || w.Latest.After(t.now.Add(HorizonMax)) {
		return invalid("reservation %s waits for %+v", r.ID, w)
	}
	r.Wait = &Wait{Earliest: w.Earliest.UTC(), Latest: w.Latest.UTC(), Length: w.Length, Message: clip(w.Message)}
	r.Start, r.End, r.Provision = r.Wait.Earliest, r.Wait.Earliest.Add(w.Length), r.Wait.Earliest
	for i := range r.Nodes {
		r.Nodes[i].Host, r.Nodes[i].Storage = "", ""
	}
	return nil
}

func (t *tx) putSeries(s *Series, project string) error {
	if s == nil {
		return nil
	}
	if !validID(s.ID) || !validID(s.Name) || s.Project != project {
		return invalid("series %q named %q of project %q", s.ID, s.Name, s.Project)
	}
	if _, dup := first[Series](t.reader, tabSeries, "id", key(s.ID)); dup {
		return fmt.Errorf("series %q: %w", s.ID, ErrExists)
	}
	row := *s
	row.Created = t.now
	t.put(tabSeries, &row)
	return nil
}

// dropSeries forgets a series whose last reservation is forgotten.
func (t *tx) dropSeries(id string) {
	if id == "" {
		return
	}
	for range scan[Reservation](t.reader, tabReservations, "series", key(id)) {
		return
	}
	if s, ok := first[Series](t.reader, tabSeries, "id", key(id)); ok {
		t.del(tabSeries, s)
	}
}
