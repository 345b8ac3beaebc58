package fsm

import (
	"fmt"
	"slices"
	"time"

	"vcn/api"
)

// ReservationChange replaces what an owner may change of a reservation, all of
// it or nothing: slot, nodes, rolls, what happens at the end. Of one that runs,
// new workers join and others leave; the start and the shapes of nodes that
// exist stay.
type ReservationChange struct {
	ID                    string
	Modified              uint64
	By                    string
	Name                  string
	Start, End, Provision time.Time
	Lead, Grace           time.Duration
	Zone                  string
	Wait                  *Wait // of a waitlisted one: its new window
	Spec                  api.Spec
	// Nodes are all that it shall have: those that exist, by name, and new ones
	// with their seats. Those that Leave are among them.
	Nodes   []Node
	Leave   []Leave
	Rolls   []string
	Recipes map[string]string
	Images  []ImageWant
	// Binding is for the new nodes of one that runs.
	Binding Binding
	// Reinstall: every node gets a new disk, and what was on the old ones is
	// lost. Binding is then for all nodes.
	Reinstall bool
}

// Leave is a worker that is to leave a running cluster, once no job runs on it.
// After By, if it is not zero, it goes even if jobs are known to run on it.
type Leave struct {
	Node string
	By   time.Time
}

var _ = register[ReservationChange](TypeReservationChange, "ReservationChange")

// Type is the command's number.
func (ReservationChange) Type() Type { return TypeReservationChange }

func (c ReservationChange) apply(t *tx) error {
	r, err := t.unchanged(c.ID, c.Modified)
	if err != nil {
		return err
	}
	if (c.Reinstall || len(c.Leave) > 0) && !r.Running() {
		return fmt.Errorf("reservation %q is %s, no node of it can leave or be installed anew: %w", r.ID, r.State, ErrState)
	}
	old := clone(r)
	r.Name, r.Spec, r.Zone = c.Name, c.Spec, c.Zone
	if !validID(r.Name) {
		return invalid("reservation name %q", r.Name)
	}
	if err := t.checkName(r); err != nil {
		return err
	}
	for _, w := range c.Images {
		if err := t.wantImage(w); err != nil {
			return err
		}
	}
	switch {
	case r.State == api.StateWaitlisted:
		err = c.waiting(t, r)
	case r.State == api.StateBooked:
		err = c.promise(t, r)
	case r.Running():
		err = c.running(t, r)
	case r.State == api.StateParked:
		err = c.parked(t, r, old)
	default:
		err = fmt.Errorf("reservation %q is %s: %w", r.ID, r.State, ErrState)
	}
	if err != nil {
		return err
	}
	if err := t.checkParkQuota(r, old); err != nil {
		return err
	}
	t.event(r.ID, "", "reservation.changed", "%s: %s: %d nodes from %s to %s", r.Name, by("changed", c.By), len(r.Nodes),
		r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339))
	switch {
	case !r.Running():
	case !old.End.Equal(r.End):
		t.rewarn(r, old.End)
	case !slices.Equal(old.Spec.Warnings(), r.Spec.Warnings()):
		r.Warned = passedWarnings(r, t.now)
	}
	t.save(r)
	t.settle(r.ID)
	t.result, err = t.reservation(r.ID)
	return err
}

// content takes over what the nodes are made of.
func (c ReservationChange) content(t *tx, r *Reservation) error {
	r.Rolls, r.Recipes = c.Rolls, c.Recipes
	return t.checkImages(r, c.Images)
}

func (c ReservationChange) waiting(t *tx, r *Reservation) error {
	if err := c.content(t, r); err != nil {
		return err
	}
	passed := r.Wait.Passed
	r.Nodes, r.Lead, r.Grace = slices.Clone(c.Nodes), c.Lead, c.Grace
	for i := range r.Nodes {
		fresh(&r.Nodes[i], t.now)
	}
	if err := t.waits(r, c.Wait); err != nil {
		return err
	}
	r.Wait.Passed = passed
	return checkShapes(r.Nodes)
}

func (c ReservationChange) promise(t *tx, r *Reservation) error {
	r.Start, r.End, r.Provision, r.Lead, r.Grace = c.Start.UTC(), c.End.UTC(), c.Provision.UTC(), c.Lead, c.Grace
	r.Warned = passedWarnings(r, t.now)
	if r.Kept {
		if err := keptNodes(r, c.Nodes); err != nil {
			return err
		}
	} else {
		if err := c.content(t, r); err != nil {
			return err
		}
		r.Nodes = slices.Clone(c.Nodes)
		for i := range r.Nodes {
			fresh(&r.Nodes[i], t.now)
		}
	}
	if err := t.checkPromise(r); err != nil {
		return err
	}
	return t.rebook(r.ID, bookingsOf(r))
}

// keptNodes takes over seats, cores and memory of nodes whose disks exist.
func keptNodes(r *Reservation, nodes []Node) error {
	if len(nodes) != len(r.Nodes) {
		return invalid("%d nodes, and %d disks are kept", len(nodes), len(r.Nodes))
	}
	for i := range nodes {
		n := &r.Nodes[i]
		if nodes[i].Name != n.Name || nodes[i].DiskBytes != n.DiskBytes || r.State != api.StateParked && nodes[i].Storage != n.Storage {
			return invalid("node %s is not the %s whose disk is kept", nodes[i].Name, n.Name)
		}
		n.CPUs, n.MemoryBytes = nodes[i].CPUs, nodes[i].MemoryBytes
		if r.State == api.StateBooked {
			n.Host = nodes[i].Host
		}
	}
	return nil
}

