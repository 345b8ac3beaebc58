package fsm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"vcn/api"
)

var (
	// ErrNotFormed: the expected voters have not all joined yet.
	ErrNotFormed = errors.New("cluster is still forming")
	// ErrKeyReused: the idempotency key came before with another request.
	ErrKeyReused = errors.New("idempotency key was used for another request")
	// ErrNoCapacity: a host has not enough cores, memory or storage at some
	// instant, or the identifiers are all promised. Placement ran on a view that
	// is now old: plan again.
	ErrNoCapacity = errors.New("no capacity")
	// ErrHostUnfit: a host is dead, cordoned, or of the wrong class.
	ErrHostUnfit = errors.New("host is unfit")
	// ErrUnknownImage: a recipe neither has a record nor is asked for.
	ErrUnknownImage = errors.New("unknown image")
	// ErrChanged: the record is not any more what the command was made for.
	ErrChanged = errors.New("changed meanwhile")
)

// bookingsOf is what a live reservation holds of each host over time, in the
// order of hosts. It is a function of the record alone.
func bookingsOf(r *Reservation) []*Booking {
	var out []*Booking
	switch {
	case r.State == api.StateWaitlisted || !r.Live():
		return nil
	case r.State == api.StateParked, r.State == api.StateEnding && !r.Bound: // volumes, and nothing else
		out = promised(r.ID, r.Nodes, time.Time{}, time.Time{}, r.ParkedAt, r.ParkedUntil.Add(Turnaround), false)
	case r.Kept, resumed(r): // its volumes lie there already
		out = promised(r.ID, r.Nodes, r.Provision, heldUntil(r), r.ParkedAt, storageUntil(r), true)
	default:
		out = promised(r.ID, r.Nodes, r.Provision, heldUntil(r), r.Provision, storageUntil(r), true)
	}
	return slices.DeleteFunc(out, func(b *Booking) bool { return slices.Contains(r.Freed, b.Host) })
}

func heldUntil(r *Reservation) time.Time { return r.End.Add(r.Grace + Turnaround) }

// storageUntil is how long the volumes are held: also while they will be parked.
func storageUntil(r *Reservation) time.Time {
	until := heldUntil(r)
	if parks(r) {
		until = until.Add(r.Spec.ParkFor())
	}
	if again := r.ParkedUntil.Add(Turnaround); (r.Kept || resumed(r)) && again.After(until) {
		until = again
	}
	return until
}

// resumed is true of one that comes back from being parked, until it has been
// ready again: what fails by then must not cost its owner the disks.
func resumed(r *Reservation) bool { return !r.ParkedAt.IsZero() && r.ReadyAt.IsZero() }

// keptUntil is how long the volumes are kept of one that goes back to being
// parked: as it was promised or, where that is over by now, for as long as its
// slot would have held them. Either is within what it holds already.
func keptUntil(r *Reservation, now time.Time) time.Time {
	if r.ParkedUntil.After(now) {
		return r.ParkedUntil
	}
	return storageUntil(r).Add(-Turnaround)
}

// parks is true if the volumes are to be kept at the end.
func parks(r *Reservation) bool {
	if r.State == api.StateEnding {
		return r.Outcome == api.StateParked
	}
	return r.Spec.AtEnd != nil && r.Spec.AtEnd.Action == api.EndPark
}

// promised sums seats: cores and memory in [from, until), storage in [storageFrom, storageUntil).
func promised(owner string, nodes []Node, from, until, storageFrom, storageUntil time.Time, cluster bool) []*Booking {
	type span struct {
		host        string
		from, until int64
	}
	sums := map[span]*Booking{}
	of := func(host string, from, until time.Time) *Booking {
		k := span{host, from.UnixNano(), until.UnixNano()}
		b, ok := sums[k]
		if !ok {
			b = &Booking{Host: host, Owner: owner, From: from, Until: until}
			sums[k] = b
		}
		return b
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Host != "" && from.Before(until) {
			b := of(n.Host, from, until)
			b.CPUs += n.CPUs
			b.MemoryBytes += n.MemoryBytes
		}
		if n.Storage != "" && storageFrom.Before(storageUntil) {
			of(n.Storage, storageFrom, storageUntil).StorageBytes += n.DiskBytes
		}
	}
	if cluster && from.Before(until) {
		of(Identifiers, from, until).Clusters = 1
	}
	out := make([]*Booking, 0, len(sums))
	for _, k := range slices.SortedFunc(maps.Keys(sums), func(a, b span) int {
		return compareBookings(sums[a], sums[b])
	}) {
		out = append(out, sums[k])
	}
	return out
}

