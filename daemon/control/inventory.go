package control

import (
	"cmp"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// inventory is what plans are placed on: the state's timelines, followed change
// by change, with the plans in flight and what overruns its time laid over them.
// It is used under the planner's lock; a Clone of inv may be read without it.
type inventory struct {
	inv     *placement.Inventory
	index   uint64 // of the state that the timelines are of
	hosts   uint64 // of the state that the hosts are of
	pools   int
	known   map[string]bool     // hosts
	overrun []placement.Booking // laid over now
	flights map[*flight]bool    // laid over now
}

// flight is a plan that is placed and perhaps not yet in the state.
type flight struct {
	id       string // of the reservation or hold
	bookings []placement.Booking
	builders []string // hosts chosen to build
	recipes  []string // that they build
	// landed is true of a state that has it; done is set once it is known to be there.
	landed func(v *fsm.View) bool
	done   bool
}

// changedFlight is a flight that lands when the record is not any more what it
// was planned on.
func changedFlight(r *fsm.Reservation, bookings []placement.Booking) *flight {
	id, modified := r.ID, r.Modified
	return &flight{id: id, bookings: bookings, landed: func(v *fsm.View) bool {
		now, ok := v.Reservation(id)
		return !ok || now.Modified > modified
	}}
}

// follow brings the inventory up to the state. States come in order: whoever
// calls it takes the View under the planner's lock.
func (i *inventory) follow(v *fsm.View) *placement.Inventory {
	if i.inv != nil && v.Index() == i.index {
		return i.inv
	}
	hosts, known := v.ChangedHosts(i.index)
	fresh := i.inv == nil || v.Index() < i.index || !known // all is made anew
	if fresh {
		*i = inventory{inv: placement.New(nil, nil), flights: i.flights}
	}
	// What is laid over is taken off first: a timeline that is replaced does not
	// have it any more.
	i.inv.Remove(i.overrun...)
	i.overrun = nil
	changed := i.setHosts(v)
	if !fresh {
		for _, host := range hosts {
			i.inv.SetSteps(host, placeSteps(v.Steps(host)))
			changed[host] = true
		}
	}
	i.fly(v, func(host string) bool { return fresh || changed[host] })
	i.overrun = overruns(v)
	i.inv.Add(i.overrun...)
	i.index = v.Index()
	return i.inv
}

// overruns is what is held past its time, one booking of each host: it is expected
// to be free a Turnaround from now.
func overruns(v *fsm.View) []placement.Booking {
	var out []placement.Booking
	at := map[string]int{}
	for _, b := range v.Overruns() {
		k, ok := at[b.Host]
		if !ok {
			k = len(out)
			at[b.Host] = k
			out = append(out, placement.Booking{Host: b.Host, From: v.Clock(), Until: v.Clock().Add(fsm.Turnaround)})
		}
		o := &out[k]
		o.CPUs += b.CPUs
		o.MemoryBytes += b.MemoryBytes
		o.StorageBytes += b.StorageBytes
		o.Clusters += b.Clusters
	}
	return out
}

// fly lays the flights that have not landed over the timelines that were
// replaced, and takes the others off those that were not.
func (i *inventory) fly(v *fsm.View, replaced func(host string) bool) {
	for f := range i.flights {
		gone := f.done || f.landed(v)
		for _, b := range f.bookings {
			switch {
			case gone && !replaced(b.Host):
				i.inv.Remove(b)
			case !gone && replaced(b.Host):
				i.inv.Add(b)
			}
		}
		if gone {
			delete(i.flights, f)
		}
	}
}

// setHosts replaces the hosts where that is needed, and returns those that were
// unknown: their timelines are set, as what was booked on them before is not
// among the changes to come.
func (i *inventory) setHosts(v *fsm.View) map[string]bool {
	changed := map[string]bool{}
	clusters := 0
	if m, ok := v.Meta(); ok {
		clusters = m.Pools.Clusters()
	}
	if i.known != nil && v.HostsIndex() == i.hosts && clusters == i.pools {
		return changed
	}
	hosts := append(placeHosts(v), placement.Host{ID: placement.IdentifiersHost, Name: "the pools of identifiers", Clusters: clusters})
	i.inv.SetHosts(hosts)
	known := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		known[h.ID] = true
		if !i.known[h.ID] {
			i.inv.SetSteps(h.ID, placeSteps(v.Steps(h.ID)))
			changed[h.ID] = true
		}
	}
	i.hosts, i.pools, i.known = v.HostsIndex(), clusters, known
	return changed
}

