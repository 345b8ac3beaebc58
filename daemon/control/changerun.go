package control

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
)

// runningNodes works out which workers join and which leave.
func (w *changer) runningNodes() error {
	if w.cmd.Spec.Frontend != w.r.Spec.Frontend {
		return w.conflict("its frontend runs", "park it, change the frontend's cores and memory, and resume it")
	}
	old := map[string]api.WorkerGroup{}
	for _, g := range w.r.Spec.Workers {
		old[g.Name] = g
	}
	for _, g := range w.cmd.Spec.Workers {
		if o, ok := old[g.Name]; ok && o.NodeShape != g.NodeShape {
			return w.conflict("the workers of "+g.Name+" run", "park it, change their cores and memory, and resume it")
		}
	}
	leaving, err := w.leavers()
	if err != nil {
		return err
	}
	w.joiners(leaving)
	if err := w.countsFollow(leaving); err != nil {
		return err
	}
	w.noteLeaving(leaving)
	switch {
	case w.r.State == api.StateProvisioning && len(w.cmd.Leave)+len(w.grown) > 0:
		return w.conflict("it is being provisioned", "change its workers when it is ready")
	case w.cmd.Reinstall && len(w.cmd.Leave) > 0:
		return w.conflict("workers are leaving it", "change its rolls when they are gone, or let them stay (--workers)")
	}
	return nil
}

// noteLeaving says which workers leave, stay after all, and join.
func (w *changer) noteLeaving(leaving map[string]bool) {
	var by time.Time
	if w.ch.Deadline != nil {
		by = w.now.Add(duration(*w.ch.Deadline))
	}
	note := "each is drained in the scheduler, and stopped once no job runs on it; what is on its disk is deleted"
	var gone []string
	for _, n := range w.r.Nodes {
		if !leaving[n.Name] {
			continue
		}
		at := by
		if w.ch.Deadline == nil && n.Leaving {
			at = n.LeaveBy
		}
		w.cmd.Leave = append(w.cmd.Leave, fsm.Leave{Node: n.Name, By: at})
		if !n.Leaving || !at.Equal(n.LeaveBy) {
			gone = append(gone, n.Name)
		}
	}
	if len(gone) > 0 {
		w.note("workers leave", "", strings.Join(gone, " "), api.HowRolling, note)
	}
	var back []string
	for _, n := range w.r.Nodes {
		if n.Leaving && !leaving[n.Name] {
			back = append(back, n.Name)
		}
	}
	if len(back) > 0 {
		w.note("workers stay", "", strings.Join(back, " "), api.HowInPlace, "they are given jobs again")
	}
	if len(w.grown) > 0 {
		var names []string
		for _, n := range w.grown {
			names = append(names, n.Name)
		}
		w.note("workers join", "", strings.Join(names, " "), api.HowRolling, "the scheduler is told when they are there; jobs that run go on")
	}
}

// leavers are the workers that are to leave: those named, and of groups that
// shrink the last ones. Those that leave already go on, unless their group is
// given a count: then as many as it needs stay.
func (w *changer) leavers() (map[string]bool, error) {
	out := map[string]bool{}
	groups := map[string][]fsm.Node{}
	for _, n := range w.r.Nodes[1:] {
		groups[n.Group] = append(groups[n.Group], n)
		if _, given := w.ch.Workers[n.Group]; n.Leaving && (!given || n.LeftIndex != 0) {
			out[n.Name] = true
		}
	}
	for _, name := range w.ch.Remove {
		if !slices.ContainsFunc(w.r.Nodes[1:], func(n fsm.Node) bool { return n.Name == name }) {
			return nil, api.Invalid("one field is wrong", []api.FieldError{{Field: "remove", Value: name, Want: "a worker of " + w.r.Name}})
		}
		out[name] = true
	}
	for group, count := range w.ch.Workers {
		nodes := groups[group]
		staying := len(nodes)
		for _, n := range nodes {
			if out[n.Name] {
				staying--
			}
		}
		// Those that leave already go first, then the last ones.
		slices.SortStableFunc(nodes, func(a, b fsm.Node) int {
			if a.Leaving != b.Leaving {
				if a.Leaving {
					return -1
				}
				return 1
			}
			return cmp.Compare(number(b.Name), number(a.Name))
		})
		for _, n := range nodes {
			if staying > count && !out[n.Name] {
				out[n.Name] = true
				staying--
			}
		}
	}
	return out, nil
}

