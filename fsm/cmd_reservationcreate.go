package fsm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"vcn/api"
)

var (
	// ErrNotFormed: the expected voters have not all joined yet.
	ErrNotFormed = errors.New("cluster is still forming")
	// ErrKeyReused: the idempotency key came before with another request.
	ErrKeyReused = errors.New("idempotency key was used for another request")
	// ErrNoCapacity: a host has not enough cores, memory or storage at some
	// instant. Placement ran on a view that is now old: plan again.
	ErrNoCapacity = errors.New("no capacity")
	// ErrHostUnfit: a host is dead, cordoned, or of the wrong class.
	ErrHostUnfit = errors.New("host is unfit")
	// ErrLeased: an identifier is held by another reservation. Choose again.
	ErrLeased = errors.New("identifier is leased")
	// ErrOutsidePool: an identifier is of no pool of this cluster.
	ErrOutsidePool = errors.New("identifier is outside its pool")
	// ErrUnknownImage: a recipe neither has a record nor is asked for.
	ErrUnknownImage = errors.New("unknown image")
)

// ReservationCreate books all of it or nothing. The leader has chosen hosts,
// identifiers and secrets; Apply checks every one again.
type ReservationCreate struct {
	Key         string // idempotency key, unique per project; may be empty
	RequestHash []byte // of the specification, to tell a reused key
	Reservation Reservation
	Volumes     []Volume
	Leases      []Lease // as LeasesOf(Reservation), in any order
	Images      []ImageWant
}

var _ = register[ReservationCreate](TypeReservationCreate, "ReservationCreate")

// Type is the command's number.
func (ReservationCreate) Type() Type { return TypeReservationCreate }