// add lays a flight over.
func (i *inventory) add(f *flight) {
	if i.flights == nil {
		i.flights = map[*flight]bool{}
	}
	i.flights[f] = true
	i.inv.Add(f.bookings...)
}

// cancel takes a flight off.
func (i *inventory) cancel(f *flight) {
	i.inv.Remove(f.bookings...)
	delete(i.flights, f)
}

// placeSteps is the state's timeline as placement has it.
func placeSteps(steps []fsm.Step) []placement.Step {
	out := make([]placement.Step, len(steps))
	for i, s := range steps {
		out[i] = placement.Step{At: s.At, CPUs: s.CPUs, MemoryBytes: s.MemoryBytes, StorageBytes: s.StorageBytes, Clusters: s.Clusters}
	}
	return out
}

// placeBookings is what a reservation holds as placement has it.
func placeBookings(list []fsm.Booking) []placement.Booking {
	out := make([]placement.Booking, len(list))
	for i, b := range list {
		out[i] = placement.Booking{Host: b.Host, From: b.From, Until: b.Until,
			CPUs: b.CPUs, MemoryBytes: b.MemoryBytes, StorageBytes: b.StorageBytes, Clusters: b.Clusters}
	}
	return out
}

// beyond is what wanted holds more than held does, of each host at each instant
// and of each resource by itself: what is in the way of others until a change is
// in the state, beside what was held before.
func beyond(wanted, held []placement.Booking) []placement.Booking {
	type event struct {
		at         int64
		want, held placement.Step
	}
	events := map[string][]event{}
	note := func(list []placement.Booking, set func(e *event, sign int, b *placement.Booking)) {
		for k := range list {
			b := &list[k]
			from, until := event{at: b.From.UnixNano()}, event{at: b.Until.UnixNano()}
			if from.at >= until.at {
				continue
			}
			set(&from, 1, b)
			set(&until, -1, b)
			events[b.Host] = append(events[b.Host], from, until)
		}
	}
	sum := func(s *placement.Step, sign int, b *placement.Booking) {
		s.CPUs += sign * b.CPUs
		s.MemoryBytes += int64(sign) * b.MemoryBytes
		s.StorageBytes += int64(sign) * b.StorageBytes
		s.Clusters += sign * b.Clusters
	}
	note(wanted, func(e *event, sign int, b *placement.Booking) { sum(&e.want, sign, b) })
	note(held, func(e *event, sign int, b *placement.Booking) { sum(&e.held, sign, b) })
	var out []placement.Booking
	for host, list := range events { // sorted below
		slices.SortFunc(list, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		var now placement.Step // wanted less held
		for k, e := range list {
			now.CPUs += e.want.CPUs - e.held.CPUs
			now.MemoryBytes += e.want.MemoryBytes - e.held.MemoryBytes
			now.StorageBytes += e.want.StorageBytes - e.held.StorageBytes
			now.Clusters += e.want.Clusters - e.held.Clusters
			if k+1 == len(list) || list[k+1].at == e.at {
				continue
			}
			b := placement.Booking{Host: host, From: time.Unix(0, e.at).UTC(), Until: time.Unix(0, list[k+1].at).UTC(),
				CPUs: max(now.CPUs, 0), MemoryBytes: max(now.MemoryBytes, 0), StorageBytes: max(now.StorageBytes, 0), Clusters: max(now.Clusters, 0)}
			if b.CPUs > 0 || b.MemoryBytes > 0 || b.StorageBytes > 0 || b.Clusters > 0 {
				out = append(out, b)
			}
		}
	}
	slices.SortFunc(out, func(a, b placement.Booking) int { return cmp.Or(cmp.Compare(a.Host, b.Host), a.From.Compare(b.From)) })
	return out
}

// slotTimes is when a slot begins and ends, and what is held around it.
type slotTimes struct {
	start, end, provision time.Time
	lead, grace           time.Duration
	parkFor               time.Duration // zero: released at its end
}

// until is how long hosts are held.
func (s slotTimes) until() time.Time { return s.end.Add(s.grace + fsm.Turnaround) }

// timesOf is the slot of a reservation.
func timesOf(r *fsm.Reservation) slotTimes {
	s := slotTimes{start: r.Start, end: r.End, provision: r.Provision, lead: r.Lead, grace: r.Grace}
	if r.Spec.AtEnd != nil && r.Spec.AtEnd.Action == api.EndPark {
		s.parkFor = r.Spec.ParkFor()
	}
	return s
}