// number is the worker's number, at the end of its name.
func number(name string) int {
	n, _ := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	return n
}

// joiners adds the workers that groups lack, with the lowest free numbers.
func (w *changer) joiners(leaving map[string]bool) {
	taken := map[string]bool{}
	staying := map[string]int{}
	for _, n := range w.r.Nodes {
		taken[n.Name] = true
		if !leaving[n.Name] {
			staying[n.Group]++
		}
	}
	for _, g := range w.cmd.Spec.Workers {
		count, given := w.ch.Workers[g.Name]
		if !given {
			continue
		}
		for i := 0; staying[g.Name] < count; i++ {
			name := g.Name + "-" + strconv.Itoa(i)
			if taken[name] {
				continue
			}
			taken[name] = true
			staying[g.Name]++
			w.grown = append(w.grown, fsm.Node{Name: name, Role: api.RoleWorker, Group: g.Name, Appliance: g.Appliance,
				CPUs: g.CPUs, MemoryBytes: int64(g.Memory), DiskBytes: int64(g.Disk), Generation: 1})
		}
	}
	w.cmd.Nodes = append(w.cmd.Nodes, w.grown...)
}

// countsFollow makes the specification say how many there will be.
func (w *changer) countsFollow(leaving map[string]bool) error {
	count := map[string]int{}
	for _, n := range w.cmd.Nodes[1:] {
		if !leaving[n.Name] {
			count[n.Group]++
		}
	}
	total := 0
	w.cmd.Spec.Workers = slices.Clone(w.cmd.Spec.Workers)
	for i := range w.cmd.Spec.Workers {
		g := &w.cmd.Spec.Workers[i]
		g.Count = count[g.Name]
		total += g.Count
	}
	w.cmd.Spec.Workers = slices.DeleteFunc(w.cmd.Spec.Workers, func(g api.WorkerGroup) bool { return g.Count == 0 })
	if total == 0 {
		return w.conflict("no worker would stay", "keep one, or release it")
	}
	return nil
}

// placeRunning keeps every node where it is, until the new end, and finds seats
// for new ones.
func (w *changer) placeRunning(keep bool) error {
	p := w.c.planner
	p.mu.Lock()
	defer p.mu.Unlock()
	inv, held, err := w.current()
	if err != nil {
		return err
	}
	times := w.times
	times.provision = w.now
	q := placeRequest(request(w.cmd.Nodes, true), times)
	q.Stay = true // hosts that are dead or cordoned keep what they have
	if !q.From.Before(q.Until) {
		return w.conflict("its slot is over", "reserve another one")
	}
	plan := sameSeats(q.Nodes)
	if len(w.grown) > 0 || len(beyond(plan.Bookings(q), held)) > 0 {
		if plan, err = inv.Plan(q); err != nil {
			return w.refused(inv, held, noFit(err))
		}
	}
	for i, a := range plan.Nodes {
		w.cmd.Nodes[i].Host, w.cmd.Nodes[i].Storage = a.Host, a.Storage
	}
	fresh := w.cmd.Nodes[len(w.cmd.Nodes)-len(w.grown):]
	if w.cmd.Reinstall {
		fresh = slices.Clone(w.cmd.Nodes)
		for i := range fresh {
			fresh[i].Volume = ""
		}
	}
	if len(fresh) > 0 {
		r := w.r
		r.Rolls = w.cmd.Rolls
		if w.cmd.Binding, err = p.binding(&r, fresh); err != nil {
			return err
		}
	}
	w.fly(beyond(plan.Bookings(q), held), keep)
	return nil
}