func compareBookings(a, b *Booking) int {
	if c := slices.Compare([]string{a.Host}, []string{b.Host}); c != 0 {
		return c
	}
	if c := a.From.Compare(b.From); c != 0 {
		return c
	}
	return a.Until.Compare(b.Until)
}

func (t *tx) checkIdentity(r *Reservation) error {
	if !validID(r.ID) || !validID(r.Name) || !validID(r.Project) {
		return invalid("reservation %q named %q of project %q", r.ID, r.Name, r.Project)
	}
	if _, dup := first[Reservation](t.reader, tabReservations, "id", key(r.ID)); dup {
		return fmt.Errorf("reservation %q: %w", r.ID, ErrExists)
	}
	return t.checkName(r)
}

func (t *tx) checkName(r *Reservation) error {
	if o, taken := first[Reservation](t.reader, tabReservations, "name", key(r.Project, r.Name)); taken && o.ID != r.ID {
		return fmt.Errorf("%q is the name of reservation %s of project %s: %w", r.Name, o.ID, r.Project, ErrNameTaken)
	}
	return nil
}

// checkTimes looks at the slot of a reservation that has not begun.
func checkTimes(r *Reservation, now time.Time) error {
	switch {
	case r.Provision.Before(now.Add(-LeadMax)):
		return invalid("provisioning time %s is too long ago", r.Provision)
	case r.Start.Before(r.Provision) || r.Start.Sub(r.Provision) > LeadMax:
		return invalid("start %s: want at most %s after provisioning at %s", r.Start, LeadMax, r.Provision)
	case r.Lead < 0 || r.Lead > LeadMax:
		return invalid("lead time %s: want 0s-%s", r.Lead, LeadMax)
	}
	return checkEnd(r, now)
}

func checkEnd(r *Reservation, now time.Time) error {
	switch {
	case !r.End.After(r.Start) || r.End.Sub(r.Start) > SlotMax:
		return invalid("end %s: want at most %s after start %s", r.End, SlotMax, r.Start)
	case !r.End.After(now) || r.End.After(now.Add(HorizonMax)):
		return invalid("end %s: want a time ahead", r.End)
	case r.Grace < 0 || r.Grace > GraceMax:
		return invalid("grace %s: want 0s-%s", r.Grace, GraceMax)
	case r.Spec.ParkFor() > ParkMax:
		return invalid("parking for %s: want at most %s", r.Spec.ParkFor(), ParkMax)
	}
	return nil
}

