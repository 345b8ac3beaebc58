package control

import (
	"cmp"
	"slices"
	"time"

	"vcn/api"
	"vcn/fsm"
)

const (
	// CalendarMax bounds the time that one calendar shows.
	CalendarMax     = 366 * 24 * time.Hour
	calendarDefault = 7 * 24 * time.Hour
)

// Calendar is who holds what of which host in [from, until), and what is free.
// Zero times mean now and a week from then. Of reservations of projects that the
// asker does not see, only amounts are told. project, if not empty, chooses whose
// slots are listed.
func (c *Control) Calendar(from, until time.Time, project string, sees func(string) bool) (api.Calendar, error) {
	if from.IsZero() {
		from = c.now()
	}
	if until.IsZero() {
		until = from.Add(calendarDefault)
	}
	if !until.After(from) || until.Sub(from) > CalendarMax {
		return api.Calendar{}, api.Invalid("one field is wrong", []api.FieldError{{Field: "until", Value: until.Format(time.RFC3339), Want: "a time after from, at most a year"}})
	}
	v, inv := c.planner.snapshot()
	out := api.Calendar{From: from.UTC(), Until: until.UTC(), Hosts: []api.CalendarHost{}, Slots: calendarSlots(v, from, until, project, sees), Free: []api.CalendarFree{}}
	k := &calendarOwners{v: v, sees: sees, known: map[string]api.CalendarSpan{}}
	common := commonNetwork(v)
	for _, h := range v.Hosts() {
		row := api.CalendarHost{Name: h.Name, Classes: h.Classes, CPUs: h.CPUs, Memory: api.Quantity(h.MemoryBytes), Storage: api.Quantity(h.StorageBytes),
			Unusable: cmp.Or(unusable(h), oddNetwork(h, common)), Spans: []api.CalendarSpan{}}
		for _, b := range v.BookingsOn(h.ID, from, until) {
			s := k.of(b.Owner)
			s.From, s.Until, s.CPUs, s.Memory, s.Storage = b.From, b.Until, b.CPUs, api.Quantity(b.MemoryBytes), api.Quantity(b.StorageBytes)
			row.Spans = append(row.Spans, s)
		}
		slices.SortFunc(row.Spans, func(a, b api.CalendarSpan) int {
			return cmp.Or(a.From.Compare(b.From), a.Until.Compare(b.Until), cmp.Compare(a.Reservation, b.Reservation))
		})
		out.Hosts = append(out.Hosts, row)
	}
	slices.SortFunc(out.Hosts, func(a, b api.CalendarHost) int { return cmp.Compare(a.Name, b.Name) })
	for _, f := range inv.FreeOver(from, until) {
		out.Free = append(out.Free, api.CalendarFree{From: f.From.UTC(), CPUs: f.CPUs, Memory: api.Quantity(f.MemoryBytes), Storage: api.Quantity(f.StorageBytes)})
	}
	return out, nil
}

// calendarOwners remembers what may be told of each owner of a booking.
type calendarOwners struct {
	v     *fsm.View
	sees  func(string) bool
	known map[string]api.CalendarSpan
}

func (k *calendarOwners) of(owner string) api.CalendarSpan {
	if s, ok := k.known[owner]; ok {
		return s
	}
	s := api.CalendarSpan{Kind: "hold"}
	if r, ok := k.v.Reservation(owner); ok {
		s.Kind = "reservation"
		if r.State == api.StateParked {
			s.Kind = "parked"
		}
		if k.sees(r.Project) {
			s.Reservation, s.Name, s.Project = r.ID, r.Name, r.Project
		}
	}
	k.known[owner] = s
	return s
}

// CalendarSlots lists the slots of the reservations that may be seen, by start.
func (c *Control) CalendarSlots(from, until time.Time, project string, sees func(string) bool) []api.CalendarSlot {
	return calendarSlots(c.cfg.State.View(), from, until, project, sees)
}

func calendarSlots(v *fsm.View, from, until time.Time, project string, sees func(string) bool) []api.CalendarSlot {
	out := []api.CalendarSlot{}
	for _, r := range v.Reservations(fsm.ReservationFilter{Project: project, Closed: true}) {
		if !sees(r.Project) || !r.Start.Before(until) || !r.End.After(from) && r.State != api.StateParked {
			continue
		}
		if !r.Live() && r.State != api.StateEnded {
			continue
		}
		n := 0
		for _, node := range r.Nodes {
			if node.Role == api.RoleWorker {
				n++
			}
		}
		out = append(out, api.CalendarSlot{ID: r.ID, Name: r.Name, Project: r.Project, State: r.State, Start: r.Start, End: r.End,
			Provision: r.Provision, Zone: r.Zone, Workers: n, Series: r.Series})
	}
	slices.SortFunc(out, func(a, b api.CalendarSlot) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	return out
}
