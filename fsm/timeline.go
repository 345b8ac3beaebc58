package fsm

import (
	"time"
)

// segment is the sum of all bookings of a host in [From, the next segment's
// From). Segments with equal sums beside each other are one, and an idle host
// has none, so the timeline is a function of the set of bookings.
//
// Admission walks only the segments inside the asked window: its cost does not
// grow with what is booked elsewhere, at other times or before.
type segment struct {
	Host         string
	From         time.Time
	CPUs         int
	MemoryBytes  int64
	StorageBytes int64
}

func (s *segment) same(o *segment) bool {
	return s.CPUs == o.CPUs && s.MemoryBytes == o.MemoryBytes && s.StorageBytes == o.StorageBytes
}

// segmentAt returns the sums that hold at the instant.
func (r reader) segmentAt(host string, at time.Time) segment {
	it, err := r.txn.ReverseLowerBound(tabTimeline, "id", key(host, at))
	must(err)
	if raw := it.Next(); raw != nil {
		if s := raw.(*segment); s.Host == host {
			return *s
		}
	}
	return segment{Host: host}
}

// segmentsIn yields the segments that overlap [from, until), the first one
// clipped to from.
func (r reader) segmentsIn(host string, start, until time.Time) func(func(segment) bool) {
	return func(yield func(segment) bool) {
		s := r.segmentAt(host, start)
		s.From = start
		if !yield(s) {
			return
		}
		for n := range from[segment](r, tabTimeline, "id", key(host, start.Add(1))) {
			if n.Host != host || !n.From.Before(until) || !yield(*n) {
				return
			}
		}
	}
}

// book adds b to the table and the timeline; unbook takes it away.
func (t *tx) book(b *Booking) {
	t.put(tabBookings, b)
	t.shift(b, 1)
}

func (t *tx) unbook(b *Booking) {
	t.del(tabBookings, b)
	t.shift(b, -1)
}

func (t *tx) shift(b *Booking, sign int) {
	var changed []segment
	for s := range t.segmentsIn(b.Host, b.From, b.Until) {
		changed = append(changed, s)
	}
	after := t.segmentAt(b.Host, b.Until)
	after.From = b.Until
	before := t.segmentAt(b.Host, b.From.Add(-1))
	for _, s := range changed {
		s.CPUs += sign * b.CPUs
		s.MemoryBytes += int64(sign) * b.MemoryBytes
		s.StorageBytes += int64(sign) * b.StorageBytes
		t.setSegment(s, &before)
		before = s
	}
	t.setSegment(after, &before)
}

// setSegment writes s, or removes it if it says the same as the one before.
func (t *tx) setSegment(s segment, before *segment) {
	old, had := first[segment](t.reader, tabTimeline, "id", key(s.Host, s.From))
	if s.same(before) {
		if had {
			t.del(tabTimeline, old)
		}
		return
	}
	t.put(tabTimeline, &s)
}

// overrun sums what reservations still hold of a host past their time: those
// that are ending and not yet clean. They stand at the front of the host's
// bookings by Until.
func (r reader) overrun(host string, clock time.Time) (sum Booking) {
	for b := range scan[Booking](r, tabBookings, "host", key(host)) {
		if b.Until.After(clock) {
			break
		}
		sum.CPUs += b.CPUs
		sum.MemoryBytes += b.MemoryBytes
		sum.StorageBytes += b.StorageBytes
	}
	return sum
}
