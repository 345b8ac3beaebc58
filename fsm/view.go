package fsm

import (
	"bytes"
	"slices"
	"time"

	"vcn/api"
)

// View is the state at one index. It is immutable and safe for concurrent use.
// What its methods return shares memory with the state: read it, never write
// through its slices and maps. Lists are in a fixed order.
type View struct {
	reader
	st stateRow
}

// Index is the Raft index of the last command applied.
func (v *View) Index() uint64 { return v.st.Index }

// Clock is the state's time: never earlier than any leader's stamp so far.
func (v *View) Clock() time.Time { return v.st.Clock }

// Meta is the record about the whole; false before ClusterInit.
func (v *View) Meta() (Meta, bool) { return get[Meta](v.reader, tabMeta, theOne) }

func get[T any](r reader, table string, k []byte) (T, bool) {
	if row, ok := first[T](r, table, "id", k); ok {
		return *row, true
	}
	var zero T
	return zero, false
}

func list[T any](seq func(func(*T) bool)) []T {
	var out []T
	for row := range seq {
		out = append(out, *row)
	}
	return out
}

// Host returns one host by id.
func (v *View) Host(id string) (Host, bool) { return get[Host](v.reader, tabHosts, key(id)) }

// HostByName returns one host by name.
func (v *View) HostByName(name string) (Host, bool) {
	if h, ok := first[Host](v.reader, tabHosts, "name", key(name)); ok {
		return *h, true
	}
	return Host{}, false
}

// Hosts returns all hosts by id.
func (v *View) Hosts() []Host { return list(scan[Host](v.reader, tabHosts, "id", nil)) }

// HostStatus returns the host's last report; false if it never made one.
func (v *View) HostStatus(host string) (HostStatus, bool) {
	r, ok := first[reportRow](v.reader, tabReports, "id", key(host))
	if !ok {
		return HostStatus{}, false
	}
	s := HostStatus{Host: host, Applied: r.Applied, Time: r.Time}
	for o := range scan[objectRow](v.reader, tabObjects, "id", key(host)) {
		s.Objects = append(s.Objects, o.Object)
	}
	return s, true
}

// Object returns what the host last said of one thing it holds.
func (v *View) Object(host, kind, id string) (Object, bool) {
	o, ok := v.object(host, kind, id)
	if !ok {
		return Object{}, false
	}
	return o.Object, true
}

func (r reader) object(host, kind, id string) (*objectRow, bool) {
	return first[objectRow](r, tabObjects, "id", key(host, kind, id))
}

// Reservation returns one by id, live or closed.
func (v *View) Reservation(id string) (Reservation, bool) {
	return get[Reservation](v.reader, tabReservations, key(id))
}

// ReservationByName returns the project's live reservation of that name.
func (v *View) ReservationByName(project, name string) (Reservation, bool) {
	if r, ok := first[Reservation](v.reader, tabReservations, "name", key(project, name)); ok {
		return *r, true
	}
	return Reservation{}, false
}

// ReservationFilter chooses reservations. The zero value is all live ones.
type ReservationFilter struct {
	Project string // empty: every project
	Closed  bool   // also ended, failed and cancelled ones
	Placed  bool   // only those of which hosts may have something
}

// Reservations returns those chosen, by id.
func (v *View) Reservations(f ReservationFilter) []Reservation {
	ix := "live"
	switch {
	case f.Placed:
		ix = "placed"
	case f.Closed:
		ix = "id"
	}
	var out []Reservation
	for r := range scan[Reservation](v.reader, tabReservations, ix, nil) {
		if f.Project == "" || f.Project == r.Project {
			out = append(out, *r)
		}
	}
	return out
}

// ReservationCount counts the live ones.
func (v *View) ReservationCount() int {
	n := 0
	for range scan[Reservation](v.reader, tabReservations, "live", nil) {
		n++
	}
	return n
}

// Volumes returns the reservation's volumes by id; of all with "".
func (v *View) Volumes(reservation string) []Volume {
	if reservation == "" {
		return list(scan[Volume](v.reader, tabVolumes, "id", nil))
	}
	return list(scan[Volume](v.reader, tabVolumes, "reservation", key(reservation)))
}

// Volume returns one by id.
func (v *View) Volume(id string) (Volume, bool) { return get[Volume](v.reader, tabVolumes, key(id)) }

// Leases returns all leases by kind and value.
func (v *View) Leases() []Lease { return list(scan[Lease](v.reader, tabLeases, "id", nil)) }

// Images returns all images by recipe.
func (v *View) Images() []Image { return list(scan[Image](v.reader, tabImages, "id", nil)) }