func (c ReservationCreate) apply(t *tx) error {
	if k, ok := first[keyRow](t.reader, tabKeys, "id", key(c.Reservation.Project, c.Key)); ok && c.Key != "" && k.Expires.After(t.now) {
		return c.repeat(t, k)
	}
	r := clone(&c.Reservation)
	normalize(r, t.now)
	m, err := t.meta()
	if err != nil {
		return err
	}
	if !m.Formed {
		return ErrNotFormed
	}
	for _, check := range []func() error{
		func() error { return t.checkIdentity(r) },
		func() error { return checkTimes(r, t.now) },
		func() error { return t.checkNodes(r) },
		func() error { return t.checkVolumes(r, c.Volumes) },
		func() error { return checkAddresses(r) },
		func() error { return t.checkLeases(r, m.Pools, c.Leases) },
		func() error { return t.checkImages(r, c.Images) },
		func() error { return t.admit(r, c.Volumes) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return c.book(t, r)
}

// repeat answers a create that was seen before.
func (c ReservationCreate) repeat(t *tx, k *keyRow) error {
	if !bytes.Equal(k.Hash, c.RequestHash) {
		return fmt.Errorf("key %q: %w", c.Key, ErrKeyReused)
	}
	r, err := t.reservation(k.Reservation)
	t.result = r
	return err
}

// normalize sets what the FSM keeps itself.
func normalize(r *Reservation, now time.Time) {
	r.State, r.Outcome, r.NodesGone, r.EndIndex = api.StateBooked, "", false, 0
	r.Freed = nil
	r.Start, r.End, r.Provision = r.Start.UTC(), r.End.UTC(), r.Provision.UTC()
	r.Created, r.ReadyAt, r.Closed = now, time.Time{}, time.Time{}
	r.Conditions, r.Phases = nil, nil
	for i := range r.Nodes {
		n := &r.Nodes[i]
		n.State, n.Since, n.Message = NodeWaiting, now, ""
	}
}

// book writes it all.
func (c ReservationCreate) book(t *tx, r *Reservation) error {
	for _, w := range c.Images {
		if err := t.wantImage(w); err != nil {
			return err
		}
	}
	for _, v := range c.Volumes {
		v.Made, v.ImageDigest = false, "" // no host has said so
		t.put(tabVolumes, &v)
	}
	for _, l := range c.Leases {
		t.put(tabLeases, &l)
	}
	t.state.LastVLAN, t.state.LastSubnet = r.VLAN, r.Subnet
	for _, n := range r.Nodes {
		t.state.LastMAC = cmp.Or(n.PublicMAC, n.PrivateMAC)
		t.state.LastPublic = cmp.Or(n.PublicIP, t.state.LastPublic)
	}
	for _, b := range bookingsOf(r, pointers(c.Volumes)) {
		t.book(b)
	}
	if c.Key != "" {
		t.put(tabKeys, &keyRow{
			Project: r.Project, Key: c.Key, Hash: c.RequestHash, Reservation: r.ID, Expires: t.now.Add(KeyLife),
		})
	}
	t.event(r.ID, "", "reservation.booked", "%s: %d nodes from %s to %s", r.Name, len(r.Nodes),
		r.Start.Format(time.RFC3339), r.End.Format(time.RFC3339))
	t.save(r)
	if !r.Provision.After(t.now) {
		t.provision(clone(r))
	}
	done, err := t.reservation(r.ID)
	t.result = done
	return err
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// bookingsOf sums what the reservation takes of each host, by host.
func bookingsOf(r *Reservation, vols []*Volume) []*Booking {
	sums := map[string]*Booking{}
	of := func(host string) *Booking {
		b, ok := sums[host]
		if !ok {
			b = &Booking{Host: host, Reservation: r.ID, From: r.Provision, Until: r.End.Add(Turnaround)}
			sums[host] = b
		}
		return b
	}
	for i := range r.Nodes {
		b := of(r.Nodes[i].Host)
		b.CPUs += r.Nodes[i].CPUs
		b.MemoryBytes += r.Nodes[i].MemoryBytes
	}
	for _, v := range vols {
		of(v.Host).StorageBytes += v.SizeBytes
	}
	out := make([]*Booking, 0, len(sums))
	for _, host := range slices.Sorted(maps.Keys(sums)) {
		if !slices.Contains(r.Freed, host) {
			out = append(out, sums[host])
		}
	}
	return out
}

func (t *tx) checkIdentity(r *Reservation) error {
	if !validID(r.ID) || !validID(r.Name) || !validID(r.Project) {
		return invalid("reservation %q named %q of project %q", r.ID, r.Name, r.Project)
	}
	if _, dup := first[Reservation](t.reader, tabReservations, "id", key(r.ID)); dup {
		return fmt.Errorf("reservation %q: %w", r.ID, ErrExists)
	}
	if o, taken := first[Reservation](t.reader, tabReservations, "name", key(r.Project, r.Name)); taken {
		return fmt.Errorf("%q is the name of reservation %s of project %s: %w", r.Name, o.ID, r.Project, ErrNameTaken)
	}
	return nil
}

func checkTimes(r *Reservation, now time.Time) error {
	switch {
	case r.Provision.Before(now.Add(-LeadMax)):
		return invalid("provisioning time %s is too long ago", r.Provision)
	case r.Start.Before(r.Provision) || r.Start.Sub(r.Provision) > LeadMax:
		return invalid("start %s: want at most %s after provisioning at %s", r.Start, LeadMax, r.Provision)
	case !r.End.After(r.Start) || r.End.Sub(r.Start) > SlotMax:
		return invalid("end %s: want at most %s after start %s", r.End, SlotMax, r.Start)
	case !r.End.After(now) || r.End.After(now.Add(HorizonMax)):
		return invalid("end %s: want a time ahead", r.End)
	}
	return nil
}

func (t *tx) checkNodes(r *Reservation) error {
	if len(r.Nodes) < 1 || len(r.Nodes) > NodesMax {
		return invalid("%d nodes: want 1-%d", len(r.Nodes), NodesMax)
	}
	names := map[string]bool{}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		want := api.ClassCompute
		switch {
		case i == 0 && n.Role != api.RoleFrontend:
			return invalid("first node %q is no frontend", n.Name)
		case i > 0 && n.Role != api.RoleWorker:
			return invalid("node %q is no worker", n.Name)
		case i == 0:
			want = api.ClassGateway
		}
		if !validID(n.Name) || names[n.Name] {
			return invalid("node name %q, or it comes twice", n.Name)
		}
		names[n.Name] = true
		if n.CPUs < 1 || n.MemoryBytes < 1 || n.DiskBytes < 1 || n.Generation < 1 ||
			n.CPUs > CPUsMax || n.MemoryBytes > BytesMax || n.DiskBytes > BytesMax {
			return invalid("node %s: %d cores, %d bytes memory, %d bytes disk, generation %d",
				n.Name, n.CPUs, n.MemoryBytes, n.DiskBytes, n.Generation)
		}
		if err := t.checkHost(n.Host, want); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
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

// checkVolumes: each node has one volume of its own, and no volume is left.
func (t *tx) checkVolumes(r *Reservation, vols []Volume) error {
	byID := map[string]*Volume{}
	for i := range vols {
		v := &vols[i]
		if !validID(v.ID) || byID[v.ID] != nil {
			return invalid("volume id %q, or it comes twice", v.ID)
		}
		byID[v.ID] = v
		if _, dup := first[Volume](t.reader, tabVolumes, "id", key(v.ID)); dup {
			return fmt.Errorf("volume %q: %w", v.ID, ErrExists)
		}
		if err := t.checkHost(v.Host, api.ClassStorage); err != nil {
			return fmt.Errorf("volume %s: %w", v.ID, err)
		}
		if v.SizeBytes > BytesMax {
			return invalid("volume %s of %d bytes", v.ID, v.SizeBytes)
		}
		if v.User == "" || len(v.Secret) < 12 || len(v.Secret) > 64 {
			return invalid("volume %s: user %q, secret of %d characters: want 12-64", v.ID, v.User, len(v.Secret))
		}
	}
	if len(vols) != len(r.Nodes) {
		return invalid("%d volumes for %d nodes", len(vols), len(r.Nodes))
	}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		v := byID[n.Volume]
		switch {
		case v == nil:
			return invalid("node %s: volume %q is not among the volumes", n.Name, n.Volume)
		case v.Reservation != r.ID || v.Node != n.Name:
			return invalid("volume %s is of %s/%s, its node is %s/%s", v.ID, v.Reservation, v.Node, r.ID, n.Name)
		case v.Generation != n.Generation:
			return invalid("volume %s has generation %d, its node %d", v.ID, v.Generation, n.Generation)
		case v.SizeBytes < n.DiskBytes:
			return invalid("volume %s has %d bytes, its node wants %d", v.ID, v.SizeBytes, n.DiskBytes)
		case v.Recipe == "" || v.Recipe != r.Recipes[n.Appliance]:
			return invalid("volume %s is of recipe %q, appliance %s is %q", v.ID, v.Recipe, n.Appliance, r.Recipes[n.Appliance])
		}
	}
	return nil
}

// checkAddresses: private ones are usable and differ; only the frontend has
// public ones, and it has them.
func checkAddresses(r *Reservation) error {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return invalid("subnet %q", r.Subnet)
	}
	last := ip4(subnet.Masked().Addr()) + 1<<(32-subnet.Bits()) - 1
	used := map[netip.Addr]bool{}
	for i := range r.Nodes {
		n := &r.Nodes[i]
		a, err := netip.ParseAddr(n.PrivateIP)
		if err != nil || !a.Is4() || !subnet.Contains(a) || used[a] || a == subnet.Masked().Addr() || ip4(a) == last {
			return invalid("node %s: private address %q is not of %s, or not its own", n.Name, n.PrivateIP, r.Subnet)
		}
		used[a] = true
		if public := n.PublicIP != "" && n.PublicMAC != ""; public != (i == 0) || !public && n.PublicIP+n.PublicMAC != "" {
			return invalid("node %s: public address %q with MAC %q: the frontend has both, workers none", n.Name, n.PublicIP, n.PublicMAC)
		}
	}
	return nil
}

// checkLeases: they are exactly what the reservation needs, of the pools, and
// free.
func (t *tx) checkLeases(r *Reservation, p Pools, leases []Lease) error {
	subnets, err1 := p.subnets()
	publics, err2 := p.publics()
	macs, err3 := p.macs()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	pools := map[string]pool{LeaseVLAN: p.vlans(), LeaseSubnet: subnets, LeasePublic: publics, LeaseMAC: macs}
	missing := map[Lease]bool{}
	want := LeasesOf(*r)
	for _, l := range want {
		missing[l] = true
	}
	if len(missing) != len(want) || len(leases) != len(want) {
		return invalid("%d leases, %d different ones are needed of %d", len(leases), len(missing), len(want))
	}
	held := map[string]bool{}
	for _, l := range leases {
		if !missing[l] {
			return invalid("lease of %s %q for node %q is not needed, or comes twice", l.Kind, l.Value, l.Node)
		}
		delete(missing, l)
		if !pools[l.Kind].has(l.Value) {
			return fmt.Errorf("%s %s: %w", l.Kind, l.Value, ErrOutsidePool)
		}
		o, taken := first[Lease](t.reader, tabLeases, "id", key(l.Kind, l.Value))
		if taken {
			return fmt.Errorf("%s %s is leased by %s: %w", l.Kind, l.Value, o.Reservation, ErrLeased)
		}
		k := string(key(l.Kind, l.Value))
		if held[k] {
			return invalid("%s %s is given to two nodes", l.Kind, l.Value)
		}
		held[k] = true
	}
	return nil
}

// checkImages: every appliance has a recipe, and every recipe is known or asked
// for along with this.
func (t *tx) checkImages(r *Reservation, wants []ImageWant) error {
	asked := map[string]bool{}
	for _, w := range wants {
		asked[w.Recipe] = true
	}
	for _, a := range slices.Sorted(maps.Keys(r.Recipes)) {
		recipe := r.Recipes[a]
		if _, known := first[Image](t.reader, tabImages, "id", key(recipe)); !known && !asked[recipe] {
			return fmt.Errorf("appliance %s: recipe %q: %w", a, recipe, ErrUnknownImage)
		}
	}
	return nil
}

// admit walks each host's timeline over the window that the reservation would
// hold, and refuses if anything would be short at any instant. It is the same
// test that placement planned by, on what is booked now.
func (t *tx) admit(r *Reservation, vols []Volume) error {
	for _, b := range bookingsOf(r, pointers(vols)) {
		h, err := t.host(b.Host)
		if err != nil {
			return err
		}
		var late Booking
		if !b.From.After(t.now) {
			late = t.overrun(b.Host, t.now)
		}
		for s := range t.segmentsIn(b.Host, b.From, b.Until) {
			for _, q := range []struct {
				what             string
				want, held, have int64
			}{
				{"cores", int64(b.CPUs), int64(s.CPUs + late.CPUs), int64(h.CPUs)},
				{"bytes of memory", b.MemoryBytes, s.MemoryBytes + late.MemoryBytes, h.MemoryBytes},
				{"bytes of storage", b.StorageBytes, s.StorageBytes + late.StorageBytes, h.StorageBytes},
			} {
				if q.want > 0 && q.held+q.want > q.have {
					return fmt.Errorf("host %s has %s of %s %s free at %s, %s are wanted: %w", h.Name,
						strconv.FormatInt(q.have-q.held, 10), strconv.FormatInt(q.have, 10), q.what,
						s.From.Format(time.RFC3339), strconv.FormatInt(q.want, 10), ErrNoCapacity)
				}
			}
		}
	}
	return nil
}