// checkNodes looks at names, roles and shapes, and at the hosts of all seats.
func (t *tx) checkNodes(nodes []Node) error {
	if err := checkShapes(nodes); err != nil {
		return err
	}
	for i := range nodes {
		if err := t.checkSeat(&nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkShapes(nodes []Node) error {
	if len(nodes) < 1 || len(nodes) > NodesMax {
		return invalid("%d nodes: want 1-%d", len(nodes), NodesMax)
	}
	names := make(map[string]bool, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		switch {
		case i == 0 && n.Role != api.RoleFrontend:
			return invalid("first node %q is no frontend", n.Name)
		case i > 0 && n.Role != api.RoleWorker:
			return invalid("node %q is no worker", n.Name)
		case !validID(n.Name) || names[n.Name]:
			return invalid("node name %q, or it comes twice", n.Name)
		case n.CPUs < 1 || n.MemoryBytes < 1 || n.DiskBytes < 1 || n.Generation < 1 ||
			n.CPUs > CPUsMax || n.MemoryBytes > BytesMax || n.DiskBytes > BytesMax:
			return invalid("node %s: %d cores, %d bytes memory, %d bytes disk, generation %d",
				n.Name, n.CPUs, n.MemoryBytes, n.DiskBytes, n.Generation)
		}
		names[n.Name] = true
	}
	return nil
}

// checkSeat looks at the hosts of one node.
func (t *tx) checkSeat(n *Node) error {
	class := api.ClassCompute
	if n.Role == api.RoleFrontend {
		class = api.ClassGateway
	}
	if err := t.checkHost(n.Host, class); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := t.checkHost(n.Storage, api.ClassStorage); err != nil {
		return fmt.Errorf("volume of node %s: %w", n.Name, err)
	}
	return nil
}

func (t *tx) checkHost(id string, class api.Class) error {
	h, err := t.host(id)
	switch {
	case err != nil:
		return err
	case h.Status != HostAlive:
		return fmt.Errorf("host %s is %s: %w", h.Name, h.Status, ErrHostUnfit)
	case h.Cordoned != "":
		return fmt.Errorf("host %s is cordoned (%s): %w", h.Name, h.Cordoned, ErrHostUnfit)
	case !slices.Contains(h.Classes, class):
		return fmt.Errorf("host %s is not of class %s: %w", h.Name, class, ErrHostUnfit)
	}
	return nil
}

// checkImages: every appliance has a recipe, and every recipe is known or asked
// for along with this.
func (t *tx) checkImages(r *Reservation, wants []ImageWant) error {
	for _, a := range slices.Sorted(maps.Keys(r.Recipes)) {
		recipe := r.Recipes[a]
		_, known := first[Image](t.reader, tabImages, "id", key(recipe))
		if !known && !slices.ContainsFunc(wants, func(w ImageWant) bool { return w.Recipe == recipe }) {
			return fmt.Errorf("appliance %s: recipe %q: %w", a, recipe, ErrUnknownImage)
		}
	}
	return nil
}

// rebook replaces what an owner holds, if there is room for it. It is the same
// test that placement planned by, on what is booked now. Nothing may be left of
// the command when it refuses.
func (t *tx) rebook(owner string, bookings []*Booking) error {
	return t.admit(bookings, t.unbookAll(owner))
}

// admit books, after walking each host's timeline over the window that would be
// held; it refuses if anything would be short at any instant. What the owner
// had before, it may keep, also of a host that is overbooked meanwhile: to be
// renamed or shortened must not cost it its place.
func (t *tx) admit(bookings, had []*Booking) error {
	for _, b := range bookings {
		have, name, err := t.capacity(b.Host)
		if err != nil {
			return err
		}
		var late Amounts
		if !b.From.After(t.now) {
			late = t.overrun(b.Host, t.now)
		}
		from, until := max(b.From.UnixNano(), t.now.UnixNano()), b.Until.UnixNano()
		steps := t.stepsAround(b.Host, from, until)
		for s := range within(steps, from, until) {
			if err := t.room(b, s, late, have, name, had); err != nil {
				return err
			}
		}
		for _, o := range had { // what it had changes at these instants
			for _, instant := range []int64{o.From.UnixNano(), o.Until.UnixNano()} {
				if o.Host != b.Host || instant <= from || instant >= until {
					continue
				}
				if err := t.room(b, Step{instant, at(steps, instant)}, late, have, name, had); err != nil {
					return err
				}
			}
		}
		t.book(b)
	}
	return nil
}

// room says whether a host has what is wanted at one instant. late is what
// others hold past their time: they are expected to be gone a Turnaround from now.
func (t *tx) room(b *Booking, s Step, late, have Amounts, name string, had []*Booking) error {
	held := s.Amounts
	if s.At < t.now.Add(Turnaround).UnixNano() {
		held = held.plus(late)
	}
	sum := held.plus(b.amounts())
	if sum.within(have) {
		return nil
	}
	var own Amounts
	for _, o := range had {
		if o.Host == b.Host && o.From.UnixNano() <= s.At && s.At < o.Until.UnixNano() {
			own = own.plus(o.amounts())
		}
	}
	for _, q := range []struct {
		what                  string
		want, held, have, own int64
	}{
		{"cores", int64(b.CPUs), int64(held.CPUs), int64(have.CPUs), int64(own.CPUs)},
		{"bytes of memory", b.MemoryBytes, held.MemoryBytes, have.MemoryBytes, own.MemoryBytes},
		{"bytes of storage", b.StorageBytes, held.StorageBytes, have.StorageBytes, own.StorageBytes},
		{"clusters", int64(b.Clusters), int64(held.Clusters), int64(have.Clusters), int64(own.Clusters)},
	} {
		if q.want > q.own && q.held+q.want > q.have {
			return fmt.Errorf("%s has %d of %d %s free at %s, %d are wanted: %w", name, q.have-q.held, q.have, q.what,
				time.Unix(0, s.At).UTC().Format(time.RFC3339), q.want, ErrNoCapacity)
		}
	}
	return nil
}

// capacity is what a host has, or how many clusters the pools allow at once.
func (r reader) capacity(host string) (Amounts, string, error) {
	if host == Identifiers {
		m, ok := first[Meta](r, tabMeta, "id", theOne)
		if !ok {
			return Amounts{}, "", ErrNotInitialized
		}
		return Amounts{Clusters: m.Pools.Clusters()}, "the pool of identifiers", nil
	}
	h, err := r.host(host)
	if err != nil {
		return Amounts{}, "", err
	}
	return Amounts{CPUs: h.CPUs, MemoryBytes: h.MemoryBytes, StorageBytes: h.StorageBytes}, "host " + h.Name, nil
}