func (c ReservationChange) parked(t *tx, r, old *Reservation) error {
	if err := keptNodes(r, c.Nodes); err != nil {
		return err
	}
	if keep := r.Spec.ParkFor(); keep != old.Spec.ParkFor() {
		until := r.ParkedAt.Add(keep)
		if !until.After(t.now) || keep > ParkMax {
			return invalid("parked until %s: want a time ahead, at most %s after %s", until, ParkMax, r.ParkedAt)
		}
		r.ParkedUntil = until
	}
	if err := checkShapes(r.Nodes); err != nil {
		return err
	}
	return t.rebook(r.ID, bookingsOf(r))
}

func (c ReservationChange) running(t *tx, r *Reservation) error {
	r.End, r.Grace = c.End.UTC(), c.Grace
	if err := checkEnd(r, t.now); err != nil {
		return err
	}
	before := len(r.Nodes)
	if r.State == api.StateProvisioning && (len(c.Nodes) != before || len(c.Leave) > 0) {
		// The frontend is ready when as many workers are as its seed says.
		return fmt.Errorf("reservation %q is being provisioned, its workers can be changed when it is ready: %w", r.ID, ErrState)
	}
	if err := c.join(t, r); err != nil {
		return err
	}
	if err := c.leave(t, r); err != nil {
		return err
	}
	if c.Reinstall {
		if err := c.reinstall(t, r); err != nil {
			return err
		}
	}
	if err := t.rebook(r.ID, bookingsOf(r)); err != nil {
		return err
	}
	if len(r.Nodes) > before || c.Reinstall {
		if err := t.identify(r); err != nil {
			return err
		}
		if err := t.giveVolumes(r, c.Binding.Volumes); err != nil {
			return err
		}
		r.Secrets = mergeSecrets(r.Secrets, c.Binding.Secrets)
	}
	t.touchAll(r.ID)
	return nil
}

// join appends the nodes that are new.
func (c ReservationChange) join(t *tx, r *Reservation) error {
	have := map[string]*Node{}
	for i := range r.Nodes {
		have[r.Nodes[i].Name] = &r.Nodes[i]
	}
	for i := range c.Nodes {
		n := c.Nodes[i]
		if o := have[n.Name]; o != nil {
			if o.CPUs != n.CPUs || o.MemoryBytes != n.MemoryBytes || o.DiskBytes != n.DiskBytes || o.Appliance != n.Appliance {
				return fmt.Errorf("node %s runs, its shape cannot be changed: %w", n.Name, ErrState)
			}
			delete(have, n.Name)
			continue
		}
		if n.Role != api.RoleWorker {
			return invalid("node %q cannot join a running cluster", n.Name)
		}
		if r.Recipes[n.Appliance] == "" && c.Recipes[n.Appliance] == "" {
			return invalid("node %s is of appliance %q, which has no recipe", n.Name, n.Appliance)
		}
		fresh(&n, t.now)
		n.Joining = true
		if err := t.checkSeat(&n); err != nil {
			return err
		}
		r.Nodes = append(r.Nodes, n)
	}
	if len(have) > 0 {
		return invalid("%d nodes of the reservation are not named: they can only leave", len(have))
	}
	if err := c.content(t, r); err != nil {
		return err
	}
	return checkShapes(r.Nodes)
}

// leave marks the workers that are to be drained, and takes the mark from those
// that are not to leave any more and have not been stopped yet.
func (c ReservationChange) leave(t *tx, r *Reservation) error {
	by := map[string]time.Time{}
	for _, l := range c.Leave {
		if l.By.After(t.now.Add(HorizonMax)) {
			return invalid("node %s is to leave by %s: want at most %s from now", l.Node, l.By, HorizonMax)
		}
		by[l.Node] = l.By.UTC()
	}
	staying := 0
	for i := range r.Nodes {
		n := &r.Nodes[i]
		at, leaves := by[n.Name]
		switch {
		case leaves && n.Role != api.RoleWorker:
			return invalid("node %s is no worker", n.Name)
		case leaves:
			if !n.Leaving {
				n.LeaveIndex = t.index
			}
			n.Leaving, n.LeaveBy, n.LeaveDue = true, at, false
			delete(by, n.Name)
		case n.LeftIndex != 0:
			return fmt.Errorf("node %s has been stopped to leave: %w", n.Name, ErrState)
		default:
			n.Leaving, n.LeaveBy, n.LeaveDue, n.LeaveIndex = false, time.Time{}, false, 0
			if n.Role == api.RoleWorker {
				staying++
			}
		}
	}
	if len(by) > 0 {
		return invalid("%d of the workers that are to leave are not there", len(by))
	}
	if staying == 0 {
		return invalid("no worker would stay")
	}
	return nil
}

// reinstall forgets all disks: their hosts delete them, and new ones are cloned.
func (c ReservationChange) reinstall(t *tx, r *Reservation) error {
	for i := range r.Nodes {
		n := &r.Nodes[i]
		if n.Leaving {
			return fmt.Errorf("node %s is leaving: %w", n.Name, ErrState)
		}
		if v, ok := first[Volume](t.reader, tabVolumes, "id", key(n.Volume)); ok {
			t.del(tabVolumes, v)
		}
		n.Volume = ""
		n.Generation++
		n.State, n.Since, n.Message = NodeWaiting, t.now, ""
	}
	r.State, r.Message, r.ReadyAt = api.StateProvisioning, "being installed anew", time.Time{}
	r.Phases = firstPhases(t.now)
	r.ParkedAt, r.ParkedUntil = time.Time{}, time.Time{} // those disks are no more
	return nil
}