// Image returns one by recipe.
func (v *View) Image(recipe string) (Image, bool) {
	return get[Image](v.reader, tabImages, key(recipe))
}

// ImageHosts returns the ids of the hosts that report the recipe's image
// whole, dead ones too.
func (v *View) ImageHosts(recipe string) []string {
	var out []string
	for o := range scan[objectRow](v.reader, tabObjects, "image", key(recipe)) {
		if o.State == ObjReady && !o.BootOnly {
			out = append(out, o.Host)
		}
	}
	return out
}

// Rolls returns all registered rolls by name and version.
func (v *View) Rolls() []Roll { return list(scan[Roll](v.reader, tabRolls, "id", nil)) }

// Tokens returns all tokens by id, expired ones too.
func (v *View) Tokens() []Token { return list(scan[Token](v.reader, tabTokens, "id", nil)) }

// TokenByID returns one token, expired or not.
func (v *View) TokenByID(id string) (Token, bool) { return get[Token](v.reader, tabTokens, key(id)) }

// Events returns at most limit events with an index above after, oldest first;
// of one reservation, or of all with "". Events of one index stay together, so
// that asking again after the last index misses none: the list may be longer
// than limit by the rest of that index.
func (v *View) Events(after uint64, limit int, reservation string) []Event {
	ix, k := "id", key(after+1)
	if reservation != "" {
		ix, k = "reservation", key(reservation, after+1)
	}
	var out []Event
	for e := range from[Event](v.reader, tabEvents, ix, k) {
		if reservation != "" && e.Reservation != reservation {
			break
		}
		if len(out) >= limit && (len(out) == 0 || out[len(out)-1].Index != e.Index) {
			break
		}
		out = append(out, *e)
	}
	return out
}

// LastEvents returns the newest events, oldest first: at most limit of them.
func (v *View) LastEvents(limit int, reservation string) []Event {
	ix, k := "id", bytes.Repeat([]byte{0xff}, 16)
	if reservation != "" {
		ix, k = "reservation", append(key(reservation), k...)
	}
	it, err := v.txn.ReverseLowerBound(tabEvents, ix, k)
	must(err)
	var out []Event
	for raw := it.Next(); raw != nil && len(out) < limit; raw = it.Next() {
		e := raw.(*Event)
		if reservation != "" && e.Reservation != reservation {
			break
		}
		out = append(out, *e)
	}
	slices.Reverse(out)
	return out
}

// Bookings returns what live reservations hold of hosts, for placement. One
// that has overrun its time, because its hosts are not clean yet, holds on
// until a Turnaround from now.
func (v *View) Bookings() []Booking {
	var out []Booking
	for b := range scan[Booking](v.reader, tabBookings, "host", nil) {
		c := *b
		if !c.Until.After(v.st.Clock) {
			c.Until = v.st.Clock.Add(Turnaround)
		}
		out = append(out, c)
	}
	return out
}

// BookingsOf returns what one reservation holds, by host.
func (v *View) BookingsOf(reservation string) []Booking {
	return list(scan[Booking](v.reader, tabBookings, "id", key(reservation)))
}

// Used returns what of the host is held at the state's clock.
func (v *View) Used(host string) Booking {
	s := v.segmentAt(host, v.st.Clock)
	o := v.overrun(host, v.st.Clock)
	return Booking{Host: host, CPUs: s.CPUs + o.CPUs, MemoryBytes: s.MemoryBytes + o.MemoryBytes,
		StorageBytes: s.StorageBytes + o.StorageBytes}
}

// NextDeadline returns when the next ClockAdvance is due; false if nothing
// waits for time.
func (v *View) NextDeadline() (time.Time, bool) {
	var at time.Time
	sooner := func(d time.Time) {
		if at.IsZero() || d.Before(at) {
			at = d
		}
	}
	for r := range scan[Reservation](v.reader, tabReservations, "due", nil) {
		d, _ := due(r)
		sooner(d)
		break
	}
	for k := range scan[keyRow](v.reader, tabKeys, "due", nil) {
		sooner(k.Expires)
		break
	}
	for t := range scan[Token](v.reader, tabTokens, "due", nil) {
		sooner(t.Expires.Add(TokenGrace))
		break
	}
	return at, !at.IsZero()
}

// due is when time will next change the reservation.
func due(r *Reservation) (time.Time, bool) {
	switch r.State {
	case api.StateWaitlisted:
		return r.End, true
	case api.StateBooked:
		return r.Provision, true
	case api.StateReady:
		return r.Start, true
	case api.StateProvisioning, api.StateActive:
		return r.End, true
	case api.StateEnding:
		return time.Time{}, false
	}
	return r.Closed.Add(ClosedLife), true
}
