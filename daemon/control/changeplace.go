package control

import (
	"maps"
	"net/http"
	"slices"

	"vcn/api"
	"vcn/fsm"
	"vcn/placement"
)

// place finds seats for what needs new ones.
func (w *changer) place(keep bool) func() error {
	return func() error {
		switch {
		case len(w.fields) == 0:
			return nil
		case w.r.State == api.StateWaitlisted:
			for i := range w.cmd.Nodes {
				w.cmd.Nodes[i].Host, w.cmd.Nodes[i].Storage = "", ""
			}
			wait := *w.r.Wait
			shift := w.times.start.Sub(w.r.Start)
			wait.Earliest, wait.Latest, wait.Length = wait.Earliest.Add(shift), wait.Latest.Add(max(shift, 0)), w.times.end.Sub(w.times.start)
			w.cmd.Wait = &wait
			return nil
		case w.r.State == api.StateParked:
			return w.placeParked(keep)
		case w.r.State == api.StateBooked:
			return w.placePromise(keep)
		}
		return w.placeRunning(keep)
	}
}

// current takes the planner's view, which is in order with the inventory; the
// record must be what the change was worked out on. It is called with the lock
// held, and returns an inventory without what the reservation holds.
func (w *changer) current() (inv *placement.Inventory, held []placement.Booking, err error) {
	p := w.c.planner
	w.v = p.state.View()
	if now, ok := w.v.Reservation(w.r.ID); !ok || now.Modified != w.r.Modified {
		return nil, nil, fsm.ErrChanged
	}
	inv, held = p.inv.follow(w.v).Clone(), placeBookings(w.v.BookingsOf(w.r.ID))
	inv.Remove(held...)
	return inv, held, nil
}

// placePromise places all nodes anew; those that can keep their seats do. What is
// only renamed, shortened or prolonged keeps its lead time.
func (w *changer) placePromise(keep bool) error {
	p := w.c.planner
	p.mu.Lock()
	defer p.mu.Unlock()
	inv, held, err := w.current()
	if err != nil {
		return err
	}
	if !w.times.start.Equal(w.r.Start) || w.nodesDiffer() {
		d := &draft{recipes: digests(w.cmd.Recipes), nodes: w.cmd.Nodes, pinStorage: w.r.Kept}
		w.times.lead = p.lead.of(w.v, d, w.now)
		w.times.provision = latest(w.times.start.Add(-w.times.lead), earliest(w.now, w.times.start))
	}
	w.cmd.Provision, w.cmd.Lead = w.times.provision, w.times.lead
	q := placeRequest(request(w.cmd.Nodes, true), w.times)
	if same := sameSeats(q.Nodes); seatsGood(w.v, w.r.ID, w.cmd.Nodes) && len(beyond(same.Bookings(q), held)) == 0 {
		w.fly(nil, keep) // it has all that it needs
		return nil
	}
	plan, err := inv.Plan(q)
	if err != nil {
		plan, err = inv.Plan(unpinned(q, w.r.Kept))
	}
	if err != nil {
		return w.refused(inv, held, noFit(err))
	}
	for i, a := range plan.Nodes {
		w.cmd.Nodes[i].Host, w.cmd.Nodes[i].Storage = a.Host, a.Storage
	}
	w.fly(beyond(plan.Bookings(q), held), keep)
	return nil
}

// placeParked keeps disks for longer or shorter where they are.
func (w *changer) placeParked(keep bool) error {
	long := w.cmd.Spec.ParkFor()
	if long == w.r.Spec.ParkFor() {
		return nil
	}
	until := w.r.ParkedAt.Add(long)
	if !until.After(w.now) {
		return api.Invalid("one field is wrong", []api.FieldError{{Field: "atEnd.parkFor", Value: api.FormatDuration(long),
			Want: "more than the time since it was parked, " + w.clock(w.r.ParkedAt)}})
	}
	w.c.planner.mu.Lock()
	defer w.c.planner.mu.Unlock()
	inv, held, err := w.current()
	if err != nil {
		return err
	}
	inv.Add(held...)
	until = until.Add(fsm.Turnaround)
	if free, blocks := inv.Extend(held, until); free.Before(until) && until.After(w.r.ParkedUntil.Add(fsm.Turnaround)) {
		return &api.Problem{Status: http.StatusConflict, Code: api.CodeNoFit, Detail: "its disks cannot be kept for so long", Reasons: w.blockers(blocks),
			Until: w.clock(free.Add(-fsm.Turnaround)), Next: "keep them until " + w.clock(free.Add(-fsm.Turnaround)) + " at most"}
	}
	longer := slices.Clone(held)
	for i := range longer {
		longer[i].Until = until
	}
	w.fly(beyond(longer, held), keep)
	return nil
}

// nodesDiffer is true if what is to be provisioned is not what it was.
func (w *changer) nodesDiffer() bool {
	return !maps.Equal(w.cmd.Recipes, w.r.Recipes) || !slices.EqualFunc(w.cmd.Nodes, w.r.Nodes, func(a, b fsm.Node) bool {
		return a.Name == b.Name && a.CPUs == b.CPUs && a.MemoryBytes == b.MemoryBytes && a.DiskBytes == b.DiskBytes
	})
}

// sameSeats is the plan in which all nodes are where they are pinned to.
func sameSeats(nodes []placement.NodeRequest) placement.Plan {
	var p placement.Plan
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, placement.Assigned{Node: n.Name, Host: n.Host, Storage: n.Storage})
	}
	return p
}

// fly lays what is planned beyond what is held over the inventory until it is in
// the state. It is called with the planner's lock held.
func (w *changer) fly(more []placement.Booking, keep bool) {
	if keep && len(more) > 0 {
		w.flight = changedFlight(&w.r, more)
		w.c.planner.inv.add(w.flight)
	}
}
