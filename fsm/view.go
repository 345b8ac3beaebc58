package fsm

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// View is the state at one index. It is immutable and safe for concurrent use.
// What its methods return shares memory with the state: read it, never write
// through its slices and maps. Lists are in a fixed order.
type View struct {
	reader
	st      stateRow
	changes *changeLog
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
	ix := "name" // that of live ones only
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
	if ix == "name" {
		slices.SortFunc(out, func(a, b Reservation) int { return strings.Compare(a.ID, b.ID) })
	}
	return out
}

// ReservationCount counts the live ones.
func (v *View) ReservationCount() int {
	n := 0
	for range scan[Reservation](v.reader, tabReservations, "name", nil) {
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

// Overruns returns what is still held past its time, because hosts are not clean
// yet.
func (v *View) Overruns() []Booking {
	var out []Booking
	for r := range scan[Reservation](v.reader, tabReservations, "ending", nil) {
		for b := range scan[Booking](v.reader, tabBookings, "id", key(r.ID)) {
			if !b.Until.After(v.st.Clock) {
				out = append(out, *b)
			}
		}
	}
	return out
}

// Steps returns what is booked of a host, or of Identifiers, over time. What it
// returns is never written to.
func (v *View) Steps(host string) []Step { return v.steps(host) }

// StepsAround returns the steps of a host that matter within [from, until), and
// perhaps a few more: the first one may lie before from. It does not copy what
// is booked at other times, as Steps does for a long timeline.
func (v *View) StepsAround(host string, from, until time.Time) []Step {
	return v.stepsAround(host, from.UnixNano(), until.UnixNano())
}

// ChangedHosts returns the hosts whose bookings changed after a Raft index, and
// perhaps some that changed after this View. False if that is not known any more:
// then any may have.
func (v *View) ChangedHosts(after uint64) ([]string, bool) { return v.changes.since(after) }

// ToBind returns promises by when they are to be provisioned: those due by the
// time given, at most limit.
func (v *View) ToBind(by time.Time, limit int) []Reservation {
	var out []Reservation
	for r := range scan[Reservation](v.reader, tabReservations, "bind", nil) {
		if r.Provision.After(by) || len(out) >= limit {
			break
		}
		out = append(out, *r)
	}
	return out
}

// NextBind is when the next promise is to be provisioned, after a time.
func (v *View) NextBind(after time.Time) (time.Time, bool) {
	for r := range from[Reservation](v.reader, tabReservations, "bind", key(after.Add(1))) {
		return r.Provision, true
	}
	return time.Time{}, false
}

// Waitlist returns the waitlisted reservations, first come first.
func (v *View) Waitlist() []Reservation {
	return list(scan[Reservation](v.reader, tabReservations, "waiting", nil))
}

// OfSeries returns the reservations of a series by start, those that are over too.
func (v *View) OfSeries(id string) []Reservation {
	return list(scan[Reservation](v.reader, tabReservations, "series", key(id)))
}

// AllSeries returns all series by id; Series one of them.
func (v *View) AllSeries() []Series { return list(scan[Series](v.reader, tabSeries, "id", nil)) }

// Series returns one series by id.
func (v *View) Series(id string) (Series, bool) { return get[Series](v.reader, tabSeries, key(id)) }

// Holds returns the holds by id.
func (v *View) Holds() []Hold { return list(scan[Hold](v.reader, tabHolds, "id", nil)) }

// OfferByID finds a held offer and its hold.
func (v *View) OfferByID(id string) (Hold, HeldOffer, bool) {
	for h := range scan[Hold](v.reader, tabHolds, "id", nil) {
		for _, o := range h.Offers {
			if o.ID == id {
				return *h, o, true
			}
		}
	}
	return Hold{}, HeldOffer{}, false
}

// BookingsOn returns what is booked of a host at some instant of [from, until).
func (v *View) BookingsOn(host string, start, until time.Time) []Booking {
	var out []Booking
	for b := range from[Booking](v.reader, tabBookings, "host", key(host, start.Add(1))) {
		if b.Host != host {
			break
		}
		if b.From.Before(until) {
			out = append(out, *b)
		}
	}
	return out
}

// OwnersOn returns the ids of the reservations and holds that have a share of the host.
func (v *View) OwnersOn(host string) []string {
	var out []string
	for b := range scan[Booking](v.reader, tabBookings, "host", key(host)) {
		out = append(out, b.Owner)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// HostsIndex is the Raft index of the last change to any host.
func (v *View) HostsIndex() uint64 { return v.st.HostsIndex }

// LastReady returns those that became ready last, the newest first, at most limit.
func (v *View) LastReady(limit int) []Reservation {
	it, err := v.txn.GetReverse(tabReservations, "ready_prefix", []byte(nil))
	must(err)
	var out []Reservation
	for raw := it.Next(); raw != nil && len(out) < limit; raw = it.Next() {
		out = append(out, *raw.(*Reservation))
	}
	return out
}

// Notified is the index up to which owners have been told of events.
func (v *View) Notified() uint64 { return v.st.Notified }

// Used returns what of the host is held at the state's clock.
func (v *View) Used(host string) Amounts {
	now := v.st.Clock.UnixNano()
	return at(v.stepsAround(host, now, now), now).plus(v.overrun(host, v.st.Clock))
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
	for h := range scan[Hold](v.reader, tabHolds, "due", nil) {
		sooner(h.Expires)
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
